"""Runs in processes of their own that are killed at any moment; imported once, then forked."""

import contextlib
import gc
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "amodal.cli.train",
        "amodal.reports.joint_embedding",
        "amodal.training.run",
        "amodal.training.tasks.joint_embedding",
    ]
)
WRITES = ("replace", "rename", "fsync", "truncate", "unlink", "mkdir", "rmdir")
TIMINGS = (
    *("seconds", "data_seconds", "train/seconds", "train/data_seconds"),
    "train/items_per_second",
)
# The report shows the time of training; transformers notes in the configuration of a tokenizer
# how it was opened.
LEFT_OUT = ("README.md", "report.html", "tokenizer_config.json")


@dataclass(frozen=True)
class Interruption:
    """The end of a process that somebody else decides.

    Args:
        number: of the signal.
        after: seconds; None where it comes at a change of the file system.
        write: the change of the file system, counted from 1, that the process does not live to do.
    """

    number: int
    after: float | None = None
    write: int | None = None


def amodal(arguments, output, write):
    """The command in this process, with its output in a file, killed at its n-th write."""
    with Path(output).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from matplotlib.figure import Figure

    from amodal.cli.main import main

    Figure.savefig = _blank_figure
    gc.freeze()  # what was imported before the fork is not looked through again
    if write is not None:
        _killed_at(write)
    sys.argv = ["amodal", *arguments]
    main()


def _blank_figure(figure, file, **options):
    """Writes a plot without drawing it, which takes longer than the training."""
    if isinstance(file, Path):
        file.write_bytes(b"a plot")
    else:
        file.write("<svg></svg>")


def _killed_at(write):
    done = 0
    for name in WRITES:

        def counted(*args, _plain=getattr(os, name), **kwargs):
            nonlocal done
            done += 1
            if done == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return _plain(*args, **kwargs)

        setattr(os, name, counted)


def run(arguments, output, interruption=None, limit=120):
    """The exit code of the command; negative where a signal ended it."""
    write = interruption.write if interruption is not None else None
    process = CONTEXT.Process(target=amodal, args=(arguments, str(output), write))
    process.start()
    if interruption is not None and interruption.after is not None:
        process.join(interruption.after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, interruption.number)
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"hangs: {' '.join(arguments)}\n{Path(output).read_text()}")
    return process.exitcode


def train(recipe, folder, interruptions=()):
    """A run that is interrupted and resumed, until it is finished; the seconds of the last part."""
    file, output = folder.with_suffix(".yaml"), folder.with_suffix(".txt")
    file.write_text(yaml.safe_dump(recipe))
    for interruption in (*interruptions, None):
        resume = ["--resume"] if folder.exists() else []
        begin = time.monotonic()
        code = run(["train", str(file), "--out", str(folder), *resume], output, interruption)
        assert "Traceback" not in output.read_text(), output.read_text()
        if interruption is None:
            assert code == 0, output.read_text()
    return time.monotonic() - begin


def interruptions(seed, seconds, writes):
    """One to three random ones, within a run that takes so long and changes so many files."""
    rng = random.Random(seed)
    found = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        how = rng.choice(("kill", "kill", "terminate", "write"))
        if how == "write":
            found.append(Interruption(signal.SIGKILL, write=rng.randint(1, writes)))
        else:
            number = signal.SIGKILL if how == "kill" else signal.SIGTERM
            found.append(Interruption(number, after=rng.uniform(0, seconds)))
    return found


def outcome(folder):
    """All that a run leaves, without what measures time: file or metric -> value."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith(("plots", "checkpoints")) or path.name in LEFT_OUT:
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_comparable(json.loads(line)) for line in lines]
        else:
            found[name] = path.read_bytes()
    last = max(folder.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for file in ("model.safetensors", "scheduler.pt"):
        found[f"{last.name}/{file}"] = (last / file).read_bytes()
    # A run that was stopped has a checkpoint at another step than the last but one.
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    found["names"] = sorted(name for name in names if "checkpoint-" not in name)
    return found


def _comparable(value):
    if not isinstance(value, dict):
        return value
    return {name: one for name, one in value.items() if name not in TIMINGS}
