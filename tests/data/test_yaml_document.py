"""YAML that people write is read as they mean it, or refused in one line with its place."""

import pytest

from amodal.data.yaml_document import YamlError, YamlSyntaxError, parse_value, parse_yaml, read_yaml


def test_keys_given_twice_are_refused_with_both_lines():
    text = "data: {a: 1}\ntrain:\n  seed: 1\n  epochs: 2\n  seed: 3\n"
    with pytest.raises(YamlError, match="line 5: the key `seed` is on line 3 already"):
        parse_yaml(text)
    with pytest.raises(YamlError, match="line 1: the key `1` is on line 1 already"):
        parse_yaml("{1: a, 1: b}")
    assert parse_yaml("a: {x: 1}\nb: {x: 1}") == {"a": {"x": 1}, "b": {"x": 1}}


def test_a_key_beside_merged_ones_is_not_twice():
    text = "base: &base {width: 8, depth: 2}\nsmall: {<<: *base, width: 4}\n"
    assert parse_yaml(text)["small"] == {"width": 4, "depth": 2}


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{a: " * 5_000, "- " * 3_000 + "x", "[" * 100 + "]" * 100],
    ids=["open lists", "open mappings", "block", "closed lists"],
)
def test_deep_yaml_is_one_line(text):
    with pytest.raises(YamlError, match="nested deeper than 64") as refusal:
        parse_yaml(text)
    assert len(str(refusal.value).splitlines()) == 1


def test_aliases_that_nest_or_multiply_are_refused():
    nested = "- &a0 [x]\n" + "".join(f"- &a{i} [*a{i - 1}]\n" for i in range(1, 100))
    with pytest.raises(YamlError, match="nested deeper"):
        parse_yaml(nested)
    many = "- &a0 [x, x]\n" + "".join(f"- &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9))
    with pytest.raises(YamlError, match="more than 1,000,000 values"):
        parse_yaml(many)
    with pytest.raises(YamlError, match="contains itself"):
        parse_yaml("&a [*a]")


@pytest.mark.parametrize("text", ["9" * 4500, "-" + "9" * 4500])
def test_a_number_of_4500_digits_is_one_short_line(text):
    with pytest.raises(YamlError, match=r"^line 1: -?9+… \(4,50\d characters\) is not") as refusal:
        parse_yaml("{seed: " + text + "}")
    assert len(str(refusal.value)) < 250


def test_text_that_is_not_yaml_names_line_and_column():
    with pytest.raises(YamlSyntaxError, match=r"^not YAML at line 3, column \d+: ") as refusal:
        parse_yaml("a: 1\nb: [1, 2\nc: 3")
    assert "\n" not in str(refusal.value)
    with pytest.raises(YamlSyntaxError, match="not YAML"):
        parse_yaml("a: \x00")


def test_no_object_is_built():
    with pytest.raises(YamlSyntaxError, match="constructor"):
        parse_yaml("!!python/object/apply:os.system ['true']")


def test_a_date_stays_text():
    assert parse_yaml("{a: 2024-01-31, b: 2024-13-45}") == {"a": "2024-01-31", "b": "2024-13-45"}


def test_a_file_is_named(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("a: 1\na: 2\n")
    with pytest.raises(YamlError, match=r"recipe\.yaml: line 2: the key `a`"):
        read_yaml(file)
    file.write_bytes(b"a: \xff\xfe")
    with pytest.raises(YamlError, match="UTF-8"):
        read_yaml(file)
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(file) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*.csv", "*.csv"),
        ("@x.csv", "@x.csv"),
        ("%x.csv", "%x.csv"),
        ("!x.csv", "!x.csv"),
        ("&x.csv", "&x.csv"),
        ("[1] x.csv", "[1] x.csv"),
        ("a #b.csv", "a #b.csv"),
        ("#b.csv", "#b.csv"),
        ("2024-01-31", "2024-01-31"),
        ("`x`", "`x`"),
        ("a: b: c", "a: b: c"),
        ("'0.1'", "0.1"),
        ('"a # b"', "a # b"),
        ("scenes:size=8", "scenes:size=8"),
        ("5e-4", "5e-4"),
        ("0.1", 0.1),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("", None),
        ("[8, 16]", [8, 16]),
        ("{kind: mlp, dim: 8}", {"kind": "mlp", "dim": 8}),
    ],
)
def test_a_value_of_an_option_is_text_unless_it_is_plainly_more(text, value):
    assert parse_value(text) == value


def test_a_value_with_a_key_given_twice_is_refused():
    with pytest.raises(YamlError, match="`dim`"):
        parse_value("{dim: 1, dim: 2}")
