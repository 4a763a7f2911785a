"""Commands that are run inside the process of the tests."""

import signal

import pytest


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """`main` ends its process, and leaves the handlers that go with that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
