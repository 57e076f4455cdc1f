"""What all tests share."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Give the tests Python's own handler of Ctrl-C, which a process that a shell has put in the background lacks.

    Runs warn where SIGINT is ignored, and some tests count warnings or send the signal.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
