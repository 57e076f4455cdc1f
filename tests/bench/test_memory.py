"""Test the memory peaks of calls whose memory is known, and that a system without an account gives none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.harness import memory

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="the resident set is Linux's account")


def filled(mebibytes):
    return torch.ones(mebibytes * MIB // 4)


def measured():
    """Return the peaks of the calls of the tests below."""
    peaks = {}
    for mebibytes in (4, 64):
        filled(mebibytes)
        peaks[f"returned {mebibytes}"] = [
            memory.peak_of_call(filled, (mebibytes,), CPU) for _ in range(2)
        ]

    def call():
        return (filled(16) + 1).sum()

    call()
    peaks["freed"] = memory.peak_of_call(call, (), CPU)
    kept = filled(64)
    kept.sum()
    peaks["kept"] = memory.peak_of_call(torch.sum, (kept,), CPU)
    return peaks


@pytest.fixture(scope="module")
def peaks():
    """Return the peaks that a fresh process measures.

    A process that has run many other tests brings pages of its own back into its resident set at any time.
    """
    program = "import json; from tests.bench import test_memory; print(json.dumps(test_memory.measured()))"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1])


@linux
@pytest.mark.parametrize("mebibytes", [4, 64])
def test_what_a_call_returns_counts(mebibytes, peaks):
    for peak in peaks[f"returned {mebibytes}"]:
        assert peak == pytest.approx(mebibytes * MIB, abs=MIB)


@linux
def test_what_a_call_frees_again_counts_at_its_most(peaks):
    assert peaks["freed"] == pytest.approx(32 * MIB, abs=2 * MIB)


@linux
def test_what_was_there_before_does_not_count(peaks):
    assert peaks["kept"] < MIB


def test_unknown_without_the_account(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_SELF", tmp_path / "absent")
    assert memory.peak_of_call(torch.zeros, (1,), CPU) is None


@linux
def test_what_is_freed_is_kept():
    """The heap grows for some calls, until none faults; by itself glibc always returns this block."""
    program = """
import resource, sys, torch
from bench.harness import memory
if sys.argv[1] == "kept":
    assert memory.keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    before = faults()
    torch.ones(2**24)
print(faults() - before)
"""
    counted = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", program, how],
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
                cwd=ROOT,
            ).stdout
        )
        for how in ("kept", "returned")
    }
    assert counted["kept"] < 10
    # huge pages, where the system has them, need eight
    assert counted["returned"] > counted["kept"]
