"""Progress of a run: a bar on a terminal or in a notebook, and a line from time to time in a log file.

A bar redraws itself by carriage returns, which a log file would keep as thousands of copies of one line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.auto import tqdm

_EVERY = 30.0
"""The seconds between two lines of a log."""


class LogLines:
    """A progress display with the part of tqdm's interface that runs use, which prints whole lines.

    A quick run prints nothing.
    """

    disable = False

    def __init__(
        self,
        total: int,
        desc: str,
        unit: str,
        initial: int = 0,
        *,
        every: float = _EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.desc, self.unit, self.n = total, desc, unit, initial
        self.every, self.clock = every, clock
        self.started = self.last_line = clock()
        self.first, self.suffix = initial, ""

    def update(self, n: int = 1) -> None:
        """Count n more steps, and print a line if the last one is old enough."""
        self.n += n
        now = self.clock()
        # The last line is left to close, so that it is not printed twice.
        if now - self.last_line >= self.every and self.n < self.total:
            self._print_line(now)

    def set_postfix(self, *, refresh: bool = True, **values: str) -> None:
        """Set the values at the end of the following lines."""
        self.suffix = "".join(f", {name}={value}" for name, value in values.items())

    def close(self) -> None:
        """Print a last line if there was a line before."""
        if self.last_line > self.started:
            self._print_line(self.clock())
        self.started = self.last_line

    def _print_line(self, now: float) -> None:
        self.last_line = now
        seconds = now - self.started
        rate = f", {(self.n - self.first) / seconds:.3g} {self.unit}/s" if seconds > 0 else ""
        prefix = f"{self.desc}: " if self.desc else ""
        line = f"{prefix}{self.n}/{self.total} {self.unit} in {seconds:.0f} s{rate}{self.suffix}"
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> LogLines:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Silent:
    """A progress display that shows nothing. tqdm's own takes as long to make as a step of a small model."""

    disable = True
    n = 0
    """The steps so far."""

    def update(self, n: int = 1) -> None:
        """Count n more steps."""
        self.n += n

    def set_postfix(self, *, refresh: bool = True, **values: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def progress_bar(
    total: int, *, desc: str = "", unit: str = "steps", initial: int = 0, disable: bool | None
) -> Any:
    """Return an object with update, set_postfix and close: a bar, lines of a log, or a silent bar.

    disable: True shows nothing. None shows a bar on a terminal or in a notebook only, as tqdm and k-diffusion do.
    False also prints lines where there is no terminal.
    """
    options = {"total": total, "desc": desc or None, "unit": f" {unit}", "initial": initial}
    # Programs without a console, such as pythonw, have no stderr.
    if disable or sys.stderr is None:
        return Silent()
    if _is_notebook() or sys.stderr.isatty():
        return tqdm(**options, disable=False)
    return Silent() if disable is None else LogLines(total, desc, unit, initial)


def count_steps(total: int, disable: bool | None) -> Iterator[int]:
    """Yield 0 to total - 1 and show the progress of the loop. disable: as for `progress_bar`."""
    with progress_bar(total, disable=disable) as bar:
        for i in range(total):
            yield i
            bar.update()


def _is_notebook() -> bool:
    # tqdm.auto has found this out already when it chose its class.
    return any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
