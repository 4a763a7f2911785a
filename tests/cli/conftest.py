"""Commands as they are typed, inside the process of the tests, and a small recipe for them."""

import copy
import signal
import sys
from pathlib import Path

import pytest

from amodal.cli import main as cli

RECIPE = {
    "data": {
        "train": "scenes:split=train,size=40,image_size=32",
        "validation": "scenes:split=validation,size=10,image_size=32",
    },
    "model": {
        "encoders": {
            "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
            "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
        },
        "projection": {"kind": "linear", "dim": 8},
    },
    "train": {"epochs": 1, "batch_size": 10, "precision": "fp32"},
}


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """`main` ends its process, and leaves the handlers that go with that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def small_recipe():
    """The recipe of a joint embedding of images and texts that trains in a second."""
    return copy.deepcopy(RECIPE)


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Runs the command with these words; returns exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["amodal", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def handles_signals():
    """Whether Python code of a process handles SIGTERM by now; before, it ends without a line."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads from /proc which signals are handled")

    def handles(process):
        if process.poll() is not None:
            return True
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    return handles
