"""The grammar of filters: what it keeps, what it refuses, and that nothing gets around it."""

import re

import numpy as np
import pyarrow as pa
import pytest
from crafted_filters import ROWS, Filters, hostile

from amodal.search.description import StoreError
from amodal.search.filter import filter_sql
from amodal.search.limits import MAX_FILTER, MAX_FILTER_DEPTH, MAX_K
from amodal.search.rows import Row
from amodal.search.store import VectorStore

QUERY = np.eye(4, dtype=np.float32)[0]
SCHEMA = pa.schema(
    {
        "label": pa.string(),
        "width": pa.int64(),
        "row": pa.int32(),
        "score": pa.float64(),
        "flag": pa.bool_(),
        "taken": pa.date32(),
        "file name": pa.string(),
        "in": pa.int64(),
        "größe": pa.int64(),
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    vectors = np.random.default_rng(0).normal(size=(len(ROWS), 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    store = VectorStore.create(tmp_path_factory.mktemp("index"), 4, fingerprint="f")
    store.add(
        Row(str(i), input, vectors[i], metadata={n: v for n, v in row.items() if v is not None})
        for i, row in enumerate(ROWS)
        for input in ("image", "text")
    )
    return store


def found(store, where):
    return {int(hit.id) for hit in store.search(QUERY, 1000, where=where, input="image")}


def test_random_filters_keep_the_rows_of_an_independent_evaluation(store):
    filters = Filters(0)
    for _ in range(120):
        text, value = filters.one()
        kept = {i for i, row in enumerate(ROWS) if value(row) is True}
        assert found(store, text) == kept, text


@pytest.mark.parametrize(
    "where", ["number >= -99 -- ", "number >= -99) OR (true", "true) /* */ OR (true", "true) -- "]
)
def test_comments_and_brackets_do_not_drop_the_input(store, where):
    for call in (store.search, lambda *a, **o: store.count("image", where)):
        with pytest.raises(StoreError, match=r"comments|bracket"):
            call(QUERY, 20, where=where, input="image")


def test_hostile_filters_are_refused_or_keep_rows_of_the_input(store):
    messages = []
    for where in hostile(1, 250):
        try:
            hits = store.search(QUERY, 1000, where=where, input="image")
        except StoreError as error:
            messages.append(str(error))
        else:
            assert {hit.input for hit in hits} <= {"image"}
    assert len(messages) > 100
    assert all("\n" not in message and len(message) < 700 for message in messages)


def test_a_statement_after_the_filter_of_a_deletion_is_refused(store):
    before = store.count()
    for where in ("number = 99; nonsense", "true -- ", "true) OR (true"):
        with pytest.raises(StoreError, match="cannot be used"):
            store.delete(where=where)
    assert store.count() == before


def test_an_operator_between_input_and_filter_does_not_widen_the_search(store):
    hits = store.search(QUERY, 1000, where="number > 0 OR true", input="image")
    assert {hit.input for hit in hits} == {"image"}
    assert len(hits) == len(ROWS)


@pytest.mark.parametrize(
    ("where", "sql"),
    [
        ("label='a''b'", "`label` = 'a''b'"),
        ("LABEL = '\\'", "`label` = '\\'"),
        ("width > 2.5", "cast(`width` as double) > 2.5"),
        ("2.5 < width", "2.5 < cast(`width` as double)"),
        ("width IN (1, -2.5)", "cast(`width` as double) IN (1.0, -2.5)"),
        ("row < 3000000000", "cast(`row` as bigint) < 3000000000"),
        ("width < 99999999999999999999", "cast(`width` as double) < 1e+20"),
        ("score > 3", "`score` > 3.0"),
        ("width % 20 = 3 AND Width < 9", "`width` % 20 = 3 AND `width` < 9"),
        ("width - -1 > - - 3", "`width` - -1 > 3"),
        ("trim(label) = ''", "btrim(`label`) = ''"),
        ("flag or not Flag", "`flag` OR NOT (`flag`)"),
        ("flag IS NOT TRUE", "(`flag`) IS NOT TRUE"),
        ("taken IS NULL", "(`taken`) IS NULL"),
        ("`file name` IS NULL AND `in` = 1", "(`file name`) IS NULL AND `in` = 1"),
        ("größe = 1", "`größe` = 1"),
        ("label\n=\t'a\nb'", "`label` = 'a\nb'"),
    ],
)
def test_filters_are_written_anew(where, sql):
    assert filter_sql(where, SCHEMA) == sql


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "lable = 'dog'",
            r"at character 1, 'lable': there is no such column.*mean label\?",
        ),
        ("nope > 1", r"no such column.*The columns are: label \(string\), width \(int64\)"),
        ('label = "dog"', "at character 9.*texts go in single quotes: 'dog'"),
        ("label = ‘dog’", "straight quotes: 'dog'"),
        ("label = dog", "no such column; texts go in single quotes"),
        ("label = 'dog", "at character 9.*no closing quote"),
        ("label == 'dog'", "at character 7.*comparisons are =, <>"),
        ("label", "is a text, a condition was expected, such as label = 'dog'"),
        ("width", "is a number, a condition was expected, such as width = 3"),
        ("width = '3'", "write it without quotes: 3"),
        ("width = 'three'", "width is a number, compared with a text"),
        ("label = 3", "write it in quotes: '3'"),
        ("flag = 1", "write flag = true or flag = false"),
        ("flag > true", "truth values have no order"),
        ("(width > 3) = true", "conditions are not compared"),
        ("label = NULL", "write label IS NULL"),
        ("width IN (1, NULL)", "write label IS NULL"),
        ("taken > '2024-01-01'", "can only be tested with taken IS NULL"),
        ("taken > DATE '2024-01-01'", "dates are compared as texts"),
        ("length(repeat(label, 20000000)) > 1", "at character 8, 'repeat'.*lower, upper"),
        ("contains(label, 'dog')", "write label LIKE '%dog%'"),
        ("regexp_like(label, 'x')", "patterns are written with LIKE"),
        ("cast(label as int) = 1", "types are not cast"),
        ("flag::int = 1", "types are not cast"),
        ("lower(width) = 'x'", "lower takes a text, this is a number"),
        ("lower(label, label) = 'x'", "lower takes one value"),
        ("label || 'x' = 'y'", "write OR; texts are not joined"),
        ("width > 3 && flag", "write AND"),
        ("width > 3 -- or more", "filters have no comments"),
        ("width > 3 /* or more */", "filters have no comments"),
        ("width > 3; DROP TABLE x", "one condition, without ;"),
        ("width > ?", "filters have no parameters"),
        ("width > 3) OR (true", "at character 10.*not opened"),
        ("(width > 3", "at character 11, the end: AND, OR or the closing bracket"),
        ("1 < width < 9", "write 1 < width AND width < 9"),
        ("width BETWEEN 1", "write both bounds"),
        ("width IN 1", "values in brackets"),
        ("width IN ()", "a text in single quotes, a number, true or false"),
        ("label LIKE label", "a pattern in single quotes"),
        ("label LIKE 'a!%' ESCAPE '!'", "the escape is always"),
        ("width LIKE '3%'", "LIKE compares texts, this is a number"),
        ("label LIKE '" + "%a" * 40 + "'", "at most 32"),
        ("width + label > 1", r"\+ takes numbers, this is a text"),
        ("width IS 3", "else write ="),
        ("width NOT 3", "IN, LIKE or BETWEEN was expected"),
        ("SELECT 1", "one condition on the columns"),
        ("width > 1e999", "larger than any number"),
        ("width > 3abc", "begin with a digit"),
        ("embedding IS NULL", "no such column"),
        ("\ud800 = 1", "not part of a filter"),
        ("label = '\ud800'", "not Unicode"),
        ("  ", "the filter is empty"),
        ("x" * (MAX_FILTER + 1), "has 10,001 characters, at most 10,000"),
    ],
)
def test_refusals_say_where_and_what_to_write(where, message):
    with pytest.raises(StoreError, match=message) as refused:
        filter_sql(where, SCHEMA)
    assert len(str(refused.value)) < 600
    assert "\n" not in str(refused.value)


def test_depth_is_bounded_and_the_deepest_filters_reach_the_engine(store):
    deepest = MAX_FILTER_DEPTH
    forms = {
        "brackets": lambda n: "(" * n + "number = 1" + ")" * n,
        "brackets with AND": lambda n: "(flag AND " * n + "number > 0" + ")" * n,
        "NOT": lambda n: "NOT " * n + "flag",
        "NOT in turn": lambda n: "NOT (flag OR " * (n // 2) + "number = 1" + ")" * (n // 2),
        "functions": lambda n: "lower(" * n + "label" + ")" * n + " = 'dog'",
        "sum": lambda n: "number" + " + 1" * n + " > 5",
        "sum on the right": lambda n: "(1 + " * (n // 2) + "number" + ")" * (n // 2) + " > 5",
        "signs": lambda n: "- (" * (n // 2) + "number" + ")" * (n // 2) + " > 5",
    }
    for name, form in forms.items():
        assert store.count(where=form(deepest)) >= 0, name
        for more in (deepest + 2, 700):
            with pytest.raises(StoreError, match="nested more than"):
                store.count(where=form(more))


def test_long_lists_and_chains_are_read(store):
    assert store.count("image", "number IN (" + ", ".join(map(str, range(1500))) + ")") > 0
    assert store.count("image", "false OR " * 900 + "true") == len(ROWS)
    assert store.count("image", " AND ".join(["number > -30"] * 500)) > 0


def test_what_the_engine_cannot_compute_is_a_refusal(store):
    with pytest.raises(StoreError, match=r"'number / 0 = 1' cannot be computed: .*zero"):
        store.count(where="number / 0 = 1")


def test_names_and_texts_with_quotes_stay_what_they_are(tmp_path):
    store = VectorStore.create(tmp_path / "index", 4, fingerprint="f")
    texts = ["it's", "a\\", "'' OR true", "a' -- ", 'say "x"', "\x00", "é", "e\u0301", "`"]
    store.add(Row(str(i), "image", QUERY, metadata={"a b": t}) for i, t in enumerate(texts))
    for i, text in enumerate(texts):
        quoted = "'" + text.replace("'", "''") + "'"
        assert found(store, f"`a b` = {quoted}") == {i}


def test_every_message_fits_on_one_line_with_many_columns():
    schema = pa.schema({f"column_{i}": pa.int64() for i in range(3000)})
    with pytest.raises(StoreError, match="and 2,960 more") as refused:
        filter_sql("colum_7 = 1", schema)
    assert re.search(r"did you mean column_7\b", str(refused.value))


def test_k_is_bounded(store):
    assert len(store.search(QUERY, MAX_K)) == 2 * len(ROWS)
    for k in (MAX_K + 1, 50_000, 10**12):
        with pytest.raises(StoreError, match="at most 1,000"):
            store.search(QUERY, k)
