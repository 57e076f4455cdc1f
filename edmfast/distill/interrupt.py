"""Ctrl-C that waits for the end of a step.

An optimiser stopped half-way leaves weights that belong to no step. So the first SIGINT is only
noted, and the training loop asks for it between steps; a second one acts at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """requested: SIGINT has come."""

    requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """While inside, the first SIGINT sets `requested`, the second raises KeyboardInterrupt.

    Without effect outside the main thread and where somebody else handles SIGINT.
    """
    interrupt = Interrupt()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            signal.default_int_handler(number, frame)
        interrupt.requested = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
