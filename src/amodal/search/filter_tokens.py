"""Tokens of a filter: words, literals and symbols, each with its place in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol

from amodal.data.surrogates import encodable
from amodal.search.description import StoreError
from amodal.search.limits import MAX_FILTER

Kind = Literal["word", "quoted", "string", "number", "symbol", "end"]
SHOWN = 40  # characters of a token in a message

# Each alternative begins with other characters than the rest, and none can match in two ways, so
# that the time grows with the length of the filter only.
_TOKEN = re.compile(
    r"""
      (?P<space>   \s+ )
    | (?P<word>    [^\W\d]\w* )
    | (?P<number>  (?: [0-9]+ (?: \.[0-9]* )? | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? (?!\w) )
    | (?P<string>  ' [^']* (?: '' [^']* )* ' (?!') )
    | (?P<quoted>  " [^"]+ " | ` [^`]+ ` )
    | (?P<comment> -- | /\* )
    | (?P<symbol>  <= | >= | <> | != | [=<>(),+\-*/%] (?!=) )
    """,
    re.VERBOSE,
)
_WRITE_INSTEAD = {  # what cannot begin a token -> how to write it
    "'": "the text that begins here has no closing quote; a quote inside a text is written twice",
    '"': "the name that begins here has no closing quote; texts go in single quotes",
    "`": "the name that begins here has no closing quote",
    "&": "write AND",
    "|": "write OR; texts are not joined in filters",
    "!": "write NOT, or <> for not equal",
    ":": "types are not cast in filters",
    ";": "a filter is one condition, without ;",
    "#": "filters have no comments",
    "$": "filters have no parameters: write the value",
    "?": "filters have no parameters: write the value",
    "~": "write LIKE, with % for any characters",
    "‘": "write straight quotes: 'dog'",
    "’": "write straight quotes: 'dog'",
    "“": "write straight quotes: 'dog'",
    "”": "write straight quotes: 'dog'",
}


@dataclass(frozen=True)
class Token:
    """A part of a filter; `value` is without its quotes."""

    kind: Kind
    value: str
    start: int
    end: int

    def is_(self, *words: str) -> bool:
        """Whether it is one of these symbols or keywords, which are written in capitals."""
        return self.kind in ("word", "symbol") and self.value.upper() in words


def tokens(text: str) -> list[Token]:
    """The tokens of a filter, the last of kind "end".

    Raises:
        StoreError: the filter is empty, too long, no Unicode text, or holds something else.

    Examples:
        >>> [token.value for token in tokens("label = 'it''s'")]
        ['label', '=', "it's", '']
    """
    if len(text) > MAX_FILTER:
        raise StoreError(
            f"the filter has {len(text):,} characters, at most {MAX_FILTER:,} are read; "
            "use IN (…) for lists of values, or several searches"
        )
    if not text.strip():
        raise StoreError("the filter is empty; leave it out, or write a condition: label = 'dog'")
    found: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            _refuse_character(text, place)
        kind, end = match.lastgroup, match.end()
        if kind == "comment":
            refuse(text, place, end, "filters have no comments; a minus before a sign is - (-1)")
        if kind != "space":
            found.append(Token(kind, _unquoted(match[0]), place, end))  # type: ignore[arg-type]
        place = end
    for token in found:
        try:
            token.value.encode()
        except UnicodeEncodeError:
            refuse(text, token.start, token.end, "holds half of a character, it is not Unicode")
    return [*found, Token("end", "", len(text), len(text))]


class Place(Protocol):
    """Where something stands in a filter."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Cursor:
    """The tokens of a filter, read one after the other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = tokens(text)
        self._place = 0

    @property
    def next(self) -> Token:
        return self._tokens[self._place]

    @property
    def after(self) -> Token:
        """The token after the next one."""
        return self._tokens[min(self._place + 1, len(self._tokens) - 1)]

    def advance(self) -> Token:
        """The next token, which has then been read; the end stays where it is."""
        token = self.next
        self._place = min(self._place + 1, len(self._tokens) - 1)
        return token

    def accept(self, *words: str) -> Token | None:
        """The next token, read, if it is one of these symbols or keywords."""
        return self.advance() if self.next.is_(*words) else None

    def written(self, place: Place) -> str:
        """The text at a place, on one line and not longer than a message can show."""
        found = encodable(" ".join(self.text[place.start : place.end].split()))
        return found if len(found) <= SHOWN else found[: SHOWN - 1] + "…"

    def refuse(self, place: Place, problem: str) -> NoReturn:
        refuse(self.text, place.start, place.end, problem)


def refuse(text: str, start: int, end: int, problem: str) -> NoReturn:
    """Raise the error for what stands at a place of a filter."""
    shown = encodable(text[start : min(end, start + SHOWN)])
    what = f"{shown!r}" if shown else "the end"
    raise StoreError(f"the filter cannot be used: at character {start + 1}, {what}: {problem}")


def _refuse_character(text: str, place: int) -> NoReturn:
    character = text[place]
    unclosed = character in "'\"`"
    problem = _WRITE_INSTEAD.get(character, "is not part of a filter")
    if character in "0123456789.":
        problem = "a number or a name was expected; names that begin with a digit go in ` `"
    elif character in "<>=!" and text[place + 1 : place + 2] == "=":
        problem = "comparisons are =, <>, <, <=, > and >="
    refuse(text, place, len(text) if unclosed else place + 1, problem)


def _unquoted(written: str) -> str:
    if written[0] == "'":
        return written[1:-1].replace("''", "'")
    return written[1:-1] if written[0] in '"`' else written
