"""What goes into a table comes out of it, as independent readers say."""

import csv
import json
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amodal.data.record import BrokenRecordError
from amodal.data.sources.table import TableConfig

FORMATS = ("csv", "tsv", "jsonl", "parquet")
COLUMNS = ("key", "image", "caption", "label", "n", "x")

# Letters of several scripts, and everything that a format has to escape.
letters = st.sampled_from(list("ab é的😀\u0301\"',;|\t\n\\{}[]#=-"))
words = st.text(letters, max_size=12)
names = st.one_of(words, st.sampled_from(["007", "8001", "8001.0", "NA", "None", "1e5", "true"]))
whole = st.integers(-(10**12), 10**12)
real = st.floats(allow_nan=False, allow_infinity=False, width=32)
row = st.fixed_dictionaries(
    {
        "key": st.one_of(names, st.integers(0, 5).map(str)),
        "image": st.sampled_from(["", *(f"{i}.png" for i in range(6))]),
        "caption": words,
        "label": names,
        "n": st.none() | whole,
        "x": st.none() | real,
    }
)
tables = st.lists(row, min_size=1, max_size=12)


def write(file, rows):
    """Write rows with the csv module, json or pyarrow."""
    suffix = file.suffix[1:]
    if suffix == "parquet":
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        kinds = {"n": pa.int64(), "x": pa.float64()}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
        pq.write_table(pa.table(columns, schema=schema), file)
    elif suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if suffix == "tsv" else ",")
            writer.writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])


def read_independently(file):
    """The cells as they are in the file, read by other means than those of the package."""
    suffix = file.suffix[1:]
    if suffix == "parquet":
        return pq.read_table(file).to_pylist()
    if suffix == "jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if suffix == "tsv" else ","))


def opened(file, columns):
    quotes = {"quotes": True} if file.suffix == ".tsv" else {}
    return TableConfig(path=str(file), columns={"text": "caption", **columns}, **quotes).open()


def read(source):
    """Row number -> record or reason; every item says in which row it begins."""
    found, broken = {}, {}
    for i in range(len(source)):
        try:
            record = source[i]
        except BrokenRecordError as error:
            broken[int(error.origin.rsplit(" ", 1)[1])] = error.reason
        else:
            found[int(record["origin"].rsplit(" ", 1)[1])] = record
    return found, broken


def number(cell, kind):
    return None if cell in ("", None) else kind(cell)


def run(test):
    """With a fresh folder and cache per example: files of one name change within an instant."""
    with tempfile.TemporaryDirectory() as folder:
        kept = datasets.config.HF_DATASETS_CACHE
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        try:
            test(Path(folder))
        finally:
            datasets.config.HF_DATASETS_CACHE = kept


# Without shrinking, which opens a table hundreds of times.
few = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("suffix", FORMATS)
@few
@given(rows=tables)
def test_every_row_comes_out_as_it_is_written(suffix, rows):
    def test(folder):
        file = folder / f"t.{suffix}"
        write(file, rows)
        cells = read_independently(file)
        columns = {"image": None, "label": "label", "empty": "missing"}
        found, broken = read(opened(file, columns))
        assert not broken
        assert len(found) == len(rows)
        for place, want in enumerate(cells, start=1):
            record = found[place]
            caption = (want["caption"] or "").strip()
            assert record.get("text") == ([caption] if caption else None)
            label = want["label"]
            assert record.get("label") == (label if label and label.strip() else None)
            assert record["n"] == number(want["n"], int)
            assert record["x"] == number(want["x"], float)

    run(test)


@pytest.mark.parametrize("suffix", FORMATS)
@few
@given(rows=tables)
def test_items_and_listed_exclusions_are_all_rows(suffix, rows):
    def test(folder):
        file = folder / f"t.{suffix}"
        write(file, rows)
        cells = read_independently(file)
        source = opened(file, {"id": "key", "label": "label"})
        found, broken = read(source)
        lost = {int(e.origin.rsplit(" ", 1)[1]) for e in source.broken_rows}
        captions = [(cell["caption"] or "").strip() for cell in cells]
        used = [c for n, c in enumerate(captions, start=1) if n not in broken and n not in lost]
        assert not lost & set(broken)
        assert sorted(t for record in found.values() for t in record["text"]) == sorted(used)
        for place in (*broken, *lost):
            cell = cells[place - 1]
            assert not captions[place - 1] or not (cell["image"] or "").strip()
        for place, record in found.items():
            key = cells[place - 1]["key"]
            here = f"{file} row {place}"
            image = (cells[place - 1]["image"] or "").strip()
            assert record["id"] == (key if key and key.strip() else image or here)

    run(test)
