"""Provide a tiny case, and put the repository root on the path because `bench` is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))

from bench.harness.correctness import close
from bench.harness.registry import Case
from bench.harness.timing import Effort


def make_inputs(shape, dtype, device):
    return torch.linspace(-1, 1, shape[0], dtype=dtype, device=device), 2.0


def scale(x, factor):
    return x * factor


def make_case(**changes):
    fields = {
        "name": "scale/100",
        "shape": (100,),
        "make_inputs": make_inputs,
        "ours": scale,
        "baselines": {"twice": lambda x, factor: x.double().mul(factor).float()},
        "reference": lambda x, factor: x.double() * factor,
        "check": close(1e-6),
        "bytes": 800,
        "goal": 1.0,
    }
    return Case(**(fields | changes))


@pytest.fixture
def case():
    return make_case


@pytest.fixture
def effort():
    return Effort(seconds=0.0, rounds=3, sample_seconds=0.0)
