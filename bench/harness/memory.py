"""Measure the peak memory of a call, in this process or in a new one, above what was held before; and keep the
memory that calls free, so that none pays for pages anew."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine

_SELF = Path("/proc/self")

_PROGRAM = """
import sys, torch

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

{definition}
torch.set_num_threads(1)
run({small})
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
run({size})
print(status("VmHWM") - before)
"""


# the numbers of these options are those of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make the allocator of this process keep what is freed, and return whether it will.

    glibc gives freed blocks above a threshold back to the system, and its threshold depends on what the process
    has freed before. The first touch of new pages then takes longer than the work of a norm, so that the history
    of the heap would decide which implementation is faster. Afterwards a call in a loop finds the pages of the
    call before, as with jemalloc or tcmalloc. Only Linux with glibc has these settings.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # no block is mapped by itself, and no free end of the heap is returned
    return bool(set_option(_MMAP_MAX, 0)) and bool(set_option(_TRIM_THRESHOLD, -1))


def peak_of_call(
    call: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device
) -> int | None:
    """Return the largest number of bytes that call(*inputs) holds beyond its inputs, None where unknown.

    Outputs are included. On a GPU the number comes from torch's allocator. On the CPU it comes from the resident
    set, in whole pages (Linux with glibc only). The resident set covers every library; it does not grow for
    what a first call keeps for later ones, so call the function once before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call(*inputs)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # pages that the allocator keeps would hide what the call takes
        ctypes.CDLL(None).malloc_trim(0)
        # this resets the peak of the resident set to its present size
        (_SELF / "clear_refs").write_text("5")
    except (AttributeError, OSError):
        return None
    before = _status("VmRSS")
    call(*inputs)
    return max(_status("VmHWM") - before, 0)


def _status(key: str) -> int:
    """Return a number of bytes that the kernel reports of this process."""
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def peak(definition: str, size: int, small: int, *arguments: str) -> float:
    """Return the peak MiB of run(size) after run(small), in a process of its own. Linux only.

    `definition` is the source of `run`, which finds the arguments in sys.argv[1:].
    """
    program = _PROGRAM.format(definition=definition, size=size, small=small)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=machine.ROOT,
    )
    return int(done.stdout) / 1024


def verdict(
    rows: Sequence[dict[str, Any]], reached: float, goal: float, at: int, path: str | None
) -> int:
    """Print whether the ratio reached at a size meets the goal, write the rows to a file if one is named, and
    return the exit status."""
    if path:
        facts = {"commit": machine.commit(), "versions": machine.versions(), "rows": [*rows]}
        Path(path).write_text(json.dumps(facts, indent=1) + "\n")
    print(f"goal: {goal:g}x at {at}, {'met' if reached >= goal else 'missed'}")
    return int(reached < goal)
