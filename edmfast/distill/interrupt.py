"""A context in which Ctrl-C waits for the end of a training step.

An optimiser that is stopped half-way leaves weights that belong to no step. So the first SIGINT only sets a flag,
which the training loop reads between steps. A second SIGINT acts at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """A flag: requested becomes True when SIGINT arrives."""

    requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Let the first SIGINT in this context set `requested`, and the second raise KeyboardInterrupt.

    The context has no effect outside the main thread, and where another handler of SIGINT is installed.
    """
    interrupt = Interrupt()
    default = (
        # Python lets only the main thread set handlers
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not default:
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        # a step may take long, and a second Ctrl-C means that it must not be waited for
        if interrupt.requested:
            signal.default_int_handler(number, frame)
        interrupt.requested = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
