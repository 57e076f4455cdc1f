"""A warning for runs that Ctrl-C cannot interrupt."""

from __future__ import annotations

import signal
import warnings


def warn_if_ignored(*, stacklevel: int) -> None:
    """Warn where this process ignores SIGINT, as a process does that a shell script has started in the background.

    No warning is given where a handler is installed. SIGTERM ends a run at once, without a checkpoint of its last
    step, unless the program turns it into an exception.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        warnings.warn(
            "this process ignores SIGINT, as background jobs of a shell do: Ctrl-C cannot interrupt this run. "
            "Call signal.signal(signal.SIGINT, signal.default_int_handler) before it to change that.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
