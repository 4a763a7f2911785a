"""Console output of the commands: results on standard output, progress and notes on standard error.

Importing this module is cheap; every command module may import it at its top.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from amodal.training.progress import ProgressCallbacks

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class LazyConsole:
    """A rich console that is made, and rich imported, when it is first used."""

    def __init__(self, *, stderr: bool = False) -> None:
        self.stderr = stderr

    @cached_property
    def rich(self) -> Console:
        from rich.console import Console

        return Console(stderr=self.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich, name)


console = LazyConsole()
errors = LazyConsole(stderr=True)

# Options of every `typer.Typer`: plain help, which costs half the time, and a value of `--help`
# where it is not given, which spares typer the import of what would convert it.
LIGHT_GROUP: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "context_settings": {"default_map": {"help": False}},
}

# Logged metrics that are shown beside the progress of training, in this order.
SHOWN = {
    r"loss": "loss",
    r"eval/retrieval/(\w+)_to_(\w+)/recall@1": r"\1→\2 R@1",
    r"eval/mean_recall": "mean recall",
    r"eval/prediction/accuracy": "accuracy",
    r"eval/prediction/mean_average_precision": "mean average precision",
    r"eval/prediction/r2": "R²",
    r"eval/vqa/exact_match": "VQA exact match",
    r"eval/caption/nll": "caption nats per token",
    r"eval/dialogue/exact_match": "dialogue exact match",
    r"eval/reconstruction/psnr": "PSNR in dB",
}
MOST_PER_KIND = 2  # of the metrics that one pattern matches: a model of many inputs has many
SECONDS_BETWEEN_LINES = (10.0, 60.0)  # at first, and in a stage that takes long


class ProgressBars:
    """Progress on a terminal: one bar per stage, with the metrics of training beside it."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None
        self.metrics: dict[str, float] = {}

    def stage(self, name: str, total: int | None) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=self.progress.tasks[-1].total)
        self.task = self.progress.add_task(escape(name), total=total, detail="")

    def advance(self, done: int) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done)

    def logged(self, step: int, values: dict[str, float]) -> None:
        self.metrics |= values
        if self.task is not None:
            detail = escape("  ".join(shown_metrics(self.metrics)))
            self.progress.update(self.task, completed=step, detail=detail)

    def warn(self, message: str) -> None:
        note(message)


class ProgressLines:
    """Progress where there is no terminal: a plain line when a stage begins, now and then, and
    when it ends.

    Args:
        write: takes one line.
        clock: seconds that have passed since some moment.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.write, self.clock = write, clock
        self.name = ""
        self.total: int | None = None
        self.done = 0
        self.begin = self.written_at = clock()
        self.written: int | None = None  # what was done when the last line was written
        self.metrics: dict[str, float] = {}

    def stage(self, name: str, total: int | None) -> None:
        self.close()
        self.name, self.total, self.done = name, total, 0
        self.begin = self.clock()
        self.metrics = {}
        self._line()

    def advance(self, done: int) -> None:
        self.done = done
        self._line_if_due()

    def logged(self, step: int, values: dict[str, float]) -> None:
        self.metrics |= values
        self.done = step
        if any(name.startswith("eval/") for name in values):
            self._line()
        else:
            self._line_if_due()

    def warn(self, message: str) -> None:
        note(message)

    def close(self) -> None:
        """The last line of a stage."""
        if self.name and self.written != self.done:
            self._line()

    def _line_if_due(self) -> None:
        soon, late = SECONDS_BETWEEN_LINES
        now = self.clock()
        # Rarer as the stage goes on, so that the log of a long run stays short.
        if now - self.written_at >= min(late, max(soon, (now - self.begin) / 20)):
            self._line()

    def _line(self) -> None:
        self.written_at, self.written = self.clock(), self.done
        parts = [f"{self.name}: {self.done:,}"]
        if self.total:
            share = 100 * self.done // self.total
            parts = [f"{self.name}: {self.done:,}/{self.total:,} ({share} %)"]
        minutes, seconds = divmod(int(self.written_at - self.begin), 60)
        self.write(", ".join([*parts, f"{minutes}:{seconds:02}", *shown_metrics(self.metrics)]))


def shown_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The metrics of `SHOWN` among these, each with its short name."""
    parts = []
    for pattern, label in SHOWN.items():
        found = [(m.expand(label), metrics[n]) for n in metrics if (m := re.fullmatch(pattern, n))]
        parts += [f"{short} {value:.3f}" for short, value in found[:MOST_PER_KIND]]
    return parts


@contextmanager
def progress_callbacks() -> Iterator[ProgressCallbacks]:
    """Progress of a long command on standard error: bars on a terminal, else plain lines.

    Of several processes of one training run, the first one alone reports.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield ProgressCallbacks()
    elif errors.is_terminal and not errors.is_dumb_terminal:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        # Redirected results must not pass through the console of the bars.
        with Progress(
            *columns, console=errors.rich, redirect_stdout=console.is_terminal
        ) as progress:
            bars = ProgressBars(progress)
            yield ProgressCallbacks(bars.stage, bars.advance, bars.logged, bars.warn)
    else:
        lines = ProgressLines(_plain_line)
        try:
            yield ProgressCallbacks(lines.stage, lines.advance, lines.logged, lines.warn)
        finally:
            lines.close()


def escape(text: str) -> str:
    """The text with what rich would read as markup escaped."""
    from rich.markup import escape

    return escape(text)


def note(message: str) -> None:
    """A note on standard error."""
    errors.print(f"[yellow]note:[/] {escape(message)}", soft_wrap=True, highlight=False)


def note_unknown_words(words: Sequence[str]) -> None:
    """A note that names the words outside the vocabulary of a model, where there are any."""
    if words:
        note(f"out of vocabulary: {', '.join(words)}")


def size_of(source: object) -> int | None:
    """The number of records of a source, or None where it can only be streamed."""
    return len(source) if hasattr(source, "__len__") else None


def _plain_line(text: str) -> None:
    errors.print(text, soft_wrap=True, highlight=False, markup=False)
