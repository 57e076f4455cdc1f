"""Test the memory peaks of calls whose memory is known, and that a system without an account gives none."""

from __future__ import annotations

import sys

import pytest
import torch

from bench.harness import memory

CPU = torch.device("cpu")
MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="the resident set is Linux's account")


def filled(mebibytes):
    return torch.ones(mebibytes * MIB // 4)


@linux
@pytest.mark.parametrize("mebibytes", [4, 64])
def test_what_a_call_returns_counts(mebibytes):
    filled(mebibytes)
    for _ in range(2):
        peak = memory.peak_of_call(filled, (mebibytes,), CPU)
        assert peak == pytest.approx(mebibytes * MIB, abs=MIB)


@linux
def test_what_a_call_frees_again_counts_at_its_most():
    def call():
        return (filled(16) + 1).sum()

    call()
    assert memory.peak_of_call(call, (), CPU) == pytest.approx(32 * MIB, abs=2 * MIB)


@linux
def test_what_was_there_before_does_not_count():
    kept = filled(64)
    kept.sum()
    assert memory.peak_of_call(torch.sum, (kept,), CPU) < MIB


def test_unknown_without_the_account(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_SELF", tmp_path / "absent")
    assert memory.peak_of_call(torch.zeros, (1,), CPU) is None
