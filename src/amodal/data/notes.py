"""Notes of a source: rows left out, merged or converted, counted and listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LISTED = 5  # examples of each


@dataclass(frozen=True)
class Note:
    """One thing that a source did, and how often.

    Args:
        what: "files that are not read".
        count: of files, members or items.
        examples: the first of them, or the count of each kind; the last is "..." if there are more.
    """

    what: str
    count: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.examples:
            return f"{self.what}: {self.count:,}"
        return f"{self.what}: {self.count:,} ({'; '.join(self.examples)})"


class Notes:
    """Notes that are counted one occurrence at a time.

    Examples:
        >>> notes = Notes()
        >>> for name in ("a.heic", "b.heic", "c.ppm"):
        ...     notes.add("files that are not read", name, kind=name[2:])
        >>> print(*notes.found())
        files that are not read: 3 (heic 2, such as a.heic; ppm 1, such as c.ppm)
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._examples: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def add(self, what: str, example: str, kind: str | None = None) -> None:
        """Count one; occurrences of a kind are listed as one example."""
        self._counts[what] += 1
        examples = self._examples[what]
        if kind is not None:
            self._kinds[what][kind] += 1
            examples.setdefault(kind, example)
        elif len(examples) < LISTED:
            examples[example] = example

    def found(self) -> tuple[Note, ...]:
        """The notes so far, in the order of their first occurrence."""
        return tuple(Note(what, n, self._listed(what)) for what, n in self._counts.items())

    def _listed(self, what: str) -> tuple[str, ...]:
        examples = self._examples[what]
        kinds = self._kinds.get(what)
        if kinds is None:
            listed, more = list(examples), self._counts[what] > len(examples)
        else:
            most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
            listed = [f"{k} {n}, such as {examples[k]}" for k, n in most[:LISTED]]
            more = len(kinds) > LISTED
        return (*listed, *(["..."] if more else []))


def notes_of(source: Any) -> Sequence[Note]:
    """The notes of a source; none where it keeps none."""
    found: Sequence[Note] = getattr(source, "notes", ())
    return found


def printable(text: str) -> str:
    """A file name as text that can be written: bytes that are not UTF-8 as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
