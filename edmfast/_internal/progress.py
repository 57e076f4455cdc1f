"""Show how far a run is: a bar on a terminal or in a notebook, and a line now and then in a log file.

A bar redraws itself by carriage returns, which a log file keeps as thousands of copies of one line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.auto import tqdm

_EVERY = 30.0
"""Seconds between two lines of a log."""


class LogLines:
    """The part of tqdm's interface that runs use, written as whole lines; nothing in a quick run."""

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
        self.started = self.told = clock()
        self.first, self.suffix = initial, ""

    def update(self, n: int = 1) -> None:
        self.n += n
        now = self.clock()
        if now - self.told >= self.every and self.n < self.total:
            self._tell(now)

    def set_postfix(self, *, refresh: bool = True, **values: str) -> None:
        self.suffix = "".join(f", {name}={value}" for name, value in values.items())

    def close(self) -> None:
        """Write a last line, if there was one before."""
        if self.told > self.started:
            self._tell(self.clock())
        self.started = self.told

    def _tell(self, now: float) -> None:
        self.told = now
        spent = now - self.started
        rate = f", {(self.n - self.first) / spent:.3g} {self.unit}/s" if spent > 0 else ""
        where = f"{self.desc}: " if self.desc else ""
        line = f"{where}{self.n}/{self.total} {self.unit} in {spent:.0f} s{rate}{self.suffix}"
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> LogLines:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def progress_bar(
    total: int, *, desc: str = "", unit: str = "steps", initial: int = 0, disable: bool | None
) -> Any:
    """Return a bar, lines of a log, or a silent bar: an object with update, set_postfix and close.

    disable: True shows nothing, None shows a bar on a terminal or in a notebook only (as tqdm and
    k-diffusion have it), False writes lines where there is no terminal.
    """
    options = {"total": total, "desc": desc or None, "unit": f" {unit}", "initial": initial}
    if disable or sys.stderr is None:
        return tqdm(**options, disable=True)
    if _is_notebook() or sys.stderr.isatty():
        return tqdm(**options, disable=False)
    return (
        tqdm(**options, disable=True) if disable is None else LogLines(total, desc, unit, initial)
    )


def count_steps(total: int, disable: bool | None) -> Iterator[int]:
    """Yield 0 to total - 1 and show how far the loop is; `disable` as in `progress_bar`."""
    with progress_bar(total, disable=disable) as bar:
        for i in range(total):
            yield i
            bar.update()


def _is_notebook() -> bool:
    return any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
