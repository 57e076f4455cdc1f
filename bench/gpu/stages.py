"""Run commands one after the other within a shared time, and keep the outcome of each.

A stage that fails or runs out of time does not stop the later ones, unless they cannot do without it. The least
time that later stages need is reserved for them. Stages in one tuple run at the same time.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"
SKIPPED, UNMEASURED, NOT_RUN = "skipped", "unmeasured", "not run"
_LINE_OF_TOOL = r"^(?:=========|Error).*"
"""The beginning of a line of compute-sanitizer. The program under it may print the words of a refusal, too."""
_ERRORS = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: [1-9]")
_GRACE = 5.0
"""Seconds between asking a stage to end and ending it."""
_TICK = 15.0
"""Seconds between two calls of `keep` while a stage runs."""
_MARGIN = 4.0
"""Seconds between the time at which a stage should end by itself and that at which it is ended."""
_POLL = 0.1
_SHOWN, _WIDEST = 25, 400
"""The number of lines that are printed of a stage that fails, and their greatest length."""


@dataclass(frozen=True)
class Stage:
    """A command and its settings.

    "{seconds}" in the command is replaced by most of its time, and "{until}" by the end of its time on the clock
    of `time.monotonic`, which all processes share on Linux: importing torch may take ten seconds of it.

    most, least: the seconds that it may take, and those reserved for it. otherwise: a second command, for the
    case that the first fails. refusal: a pattern of the message by which compute-sanitizer says that it cannot
    work here; see `refused`. instead: a status and the reason, for a stage that is not to run. essential: where
    it fails, the stages beside it are ended and later ones are not run. shown: the lines at the end of its output
    that are printed where it passes.
    """

    name: str
    command: Sequence[str]
    most: float
    least: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    otherwise: Sequence[str] = ()
    refusal: str = ""
    instead: tuple[str, str] | None = None
    essential: bool = False
    shown: int = 0

    @property
    def reserved(self) -> float:
        """Seconds that earlier stages leave for this one."""
        return 0.0 if self.instead else self.least


Plan = Sequence[Stage | tuple[Stage, ...]]
"""Stages in order. Those of one tuple run at the same time."""


class Outcome(NamedTuple):
    """The outcome of a stage; detail says why it did not pass."""

    name: str
    status: str
    seconds: float
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.status in (FAILED, TIMED_OUT)


Keep = Callable[[Sequence[Outcome]], None]
"""A function that is called with the outcomes so far."""


def run(plan: Plan, folder: Path, total: float, keep: Keep = lambda _: None) -> list[Outcome]:
    """Run the stages in turn within `total` seconds. The output of each is in <folder>/<name>.log.

    keep: called after every stage, and every few seconds while one runs.
    """
    end = time.monotonic() + total
    groups = [each if isinstance(each, tuple) else (each,) for each in plan]
    outcomes: list[Outcome] = []
    missing = ""
    for index, group in enumerate(groups):
        if missing:
            outcomes.extend(Outcome(stage.name, NOT_RUN, 0.0, missing) for stage in group)
            continue
        kept = sum(max(stage.reserved for stage in later) for later in groups[index + 1 :])
        print(f"== {', '.join(stage.name for stage in group)}", flush=True)
        results = _together(group, folder, end - kept, lambda done: keep([*outcomes, *done]))
        outcomes.extend(results)
        essential = {stage.name for stage in group if stage.essential}
        missing = next(
            (f"{o.name} {o.status}" for o in results if o.name in essential and o.bad), ""
        )
        print(summary(results), flush=True)
        keep(outcomes)
    if missing:
        keep(outcomes)
    return outcomes


def _together(group: Sequence[Stage], folder: Path, end: float, tick: Keep) -> list[Outcome]:
    """Run the stages of a group at the same time, and return their outcomes in order."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(group)) as pool:
        futures: list[Future[Outcome]] = [
            pool.submit(_run, stage, folder / f"{stage.name}.log", end, stop) for stage in group
        ]
        try:
            pending = {*futures}
            while pending:
                _, pending = wait(pending, _TICK, FIRST_COMPLETED)
                done = [future.result() for future in futures if future.done()]
                essential = {stage.name for stage in group if stage.essential}
                if any(outcome.bad for outcome in done if outcome.name in essential):
                    stop.set()
                if pending:
                    tick(done)
        finally:
            stop.set()  # an interrupt must not leave processes behind
    return [future.result() for future in futures]


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a line for every stage."""
    return "\n".join(_line(outcome) for outcome in outcomes)


def _line(outcome: Outcome) -> str:
    detail = f"  {outcome.detail}" if outcome.detail else ""
    return f"{outcome.name:<16}{outcome.status:<12}{outcome.seconds:6.1f} s{detail}"


def _run(stage: Stage, log: Path, end: float, stop: threading.Event) -> Outcome:
    if stage.instead is not None:
        status, why = stage.instead
        return Outcome(stage.name, status, 0.0, why)
    start = time.monotonic()
    limit = min(stage.most, end - start)
    log.write_text("")
    code: int | None = None
    for command in filter(None, (stage.command, stage.otherwise)):
        rest = start + limit - time.monotonic()
        if rest <= 1.0:
            return Outcome(stage.name, TIMED_OUT, time.monotonic() - start, "no time was left")
        code = _call(command, stage.environment, log, rest, stop)
        if not code:
            break
    seconds = time.monotonic() - start
    if code == 0:
        if stage.shown:
            print("\n".join(_end_of(log, stage.shown)), flush=True)
        return Outcome(stage.name, PASSED, seconds)
    if code is None and stop.is_set():
        return Outcome(stage.name, NOT_RUN, seconds, "ended, as another stage failed")
    if why := refused(stage.refusal, code, log.read_text(errors="replace")):
        return Outcome(stage.name, SKIPPED, seconds, why)
    print("\n".join(_end_of(log, max(stage.shown, _SHOWN))), flush=True)
    if code is None:
        return Outcome(stage.name, TIMED_OUT, seconds, f"more than {limit:.0f} s; see {log.name}")
    return Outcome(stage.name, FAILED, seconds, f"exit status {code}; see {log.name}")


def _end_of(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log, cut at a length that a terminal shows well."""
    found = log.read_text(errors="replace").splitlines()
    return [line[:_WIDEST] for line in found[-lines:]]


def refused(pattern: str, code: int | None, text: str) -> str:
    """Return the line by which a tool says that it cannot work here, or an empty text.

    A tool that took too long, was ended by a signal, or had found errors has not refused, whatever it printed.
    """
    if not pattern or code is None or code <= 0 or _ERRORS.search(text):
        return ""
    match = re.search(rf"{_LINE_OF_TOOL}(?:{pattern}).*", text, re.I | re.M)
    return match[0].strip()[:200] if match else ""


def _call(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    limit: float,
    stop: threading.Event,
) -> int | None:
    """Return the exit status, or None where the command took longer than `limit` or was stopped."""
    end = time.monotonic() + limit
    places = {
        "{seconds}": str(int(0.92 * limit)),
        "{until}": f"{end - min(_MARGIN, 0.1 * limit):.1f}",
    }
    words = [places.get(word, word) for word in command]
    with log.open("a") as output:
        output.write(f"$ {' '.join(words)}\n")
        output.flush()
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"{error}\n")
            return 127
        try:
            while time.monotonic() < end and not stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_POLL)
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all processes in its group."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
