"""Peak memory of a job in a process of its own: how far the resident set grows above what a small job left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine

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


def peak(definition: str, size: int, small: int, *arguments: str) -> float:
    """Peak MiB of run(size) after run(small), `definition` being the source of run, which finds the arguments
    in sys.argv[1:]. Linux only."""
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
    """Prints whether the ratio reached at a size meets the goal, and writes the rows to a file where one is named;
    exit status."""
    if path:
        facts = {"commit": machine.commit(), "versions": machine.versions(), "rows": [*rows]}
        Path(path).write_text(json.dumps(facts, indent=1) + "\n")
    print(f"goal: {goal:g}x at {at}, {'met' if reached >= goal else 'missed'}")
    return int(reached < goal)
