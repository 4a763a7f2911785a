"""Terms of a filter: pieces of SQL with their types, and the functions and words of the grammar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

Type = Literal["string", "integer", "float", "boolean", "other"]
NUMBERS: tuple[Type, ...] = ("integer", "float")


@dataclass(frozen=True)
class Function:
    """A function whose result is not larger than its argument."""

    sql: str
    takes: tuple[Type, ...]
    returns: Type | None = None  # None: the type of its argument


FUNCTIONS = {
    "lower": Function("lower", ("string",)),
    "upper": Function("upper", ("string",)),
    "trim": Function("btrim", ("string",)),
    "length": Function("length", ("string",), "integer"),
    "char_length": Function("length", ("string",), "integer"),
    "abs": Function("abs", NUMBERS),
    "round": Function("round", NUMBERS, "float"),
}
_DATES = "dates are compared as texts: taken >= '2024-05-01'"
WRITE_INSTEAD = {  # words of SQL that a filter does not have -> how to write it
    **dict.fromkeys(("contains", "instr", "strpos", "position"), "write label LIKE '%dog%'"),
    **dict.fromkeys(("starts_with", "left", "substr", "substring"), "write label LIKE 'dog%'"),
    **dict.fromkeys(("ends_with", "right"), "write label LIKE '%dog'"),
    **dict.fromkeys(
        ("regexp", "rlike", "similar", "regexp_like", "regexp_match", "glob"),
        "patterns are written with LIKE: % for any characters, _ for one",
    ),
    **dict.fromkeys(("date", "timestamp", "now", "current_date", "to_date"), _DATES),
    **dict.fromkeys(("coalesce", "ifnull", "nullif", "isnull"), "write label IS NULL"),
    **dict.fromkeys(("cast", "try_cast"), "types are not cast in filters"),
    **dict.fromkeys(
        ("select", "case", "exists", "any", "all", "where", "order", "group", "limit"),
        "a filter is one condition on the columns of a row",
    ),
}
COMPARISONS = ("=", "<>", "!=", "<", "<=", ">", ">=")
KEYWORDS = ("AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "IS", "NULL", "BETWEEN", "TRUE", "FALSE")


@dataclass(frozen=True)
class Term:
    """A part of a filter that was read.

    Args:
        sql: the same for the engine.
        type: of its value; "boolean" for a condition.
        start, end: its place in the filter.
        depth: of the tree of operators and functions.
        literal: its value; None for what is computed from a row.
        is_condition: it was compared with something, and is not the value of a column.
    """

    sql: str
    type: Type
    start: int
    end: int
    depth: int = 0
    literal: bool | int | float | str | None = None
    is_condition: bool = False


def type_of(column: pa.DataType) -> Type:
    tests: list[tuple[Callable[[pa.DataType], bool], Type]] = [
        (pa.types.is_string, "string"),
        (pa.types.is_large_string, "string"),
        (pa.types.is_integer, "integer"),
        (pa.types.is_floating, "float"),
        (pa.types.is_boolean, "boolean"),
    ]
    return next((type_ for test, type_ in tests if test(column)), "other")


def family(term: Term) -> str:
    return "number" if term.type in NUMBERS else term.type


def named(type_: Type) -> str:
    names = {"string": "a text", "boolean": "a truth value", "other": "of a type without order"}
    return names.get(type_, "a number")


def number(value: int | float, start: int, end: int) -> Term:
    if isinstance(value, int) and abs(value) < 2**63:
        return Term(str(value), "integer", start, end, literal=value)
    return Term(repr(float(value)), "float", start, end, literal=float(value))


def as_float(term: Term) -> Term:
    """An integer as the engine compares it with fractions, which it refuses beside integers."""
    if term.type != "integer":
        return term
    if term.literal is not None:
        return replace(term, sql=repr(float(term.literal)), type="float")
    return replace(term, sql=f"cast({term.sql} as double)", type="float")


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
