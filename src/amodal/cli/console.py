"""How commands speak: one console, one way to fail, one way to show progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from amodal.training.progress import ProgressCallbacks

console = Console()
errors = Console(stderr=True)

# What the log of a step shows while training runs, in this order.
SHOWN = {
    "loss": "loss",
    "eval/retrieval/text_to_image/recall@1": "text→image R@1",
    "eval/mean_recall": "mean recall",
    "eval/prediction/accuracy": "accuracy",
    "eval/prediction/mean_average_precision": "mean average precision",
    "eval/prediction/r2": "R²",
    "eval/vqa/exact": "answers right",
    "eval/caption/likelihood": "nats per token of captions",
    "eval/dialogue/exact": "rounds right",
    "eval/reconstruction/psnr": "dB",
}


class ProgressReporter:
    """Shows stages as progress bars, with loss and recall beside the training bar."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None
        self.latest: dict[str, float] = {}

    def callbacks(self) -> ProgressCallbacks:
        return ProgressCallbacks(self.stage, self.advance, self.logged, self.warn)

    def stage(self, name: str, total: int) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=self.progress.tasks[-1].total)
        self.task = self.progress.add_task(name, total=total, detail="")

    def advance(self, done: int) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done)

    def logged(self, step: int, values: dict[str, float]) -> None:
        self.latest |= {name: values[name] for name in SHOWN if name in values}
        parts = [f"{SHOWN[name]} {self.latest[name]:.3f}" for name in SHOWN if name in self.latest]
        if self.task is not None:
            self.progress.update(self.task, completed=step, detail="  ".join(parts))
        if not console.is_terminal and any(n.startswith("eval/") for n in values):
            console.print(f"step {step}: " + "  ".join(parts))

    def warn(self, message: str) -> None:
        self.progress.console.print(f"[yellow]note[/] {message}", soft_wrap=True)


@contextmanager
def progress_callbacks() -> Iterator[ProgressCallbacks]:
    """A `Watcher` that draws on the terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield ProgressReporter(progress).callbacks()


def tell_unknown(words: Sequence[str]) -> None:
    """Say which words a model cannot read, where there are any."""
    if words:
        console.print(
            f"[yellow]note[/] the model has never read {', '.join(map(escape, words))}",
            soft_wrap=True,
            highlight=False,
        )
