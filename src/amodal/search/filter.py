"""Filters of a search: conditions on the columns of an index, read and written anew as SQL.

    filter     = and {OR and}
    and        = not {AND not}
    not        = NOT not | condition
    condition  = sum [comparison sum | [NOT] IN (literal, …) | [NOT] BETWEEN sum AND sum
                      | [NOT] LIKE 'pattern' | [NOT] ILIKE 'pattern' | IS [NOT] NULL, TRUE or FALSE]
    sum        = product {+ or - product}
    product    = signed {* or / or % signed}
    signed     = - signed | literal | column | function(sum) | (filter)

Nothing of what the user wrote reaches the engine: names are those of the table, and literals are
written from their values.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import pyarrow as pa

from amodal.search.description import StoreError
from amodal.search.filter_terms import (
    COMPARISONS,
    FUNCTIONS,
    KEYWORDS,
    NUMBERS,
    WRITE_INSTEAD,
    Term,
    Type,
    as_float,
    family,
    is_number,
    named,
    number,
    type_of,
)
from amodal.search.filter_tokens import Cursor, Token, refuse
from amodal.search.limits import MAX_FILTER_DEPTH, MAX_WILDCARDS

MAX_LISTED = 40  # columns in a message


def filter_sql(text: str, schema: pa.Schema, hidden: frozenset[str] = frozenset()) -> str:
    """A filter as SQL of the engine.

    Args:
        text: the filter, such as "label = 'dog' AND NOT (width < 200 OR height < 200)".
        schema: the columns of the table; their names are found in any case.
        hidden: columns that a filter cannot use.

    Raises:
        StoreError: says at which character the filter could not be read, what to write instead,
            and the columns.

    Examples:
        >>> schema = pa.schema({"label": pa.string(), "width": pa.int64()})
        >>> filter_sql("Label = 'it''s' and width > 1.5e2", schema)
        "`label` = 'it''s' AND cast(`width` as double) > 150.0"
        >>> filter_sql("width > 3) OR (true", schema)
        Traceback (most recent call last):
        amodal.search.description.StoreError: the filter cannot be used: at character 10, ')': \
