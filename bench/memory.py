"""Peak memory of a job in a process of its own: how far the resident set grows above what a small job left."""

from __future__ import annotations

import subprocess
import sys

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
