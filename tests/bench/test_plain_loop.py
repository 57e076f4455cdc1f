"""Test that the hand-written loop gives the same bits, and that the other projects are optional."""

from __future__ import annotations

import pytest
import torch

from bench.rivals import plain_loop
from bench.rivals import resamplers as peers
from edmfast.ops import systematic_resample


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 1000), (2, 10_007), (50, 64)], ids=str)
def test_same_ancestors_as_ours(shape):
    if plain_loop.compiler() is None:
        pytest.skip("no C++ compiler")
    generator = torch.Generator().manual_seed(1)
    for scale in (0.01, 1.0, 100.0):
        log_weights = scale * torch.randn(shape, generator=generator)
        uniform = torch.rand(shape[0], dtype=torch.float64, generator=generator)
        ours = systematic_resample(log_weights, uniform).ancestors
        assert torch.equal(plain_loop.plain_resample(log_weights, uniform), ours)


def test_no_compiler_is_not_an_error(monkeypatch, capsys):
    from bench.cases import systematic_resample as bench_systematic_resample

    monkeypatch.setattr(plain_loop, "compiler", lambda: None)
    assert bench_systematic_resample.hand_written() == {}
    assert "no C++ compiler" in capsys.readouterr().err


def test_projects_that_are_absent_are_left_out(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.resamplers() == {}
