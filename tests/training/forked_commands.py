"""Commands in processes of their own that are killed at any moment; imported once, then forked."""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "amodal.cli.commands",
        "amodal.cli.data",
        "amodal.cli.train",
        "amodal.data.pack",
        "amodal.data.sources.specification",
        "amodal.reports.joint_embedding",
        "amodal.training.run",
        "amodal.training.tasks.joint_embedding",
    ]
)
WRITES = ("replace", "rename", "fsync", "truncate", "unlink", "mkdir", "rmdir")


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


def start(arguments, output, write=None):
    """The process of the command; it does not live to do the change `write` of the file system."""
    process = CONTEXT.Process(target=amodal, args=(arguments, str(output), write))
    process.start()
    return process


def run(arguments, output, interruption=None, limit=120):
    """The exit code of the command; negative where a signal ended it."""
    process = start(arguments, output, interruption.write if interruption is not None else None)
    if interruption is not None and interruption.after is not None:
        process.join(interruption.after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, interruption.number)
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"hangs: {' '.join(arguments)}\n{Path(output).read_text()}")
    return process.exitcode
