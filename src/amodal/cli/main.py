"""The process of the `amodal` command: signals, errors and the exit code."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import warnings
from collections import namedtuple
from collections.abc import Sequence
from contextlib import suppress

from amodal.signals import on_interrupt

FAILED = 1
STOPPED = 130  # as a shell has it for a command that Ctrl-C ended


def main() -> None:
    """Run the command line and end the process.

    Exit code 0: success, also of a server and a conversation that Ctrl-C ends; 1: the work failed;
    2: wrong usage; 130: stopped by Ctrl-C or SIGTERM, and "stopped" is on standard error.
    """
    interrupts: list[int] = []

    def interrupt(number: int) -> None:
        """SIGTERM is handled as Ctrl-C: the work done so far is kept."""
        interrupts.append(number)
        raise KeyboardInterrupt

    atexit.register(_ignore_signals)
    try:
        on_interrupt(interrupt)
        code = _run(interrupts)
    except BaseException as error:
        # Where a library is interrupted while it is imported, it may raise an error of its own.
        if not interrupts and not isinstance(error, KeyboardInterrupt):
            raise
        code = STOPPED
    on_interrupt(lambda _: os._exit(code))  # the work is done: a signal can only shorten the end
    if code == STOPPED:
        print("stopped", file=sys.stderr)
    with suppress(OSError):  # nobody reads the output any more
        sys.stdout.flush()
    # Python ends itself with SIGINT, whatever the code, if a KeyboardInterrupt has passed through
    # code made from a string, as that of dataclasses is; another such class forgets that.
    namedtuple("Nothing", ())
    sys.exit(code)


def _run(interrupts: Sequence[int]) -> int:
    """The exit code of the command; a failure that a user can act on is one line."""
    # Imported here, where a signal is handled already.
    from amodal.cli.commands import app
    from amodal.cli.console import errors, escape
    from amodal.training.errors import RunError, TrainingError

    _quiet()
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except Exception as error:
        # DataError, RecipeError and StoreError are ValueErrors; an ImportError names a missing
        # extra. Of a full disk each library has its own error.
        expected = isinstance(error, (RunError, TrainingError, ValueError, OSError, ImportError))
        if interrupts or os.environ.get("AMODAL_TRACEBACK") or not (expected or _is_full(error)):
            raise
        message = escape(str(error) or type(error).__name__)
        errors.print(f"[red]error:[/] {message}", soft_wrap=True, highlight=False)
        return FAILED
    return 0


def _is_full(error: Exception) -> bool:
    from amodal.data.atomic import is_full_disk  # slow, and for what is rare

    return is_full_disk(error)


def _ignore_signals() -> None:
    """Before its last steps Python drops all handlers, and a signal would change the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _quiet() -> None:
    """Silence what libraries log about themselves."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|transformers|accelerate")
    for name in ("transformers", "accelerate", "datasets", "PIL"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
