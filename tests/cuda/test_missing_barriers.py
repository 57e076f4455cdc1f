"""The emulated tests fail where any barrier of the CUDA kernels is taken out.

A barrier that none of them needs is either redundant, or its need is not tested. Fences order memory between
blocks, and the emulator, which runs one block after the other, cannot miss them, nor a barrier that only completes
the fence on the line before it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARRIER = "__syncthreads();"


def barriers() -> list[tuple[str, int]]:
    """Return (header in csrc/cuda, line from 0) of every barrier that orders the threads of one block."""
    found = []
    for path in sorted((ROOT / "csrc" / "cuda").glob("*.h")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if BARRIER in line and "__threadfence" not in lines[number - 1]:
                found.append((path.name, number))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("header", "line"), barriers(), ids=lambda value: str(value))
def test_a_missing_barrier_is_found(header, line, tmp_path):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    tests = tmp_path / "tests" / "cuda"
    shutil.copytree(Path(__file__).parent, tests, ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "csrc" / "cuda" / header
    lines = source.read_text().splitlines()
    lines[line] = lines[line].replace(BARRIER, ";")
    source.write_text("\n".join(lines) + "\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    files = sorted(map(str, tests.glob("test_*_emulated.py")))
    options = ["-p", "no:cacheprovider", "-q", "-x", "-c", str(tmp_path / "pytest.ini")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    # a test failed, or a wrong index ended the process; other numbers say that no test ran
    assert done.returncode == 1 or done.returncode < 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_barriers_are_found_in_the_sources():
    assert len(barriers()) > 10