this bracket was not opened. The columns are: label (string), width (int64).
    """
    columns = {f.name: f.type for f in schema if f.name not in hidden and "`" not in f.name}
    try:
        return _Parser(text, columns).filter()
    except StoreError as error:
        raise StoreError(f"{error}. The columns are: {_listed(columns)}.") from None


def _listed(columns: Mapping[str, pa.DataType]) -> str:
    shown = [f"{name} ({type_})" for name, type_ in columns.items()]
    more = len(shown) - MAX_LISTED
    return ", ".join(shown[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


class _Parser:
    """Recursive descent over the tokens, one method per rule of the grammar."""

    def __init__(self, text: str, columns: Mapping[str, pa.DataType]) -> None:
        self._read = Cursor(text)
        self._columns = columns
        self._any_case = {name.lower(): name for name in columns}
        self._open = 0  # rules inside one another, so that a filter cannot exhaust the stack

    def filter(self) -> str:
        found = self._condition(self._or())
        rest = self._read.next
        if rest.kind != "end":
            problem = self._hint(rest) or "AND, OR or the end was expected"
            self._read.refuse(rest, "this bracket was not opened" if rest.is_(")") else problem)
        return found.sql

    # Rules

    def _or(self) -> Term:
        return self._joined("OR", self._and)

    def _and(self) -> Term:
        return self._joined("AND", self._not)

    def _joined(self, word: str, rule: Callable[[], Term]) -> Term:
        first = rule()
        if not self._read.next.is_(word):
            return first
        terms = [self._condition(first)]
        while self._read.accept(word):
            terms.append(self._condition(rule()))
        return Term(
            f" {word} ".join(term.sql for term in terms),
            "boolean",
            first.start,
            terms[-1].end,
            max(term.depth for term in terms),
            is_condition=True,
        )

    def _not(self) -> Term:
        word = self._read.accept("NOT")
        if word is None:
            return self._comparison()
        with self._nested(word):
            term = self._condition(self._not())
        return self._deeper(f"NOT ({term.sql})", "boolean", word.start, term, is_condition=True)

    def _comparison(self) -> Term:
        left = self._sum()
        for word in COMPARISONS:
            if self._read.accept(word):
                found = self._compared(left, word, self._sum())
                if self._read.next.is_(*COMPARISONS):
                    problem = "comparisons are not chained: write 1 < width AND width < 9"
                    self._read.refuse(self._read.next, problem)
                return found
        negated = "NOT " if self._read.accept("NOT") else ""
        for word, rule in _NEGATED.items():
            if self._read.accept(word):
                return rule(self, left, negated + word)
        if negated:
            self._read.refuse(self._read.next, "after NOT, IN, LIKE or BETWEEN was expected")
        if self._read.accept("IS"):
            return self._is(left)
        return left

    def _in(self, left: Term, word: str) -> Term:
        self._expect("(", "write the values in brackets: label IN ('cat', 'dog')")
        values = [self._literal()]
        while self._read.accept(","):
            values.append(self._literal())
        end = self._expect(")", "a comma or the closing bracket of the list was expected")
        if left.type == "boolean":
            self._read.refuse(left, "truth values are not listed: write flag = true")
        left, *values = self._same_type(left, *values)
        sql = f"{left.sql} {word} ({', '.join(value.sql for value in values)})"
        return Term(sql, "boolean", left.start, end.end, left.depth, is_condition=True)

    def _between(self, left: Term, word: str) -> Term:
        low = self._sum()
        self._expect("AND", "write both bounds: width BETWEEN 100 AND 200")
        high = self._sum()
        if left.type == "boolean":
            self._read.refuse(left, "truth values have no order")
        left, low, high = self._same_type(left, low, high)
        return self._condition_of(f"{left.sql} {word} {low.sql} AND {high.sql}", left, low, high)

    def _like(self, left: Term, word: str) -> Term:
        if left.type != "string":
            self._read.refuse(left, f"LIKE compares texts, this is {named(left.type)}")
        pattern = self._read.next
        if pattern.kind != "string":
            self._read.refuse(pattern, "a pattern in single quotes was expected: LIKE '%dog%'")
        if pattern.value.count("%") + pattern.value.count("_") > MAX_WILDCARDS:
            self._read.refuse(pattern, f"a pattern has at most {MAX_WILDCARDS} of % and _")
        right = self._literal()
        if self._read.next.is_("ESCAPE"):
            self._read.refuse(self._read.next, r"the escape is always \: LIKE '100\%'")
        return self._condition_of(f"{left.sql} {word} {right.sql}", left, right)

    def _is(self, left: Term) -> Term:
        negated = "NOT " if self._read.accept("NOT") else ""
        word = self._read.accept("NULL", "TRUE", "FALSE")
        if word is None:
            problem = "IS takes NULL, NOT NULL, TRUE or FALSE; else write ="
            self._read.refuse(self._read.next, problem)
        if not word.is_("NULL"):
            self._condition(left)
        sql = f"({left.sql}) IS {negated}{word.value.upper()}"
        return replace(self._condition_of(sql, left), end=word.end)

    def _sum(self) -> Term:
        return self._arithmetic(("+", "-"), self._product)

    def _product(self) -> Term:
        return self._arithmetic(("*", "/", "%"), self._signed)

    def _arithmetic(self, symbols: tuple[str, ...], rule: Callable[[], Term]) -> Term:
        left = rule()
        while (symbol := self._read.accept(*symbols)) is not None:
            right = rule()
            for term in (left, right):
                if term.type not in NUMBERS:
                    came = named(term.type)
                    self._read.refuse(term, f"{symbol.value} takes numbers, this is {came}")
            float_ = "float" in (left.type, right.type)
            if float_:
                left, right = as_float(left), as_float(right)
            sql = f"{left.sql} {symbol.value} {right.sql}"
            deepest = max(left, right, key=lambda term: term.depth)
            left = self._deeper(sql, "float" if float_ else "integer", left.start, deepest)
            left = replace(left, end=right.end)
        return left

    def _signed(self) -> Term:
        sign = self._read.accept("-", "+")
        if sign is None:
            return self._primary()
        with self._nested(sign):
            term = self._signed()
        if term.type not in NUMBERS:
            self._read.refuse(term, f"{sign.value} takes a number, this is {named(term.type)}")
        if sign.value == "+":
            return term
        if isinstance(term.literal, int | float):
            return number(-term.literal, sign.start, term.end)
        return self._deeper(f"(- {term.sql})", term.type, sign.start, term)

    def _primary(self) -> Term:
        token = self._read.next
        if token.kind in ("string", "number") or token.is_("TRUE", "FALSE", "NULL"):
            return self._literal()
        if self._read.accept("("):
            with self._nested(token):
                inner = self._or()
            end = self._expect(")", "AND, OR or the closing bracket was expected")
            if inner.literal is not None:
                return replace(inner, start=token.start, end=end.end)
            closed = self._deeper(f"({inner.sql})", inner.type, token.start, inner)
            return replace(closed, end=end.end, is_condition=inner.is_condition)
        if token.kind == "word" and self._read.after.is_("("):
            return self._function()
        if token.kind in ("word", "quoted"):
            return self._column()
        self._read.refuse(token, "a column, a value or a bracket was expected")

    def _function(self) -> Term:
        name = self._read.advance()
        function = FUNCTIONS.get(name.value.lower())
        if function is None:
            hint = WRITE_INSTEAD.get(name.value.lower(), f"they have {', '.join(FUNCTIONS)}")
            kind = "list" if name.is_(*KEYWORDS) else "function"
            self._read.refuse(name, f"filters have no {kind} of this name; {hint}")
        opened = self._read.advance()
        with self._nested(opened):
            argument = self._sum()
        end = self._expect(")", f"{name.value} takes one value, and then )")
        if argument.type not in function.takes:
            needed, came = named(function.takes[0]), named(argument.type)
            self._read.refuse(argument, f"{name.value} takes {needed}, this is {came}")
        type_ = function.returns or argument.type
        found = self._deeper(f"{function.sql}({argument.sql})", type_, name.start, argument)
        return replace(found, end=end.end)

    def _column(self) -> Term:
        token = self._read.advance()
        name = token.value if token.value in self._columns else None
        name = name or self._any_case.get(token.value.lower())
        if name is None:
            hint = self._hint(token) or f"there is no such column{self._near(token)}"
            self._read.refuse(token, hint)
        kind, sql = type_of(self._columns[name]), f"`{name}`"
        if kind == "integer" and self._columns[name] != pa.int64():
            sql = f"cast({sql} as bigint)"  # the engine refuses literals beyond a narrow type
        return Term(sql, kind, token.start, token.end)

    def _literal(self) -> Term:
        sign = self._read.accept("-") if self._read.after.kind == "number" else None
        token = self._read.advance()
        start = token.start if sign is None else sign.start
        if token.kind == "number":
            digits = token.value.lstrip("0") or "0"
            whole = digits.isdecimal() and len(digits) <= 20
            value: int | float = int(digits) if whole else float(token.value)
            if math.isinf(value):
                self._read.refuse(token, "is larger than any number of the index")
            return number(value if sign is None else -value, start, token.end)
        if token.kind == "string":
            sql = "'" + token.value.replace("'", "''") + "'"
            return Term(sql, "string", token.start, token.end, literal=token.value)
        if token.is_("TRUE", "FALSE"):
            true = token.is_("TRUE")
            return Term(str(true).lower(), "boolean", token.start, token.end, literal=true)
        if token.is_("NULL"):
            self._read.refuse(token, "nothing equals NULL: write label IS NULL or IS NOT NULL")
        self._read.refuse(token, "a text in single quotes, a number, true or false was expected")

    # Types

    def _compared(self, left: Term, symbol: str, right: Term) -> Term:
        both = (left, right)
        if left.type == right.type == "boolean":
            if any(term.is_condition for term in both):
                self._read.refuse(left, "conditions are not compared: join them with AND, OR, NOT")
            if symbol not in ("=", "<>", "!="):
                self._read.refuse(left, "truth values have no order: write flag = true")
        left, right = self._same_type(left, right)
        return self._condition_of(f"{left.sql} {symbol} {right.sql}", left, right)

    def _same_type(self, left: Term, *others: Term) -> list[Term]:
        """The terms as the engine can compare them: numbers with numbers, texts with texts."""
        terms = [left, *others]
        for term in others:
            if "other" in (left.type, term.type) or family(left) != family(term):
                self._refuse_pair(*sorted((left, term), key=lambda t: t.literal is not None))
        return [as_float(t) for t in terms] if any(t.type == "float" for t in terms) else terms

    def _refuse_pair(self, one: Term, literal: Term) -> NoReturn:
        """Refuse two terms of different types, of which the second may be a literal."""
        name = self._read.written(one)
        wanted = literal.literal
        hint = ""
        if one.type == "other":
            hint = f"; it can only be tested with {name} IS NULL"
        elif wanted is not None and one.type == "string":
            hint = f"; write it in quotes: '{self._read.written(literal)}'"
        elif isinstance(wanted, str) and one.type in NUMBERS and is_number(wanted):
            hint = f"; write it without quotes: {wanted.strip()}"
        elif one.type == "boolean":
            hint = f"; write {name} = true or {name} = false"
        self._read.refuse(
            literal if wanted is not None else one,
            f"{name} is {named(one.type)}, compared with {named(literal.type)}{hint}",
        )

    def _condition(self, term: Term) -> Term:
        if term.type != "boolean":
            name = self._read.written(term)
            value = "'dog'" if term.type == "string" else "3"
            self._read.refuse(
                term, f"is {named(term.type)}, a condition was expected, such as {name} = {value}"
            )
        return term

    def _condition_of(self, sql: str, *terms: Term) -> Term:
        depth = max(term.depth for term in terms)
        return Term(sql, "boolean", terms[0].start, terms[-1].end, depth, is_condition=True)

    # Depth

    @contextmanager
    def _nested(self, token: Token) -> Iterator[None]:
        self._open += 1
        self._check_depth(self._open, token.start, token.end)
        yield
        self._open -= 1

    def _deeper(
        self, sql: str, type_: Type, start: int, inner: Term, *, is_condition: bool = False
    ) -> Term:
        self._check_depth(inner.depth + 1, start, inner.end)
        return Term(sql, type_, start, inner.end, inner.depth + 1, is_condition=is_condition)

    def _check_depth(self, depth: int, start: int, end: int) -> None:
        if depth > MAX_FILTER_DEPTH:
            refuse(self._read.text, start, end, f"is nested more than {MAX_FILTER_DEPTH} deep")

    # Messages

    def _expect(self, word: str, problem: str) -> Token:
        if not self._read.next.is_(word):
            self._read.refuse(self._read.next, self._hint(self._read.next) or problem)
        return self._read.advance()

    def _hint(self, token: Token) -> str | None:
        """How to write what a filter does not have, for a word of SQL or a misplaced text."""
        if token.kind == "quoted":
            name = self._read.written(token)[1:-1]
            return f"there is no column of this name; texts go in single quotes: '{name}'"
        if token.kind == "string":
            return "AND, OR or a comparison was expected before this text"
        if token.is_(*KEYWORDS):
            return "a column or a value was expected before this word"
        return WRITE_INSTEAD.get(token.value.lower()) if token.kind == "word" else None

    def _near(self, token: Token) -> str:
        near = difflib.get_close_matches(token.value.lower(), self._any_case, n=2, cutoff=0.6)
        meant = " or ".join(self._any_case[name] for name in near)
        return f", did you mean {meant}?" if near else "; texts go in single quotes: label = 'dog'"


_NEGATED: dict[str, Callable[[_Parser, Term, str], Term]] = {  # may follow NOT
    "IN": _Parser._in,
    "BETWEEN": _Parser._between,
    "LIKE": _Parser._like,
    "ILIKE": _Parser._like,
}
