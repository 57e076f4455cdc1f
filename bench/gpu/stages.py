"""Run commands one after the other within a shared time, and keep the outcome of each.

A stage that fails or runs out of time does not stop the later ones. The least time that later stages need is
reserved for them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"
SKIPPED, UNMEASURED = "skipped", "unmeasured"
_LINE_OF_TOOL = r"^(?:=========|Error).*"
"""The beginning of a line of compute-sanitizer. The program under it may print the words of a refusal, too."""
_ERRORS = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: [1-9]")
_GRACE = 5.0
"""Seconds between asking a stage to end and ending it."""


@dataclass(frozen=True)
class Stage:
    """A command, in which "{seconds}" is replaced by most of its time, and its settings.

    most, least: the seconds that it may take, and those reserved for it. otherwise: a second command, for the
    case that the first fails. refusal: a pattern of the message by which compute-sanitizer says that it cannot
    work here; see `refused`. instead: a status and the reason, for a stage that is not to run.
    """

    name: str
    command: Sequence[str]
    most: float
    least: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    otherwise: Sequence[str] = ()
    refusal: str = ""
    instead: tuple[str, str] | None = None


class Outcome(NamedTuple):
    """The outcome of a stage; detail says why it did not pass."""

    name: str
    status: str
    seconds: float
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.status in (FAILED, TIMED_OUT)


def run(stages: Sequence[Stage], folder: Path, total: float) -> list[Outcome]:
    """Run the stages in turn within `total` seconds. The output of each is in <folder>/<name>.log."""
    end = time.monotonic() + total
    outcomes = []
    for index, stage in enumerate(stages):
        kept = sum(later.least for later in stages[index + 1 :] if later.instead is None)
        limit = min(stage.most, end - time.monotonic() - kept)
        print(f"== {stage.name}", flush=True)
        outcomes.append(_run(stage, folder / f"{stage.name}.log", limit))
        print(_line(outcomes[-1]), flush=True)
    return outcomes


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a line for every stage."""
    return "\n".join(_line(outcome) for outcome in outcomes)


def _line(outcome: Outcome) -> str:
    detail = f"  {outcome.detail}" if outcome.detail else ""
    return f"{outcome.name:<12}{outcome.status:<12}{outcome.seconds:6.1f} s{detail}"


def _run(stage: Stage, log: Path, limit: float) -> Outcome:
    if stage.instead is not None:
        status, why = stage.instead
        return Outcome(stage.name, status, 0.0, why)
    start = time.monotonic()
    log.write_text("")
    code: int | None = None
    for command in filter(None, (stage.command, stage.otherwise)):
        rest = start + limit - time.monotonic()
        if rest <= 1.0:
            return Outcome(stage.name, TIMED_OUT, time.monotonic() - start, "no time was left")
        code = _call(command, stage.environment, log, rest)
        if not code:
            break
    seconds = time.monotonic() - start
    if code == 0:
        return Outcome(stage.name, PASSED, seconds)
    text = log.read_text(errors="replace")
    if why := refused(stage.refusal, code, text):
        return Outcome(stage.name, SKIPPED, seconds, why)
    print("\n".join(text.splitlines()[-25:]), flush=True)
    if code is None:
        return Outcome(stage.name, TIMED_OUT, seconds, f"more than {limit:.0f} s; see {log.name}")
    return Outcome(stage.name, FAILED, seconds, f"exit status {code}; see {log.name}")


def refused(pattern: str, code: int | None, text: str) -> str:
    """Return the line by which a tool says that it cannot work here, or an empty text.

    A tool that took too long, was ended by a signal, or had found errors has not refused, whatever it printed.
    """
    if not pattern or code is None or code <= 0 or _ERRORS.search(text):
        return ""
    match = re.search(rf"{_LINE_OF_TOOL}(?:{pattern}).*", text, re.I | re.M)
    return match[0].strip()[:200] if match else ""


def _call(
    command: Sequence[str], environment: Mapping[str, str], log: Path, limit: float
) -> int | None:
    """Return the exit status, or None where the command took longer than `limit`."""
    words = [word.replace("{seconds}", str(int(0.92 * limit))) for word in command]
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
            return process.wait(limit)
        except subprocess.TimeoutExpired:
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
