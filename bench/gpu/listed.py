"""Run named items in child processes, so that one that crashes or hangs hides none of the others.

A kernel that accesses memory illegally makes every later call of its process fail. So a child process works
through a list of items and appends a line of JSON to a file before and after each of them; `supervise` reads the
file, ends a child whose item takes too long, and starts a new child with the items that are left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

STARTED, DONE, FAILED = "started", "done", "failed"
CRASHED, LATE, LEFT = "crashed", "timed out", "no time was left"
POISONED = 17
"""The exit status of a child that cannot use the GPU any more."""
_BROKEN = (
    "CUDA error",
    "CUDA driver error",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "device-side assert",
)
_POLL = 0.1
_START_SECONDS = 90.0
"""Many processes import torch at the same time, beside the compilers, from a disk that has just been mounted."""

Record = dict[str, Any]


def records(path: Path) -> dict[str, Record]:
    """Return the last record of each item in a file; none where the file is missing."""
    found: dict[str, Record] = {}
    if not path.exists():
        return found
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be incomplete
            record = json.loads(line)
            found[record["name"]] = record
    return found


def write(path: Path, name: str, state: str, **facts: Any) -> None:
    """Append a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"name": name, "state": state, **facts}, default=str) + "\n")


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    message = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {message}"[:300]


def add_time(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit the time of a command."""
    parser.add_argument("--seconds", type=float, default=120.0, help="the most that it may take")
    parser.add_argument("--until", type=float, help="the same as a time of time.monotonic")


def end_of(options: argparse.Namespace) -> float:
    """Return the time at which a command should end."""
    return time.monotonic() + options.seconds if options.until is None else options.until


def work(path: Path, names: Sequence[str], call: Callable[[str], Record]) -> int:
    """Call every item and write its record: what the call returns, or its error. This runs in the child.

    Returns POISONED after an error that makes the GPU useless for this process, else 0.
    """
    for name in names:
        write(path, name, STARTED)
        start = time.monotonic()
        try:
            facts = call(name)
        except Exception as error:  # the other items go on
            print(f"{name}: {first_line(error)}", flush=True)
            traceback.print_exc()
            seconds = round(time.monotonic() - start, 2)
            write(path, name, FAILED, seconds=seconds, error=first_line(error))
            if any(words in str(error) for words in _BROKEN):
                return POISONED
        else:
            write(path, name, DONE, **{"seconds": round(time.monotonic() - start, 2), **facts})
    return 0


def supervise(
    command: Sequence[str],
    path: Path,
    names: Iterable[str],
    end: float,
    limit: Callable[[str], float],
    start_seconds: float = _START_SECONDS,
) -> dict[str, Record]:
    """Have children work through the names until the time `end`, and return the record of each.

    command: what starts a child; "--list" and a JSON list of names are added. limit: the seconds that an item may
    take. start_seconds: those before the first item of a child.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    left, fruitless, why = list(names), 0, ""
    while left and fruitless < 2 and time.monotonic() < end:
        why = _child(command, path, left, end, limit, start_seconds)
        finished = {name for name, record in records(path).items() if record["state"] != STARTED}
        begun = [name for name in left if name in records(path) and name not in finished]
        if begun or finished & {*left}:
            fruitless = 0
        elif time.monotonic() < end:  # the time has not ended while the child was starting
            fruitless += 1
        if begun:
            write(path, begun[0], LATE if why.startswith("more than") else CRASHED, error=why)
        left = [name for name in left if name not in finished and name not in begun]
    for name in left:
        state = CRASHED if fruitless else LEFT
        write(path, name, state, **({"error": f"no process started: {why}"} if fruitless else {}))
    return records(path)


def _child(
    command: Sequence[str],
    path: Path,
    names: Sequence[str],
    end: float,
    limit: Callable[[str], float],
    start_seconds: float,
) -> str:
    """Run a child to its end, and return the reason why it ended."""
    log = path.with_suffix(".out")
    with log.open("a") as output:
        process = subprocess.Popen(
            [*command, "--list", json.dumps(names)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            item, since = "", time.monotonic()
            while process.poll() is None:
                now = time.monotonic()
                started = [n for n, r in records(path).items() if r["state"] == STARTED]
                current = next((name for name in started if name in names), item)
                if current != item:
                    item, since = current, now
                most = limit(item) if item else start_seconds
                if now - since > most or now > end:
                    process.kill()
                    process.wait()
                    return f"more than {most if now - since > most else now - since:.0f} s"
                time.sleep(_POLL)
        finally:
            if process.poll() is None:  # an interrupt came
                process.kill()
                process.wait()
    return _reason(process.returncode, log)


def _reason(code: int, log: Path) -> str:
    """Return how a process ended, with the last line that it printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    how = f"exit status {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = signal.Signals(-code).name
    return f"{how}: {lines[-1].strip()[:200]}" if lines else how
