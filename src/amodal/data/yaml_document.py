"""YAML that people write: one reader, whose refusals are one line and say where."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 64  # of mappings and lists inside each other
TOO_DEEP = f"nested deeper than {MAX_DEPTH} mappings or lists"
MAX_VALUES = 1_000_000  # with every alias counted as often as it is used


class YamlError(ValueError):
    """Text that is not YAML, or YAML that nobody can have meant; one line."""


class YamlSyntaxError(YamlError):
    """Text that is not YAML."""


class _Loader(yaml.SafeLoader):
    """Plain values only: refuses keys that are given twice and what is nested too deeply."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise YamlError(f"line {line}: {TOO_DEEP}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[Any, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            line = key.start_mark.line + 1
            if isinstance(name, Hashable):
                if name in first:
                    raise YamlError(
                        f"line {line}: the key `{name}` is on line {first[name]} already; "
                        "one of them would be lost"
                    )
                first[name] = line
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (YamlError, yaml.YAMLError):
            raise
        except (ValueError, OverflowError, TypeError, AttributeError) as error:
            shown = str(getattr(node, "value", ""))
            what = shown if len(shown) < 60 else f"{shown[:20]}… ({len(shown):,} characters)"
            line = node.start_mark.line + 1
            raise YamlError(f"line {line}: {what} is not a value: {error}") from None


# 2024-01-31 stays text: no key takes a date, and a file may have such a name.
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: mappings, lists, texts, numbers, true, false and null.

    Raises:
        YamlSyntaxError: it is not YAML.
        YamlError: a key is given twice, it is nested too deeply, or a number is too long.

    Examples:
        >>> from amodal.data.yaml_document import parse_yaml
        >>> parse_yaml("{size: 32, widths: [8, 16]}")
        {'size': 32, 'widths': [8, 16]}
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise YamlSyntaxError(f"not YAML{where}: {problem}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        YamlError: names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise YamlError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        return parse_yaml(text)
    except YamlError as error:
        raise type(error)(f"{path}: {error}") from None


def parse_value(text: str) -> Any:
    """The value of an option such as `--set KEY=VALUE`: a number, true, false, null, a list or
    mapping, or a quoted text; everything else as it is written.

    `*.csv`, `&x`, `@x`, `a #b.csv` and 2024-01-31 are texts, though YAML reads them otherwise.

    Raises:
        YamlError: a key is given twice, it is nested too deeply, or a number is too long.

    Examples:
        >>> from amodal.data.yaml_document import parse_value
        >>> parse_value("0.1"), parse_value("[8, 16]"), parse_value("*.csv")
        (0.1, [8, 16], '*.csv')
    """
    start = text.lstrip()[:1]
    try:
        value = parse_yaml(text)
    except YamlSyntaxError:
        return text
    if isinstance(value, str):
        return value if start in ("'", '"', "|", ">") and start else text.strip()
    return text.strip() if start in ("&", "!", "#") and start else value


def _check_size(node: Any, known: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """Values below a node and levels of nesting, with aliases as often as they are used."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise YamlError(f"line {line}: a value that contains itself")
    if id(node) not in known:
        below: list[Any] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        found = [_check_size(part, known, above | {id(node)}) for part in below]
        size = 1 + sum(size for size, _ in found)
        depth = 1 + max((depth for _, depth in found), default=0)
        if size > MAX_VALUES:
            raise YamlError(f"line {line}: more than {MAX_VALUES:,} values through its aliases")
        if depth > MAX_DEPTH:
            raise YamlError(f"line {line}: {TOO_DEEP}")
        known[id(node)] = (size, depth)
    return known[id(node)]
