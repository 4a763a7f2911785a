"""Fixtures of all tests: a cache of their own, and commands that run as processes of their own."""

import signal
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own, in the place of the user's."""
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def handles_signals():
    """Whether Python code of a process handles SIGTERM by now; before, it ends without a word."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads from /proc which signals are handled")

    def handles(process):
        if process.poll() is not None:
            return True
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    return handles
