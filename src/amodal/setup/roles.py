"""Which column has which role for a task, with the reason; asked where it is not plain."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from amodal.data.record import DataError
from amodal.modalities.registry import modality
from amodal.setup.columns import Column

Task = Literal["search", "prediction", "questions", "captions"]
# Names by which columns of a role are known, the surest first; compared in lower case.
NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "questions"),
    "answer": ("answer", "answers", "multiple_choice_answer"),
    "text": (
        *("text", "caption", "captions", "description", "sentence", "sentences", "alt_text"),
        *("alt", "title", "name", "comment", "transcript", "prompt", "raw"),
    ),
    "target": ("target", "label", "class", "y", "category", "price", "score", "rating"),
    "id": ("id", "item_id", "uid", "uuid", "sku", "key"),
}
TEXT = "text"  # the input that captions fill
SHOWN = 8  # columns that a message names
COLUMNS = "PATH written as 'table:path=PATH,columns={{{input}: COLUMN, …}}'"  # for a message
NUMBERED = re.compile(r"(.*?)[ _-]?\d+")
SEVERAL = 0.1  # share of the cells with "|" from which on they hold several classes
FEW_NUMBERS = 10  # different whole numbers that are classes rather than quantities


class Choose(Protocol):
    """Asks a person, or takes the guess.

    Args:
        question: what is to be chosen.
        options: all there are.
        guess: the most plausible one; None: there is none, and without an answer work ends.
        option: of the command line that answers the question.

    Raises:
        DataError: there is nobody to ask, and no guess.
    """

    def __call__(
        self, question: str, options: Sequence[str], guess: str | None, option: str
    ) -> str: ...


@dataclass
class Roles:
    """The role of each column that a recipe reads.

    Args:
        task: what is trained.
        inputs: input of the model -> its column, or several columns of captions.
        numbers, categories: columns of a table that a prediction reads.
        target: the column that is predicted.
        target_task: how, see `models.target.TargetConfig`.
        id: the column that names the items.
        question, answer: columns of these.
        reasons: a line for each choice.
    """

    task: Task
    inputs: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    target: str | None = None
    target_task: str = ""
    id: str | None = None
    question: str | None = None
    answer: str | None = None
    reasons: list[str] = field(default_factory=list)


def roles_of(
    columns: Sequence[Column], choose: Choose, task: Task | None = None, target: str | None = None
) -> Roles:
    """The roles of columns for a task.

    Args:
        columns: of a table, or keys of the records of a source.
        choose: asks where several columns are plausible.
        task: what is wanted; None: the one that the columns suggest.
        target: the column to predict; None: it is guessed where a prediction is wanted.

    Raises:
        DataError: the columns do not suffice for the task, or none fits them.
    """
    there = {column.name: column for column in columns}
    if target is not None and target not in there:
        near = difflib.get_close_matches(target, there, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise DataError(f"no column {target!r}{hint}; the columns are {_listed(columns)}")
    if target is not None and task not in (None, "prediction"):
        raise DataError(f"--target names the column to predict, which is no part of --task {task}")
    found = Roles(task or ("prediction" if target is not None else _task(columns)))
    found.target = target
    ROLES[found.task](found, columns, choose)
    return found


def _task(columns: Sequence[Column]) -> Task:
    media, text = _media(columns), _captions(columns)
    if media and _named(columns, "question") and _named(columns, "answer"):
        return "questions"
    if len(media) + bool(text) > 1:
        return "search"
    numbers = [c for c in columns if c.kind in ("numbers", "categories")]
    if numbers:
        return "prediction"
    if media:
        raise DataError(
            f"there are {' and '.join(media)} files without captions and without a column to "
            "predict. Write captions as a.txt beside a.jpg, or as a table captions.csv with the "
            f"columns image and caption; the columns are {_listed(columns)}"
        )
    raise DataError(
        "no column names image, video or audio files, and none holds captions or a value to "
        f"predict; the columns are {_listed(columns)}"
    )


def _search(found: Roles, columns: Sequence[Column], choose: Choose) -> None:
    """Files, and their captions."""
    _take_media(found, columns, choose)
    _take_captions(found, columns, choose)
    if len(found.inputs) < 2:
        have = ", ".join(found.inputs) or "neither"
        raise DataError(
            f"expected files and their captions, or two columns of files, got {have}; the columns "
            f"are {_listed(columns)}"
        )


def _questions(found: Roles, columns: Sequence[Column], choose: Choose) -> None:
    _take_media(found, columns, choose)
    if not found.inputs:
        raise DataError(f"no column names files; the columns are {_listed(columns)}")
    for role in ("question", "answer"):
        named = _named(columns, role)
        options = [c.name for c in columns if c.kind in ("sentences", "names", "categories")]
        guess = named.name if named is not None else None
        if guess is None:
            guess = choose(
                f"Which column holds the {role}s?", options, None, COLUMNS.format(input=role)
            )
        setattr(found, role, guess)
        found.reasons.append(f"{role}: column {guess!r}")


def _prediction(found: Roles, columns: Sequence[Column], choose: Choose) -> None:
    """Files, texts, numbers and categories that predict one column."""
    by_name = {column.name: column for column in columns}
    found.target = found.target or _target(columns, choose)
    target = by_name[found.target]
    found.target_task = _target_task(target)
    found.reasons.append(f"target: column {target.name!r} ({target}), as {found.target_task}")
    rest = [column for column in columns if column.name != found.target]
    named = _named(rest, "id")
    if named is not None and named.kind in ("names", "numbers"):
        found.id = named.name
        rest = [column for column in rest if column.name != found.id]
    _take_media(found, rest, choose)
    _take_captions(found, rest, choose)
    found.numbers = tuple(c.name for c in rest if c.kind == "numbers")
    found.categories = tuple(c.name for c in rest if c.kind == "categories")
    for what, names in {"numbers": found.numbers, "categories": found.categories}.items():
        if names:
            found.reasons.append(f"{what}: {', '.join(names)}")
    if not (found.inputs or found.numbers or found.categories):
        raise DataError(
            f"nothing predicts {found.target!r}: no column of files, texts, numbers or categories "
            f"beside it; the columns are {_listed(columns)}"
        )


ROLES: Mapping[Task, Callable[[Roles, Sequence[Column], Choose], None]] = {
    "search": _search,
    "prediction": _prediction,
    "questions": _questions,
    "captions": _search,
}


def _take_media(found: Roles, columns: Sequence[Column], choose: Choose) -> None:
    for kind, candidates in _media(columns).items():
        name = candidates[0].name
        if len(candidates) > 1:
            options = [column.name for column in candidates]
            name = choose(
                f"Which column holds the {kind} files?", options, name, COLUMNS.format(input=kind)
            )
        column = next(column for column in candidates if column.name == name)
        found.inputs[kind] = name
        found.reasons.append(f"{kind}: column {name!r} ({column})")


def _take_captions(found: Roles, columns: Sequence[Column], choose: Choose) -> None:
    candidates = _captions(columns)
    if not candidates:
        return
    first, numbered = candidates[0], _numbered(candidates)
    if len(numbered) > 1:
        found.inputs[TEXT] = tuple(column.name for column in numbered)
        found.reasons.append(f"{TEXT}: columns {', '.join(c.name for c in numbered)} (captions)")
        return
    name = first.name
    if len(candidates) > 1:
        options = [column.name for column in candidates]
        question = "Which column holds the captions?"
        name = choose(question, options, name, COLUMNS.format(input=TEXT))
    column = next(column for column in candidates if column.name == name)
    others = [other.name for other in candidates if other.name != name]
    passed_over = f"; not read: {', '.join(others)}" if others else ""
    found.inputs[TEXT] = name
    found.reasons.append(f"{TEXT}: column {name!r} ({column}){passed_over}")


def _media(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Modality type of files -> the columns of such files."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        if column.media is not None:
            found.setdefault(modality(column.media).name, []).append(column)
    return found


def _captions(columns: Sequence[Column]) -> list[Column]:
    """Columns that may hold captions, the most plausible first."""

    def rank(column: Column) -> tuple[int, float]:
        named = column.name.lower()
        known = NAMES[TEXT].index(named) if named in NAMES[TEXT] else len(NAMES[TEXT])
        return known, -column.words

    apart = {c.name for role in ("question", "answer") if (c := _named(columns, role)) is not None}
    found = [
        column
        for column in columns
        if column.name not in apart
        and (
            column.kind == "sentences"
            or (column.kind in ("names", "categories") and column.name.lower() in NAMES[TEXT][:7])
        )
    ]
    return sorted(found, key=rank)


def _numbered(candidates: Sequence[Column]) -> list[Column]:
    """Columns that are numbered captions of one row: caption_1, caption_2."""
    stem = NUMBERED.fullmatch(candidates[0].name)
    if stem is None:
        return []
    same = [(c, NUMBERED.fullmatch(c.name)) for c in candidates]
    return sorted((c for c, m in same if m and m[1] == stem[1]), key=lambda column: column.name)


def _named(columns: Sequence[Column], role: str) -> Column | None:
    by_name = {c.name.lower(): c for c in columns if c.kind != "nothing" and c.media is None}
    return next((by_name[name] for name in NAMES[role] if name in by_name), None)


def _target(columns: Sequence[Column], choose: Choose) -> str:
    options = [c.name for c in columns if c.kind in ("numbers", "categories")]
    named = _named(columns, "target")
    guess = named.name if named is not None and named.name in options else None
    if not options:
        raise DataError(
            f"no column of numbers or categories to predict; the columns are {_listed(columns)}"
        )
    return choose("Which column is to be predicted?", options, guess, "--target")


def _target_task(column: Column) -> str:
    if column.kind == "numbers":
        whole = all(float(value).is_integer() for value in column.values)
        return "classification" if whole and column.different <= FEW_NUMBERS else "regression"
    several = sum("|" in str(value) for value in column.values)
    return "multi_label" if several > SEVERAL * len(column.values) else "classification"


def _listed(columns: Sequence[Column]) -> str:
    shown = ", ".join(f"{c.name} ({c})" for c in columns[:SHOWN])
    return shown + (f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else "")
