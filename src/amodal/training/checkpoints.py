"""The checkpoints of a run: written whole or not at all, the last two kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from torch import nn

from amodal.data.atomic import sync, sync_tree
from amodal.distributed import barrier, is_main

CHECKPOINTS = "checkpoints"
CHECKPOINT_WEIGHTS = "model.safetensors"
STATE = "amodal_state.json"
TRAINER_STATE = "trainer_state.json"
PARTIAL = "partial"  # beside the complete ones
KEPT = 2


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run that were written to the end, oldest first."""
    found = []
    for path in (folder / CHECKPOINTS).glob("checkpoint-*"):
        try:
            json.loads((path / TRAINER_STATE).read_text(encoding="utf-8"))
            found.append((int(path.name.split("-")[1]), path))
        except (OSError, ValueError):
            continue
    return [path for _, path in sorted(found)]


def load_weights(trained: nn.Module, checkpoint: Path) -> None:
    """Give a module the weights of a checkpoint."""
    safetensors.torch.load_model(trained, str(checkpoint / CHECKPOINT_WEIGHTS))


@contextmanager
def new_checkpoint(run: Path, step: int) -> Iterator[Path]:
    """A folder in which all processes write `checkpoint-STEP`; it then takes its place.

    Where writing fails or is cut off, the checkpoints before it stay as they are.
    """
    folder = run / CHECKPOINTS
    staged = folder / PARTIAL
    name = f"checkpoint-{step}"
    if is_main():
        for leftover in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        staged.mkdir(parents=True)
    barrier()
    try:
        yield staged
        barrier()
        if is_main():
            sync_tree(staged / name)
            if (folder / name).exists():
                _discard(folder / name)
            (staged / name).rename(folder / name)
            sync(folder)
    finally:
        if is_main():
            shutil.rmtree(staged, ignore_errors=True)
    if is_main():
        for old in complete_checkpoints(run)[:-KEPT]:
            _discard(old)
    barrier()


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint that first loses its name: half of one must not pass for a whole."""
    nameless = checkpoint.with_name(f"{PARTIAL}-{checkpoint.name}")
    shutil.rmtree(nameless, ignore_errors=True)
    checkpoint.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)
