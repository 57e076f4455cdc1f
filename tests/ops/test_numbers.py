"""Test numbers that operators take, in every spelling and with wrong values; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import ops
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table

X = torch.linspace(-1, 1, 6).reshape(3, 2)
CHAINS = X[None].repeat(2, 1, 1)
LOGITS = torch.linspace(-1, 1, 8).reshape(2, 4)
RNG = ops.rng_state(0, 0)
WEIGHTS = ops.Weights.start(2, 4, torch.device("cpu"))
NOISE = {
    "seeds": torch.tensor([3]),
    "nodes": torch.tensor([4]),
    "weights": torch.ones(1, dtype=torch.float64),
}


CASES = [
    row("rng_state", "seed", SEED, 7, lambda s: ops.rng_state(s, 0)),
    row("rng_state", "step", COUNT, 7, lambda n: ops.rng_state(0, n), -1, 2**32),
    *table(
        "standard_normal",
        lambda **o: ops.standard_normal(X[None], **o),
        seed=(SEED, 7),
        step=(COUNT, 3, -1),
        stream=(COUNT, 3, -1, 16),
        first_population=(COUNT, 3, -1, 2**28),
        first_particle=(COUNT, 3, -1),
    ),
    *table(
        "random_signs",
        lambda **o: ops.random_signs(X[None], **o),
        count=(COUNT, 3, 0),
        seed=(SEED, 7),
        step=(COUNT, 3, -1),
        stream=(COUNT, 3, -1, 16),
        first_population=(COUNT, 3, -1, 2**28),
        first_particle=(COUNT, 3, -1),
    ),
    *table(
        "linear_combination",
        lambda **o: ops.linear_combination([X], [1.0], **NOISE, **o),
        stream=(COUNT, 3, -1, 16),
        first_sample=(COUNT, 3, -1, 2**32 - 1),
    ),
    row(
        "linear_combination",
        "coefficients",
        REAL,
        0.5,
        lambda c: ops.linear_combination([X], [c]),
        math.inf,
    ),
    row("curvature", "exponent", REAL, 0.5, lambda a: ops.curvature(X[None], X[None], a), math.inf),
    row(
        "curvature_matched",
        "exponent",
        REAL,
        0.5,
        lambda a: ops.curvature_matched(
            LOGITS.double(), torch.zeros(2, 4, dtype=torch.int32), torch.ones(2).double(), a
        ),
        math.inf,
    ),
    row(
        "systematic_resample",
        "ess_threshold",
        REAL,
        0.5,
        lambda t: ops.systematic_resample(LOGITS, torch.full((2,), 0.5), ess_threshold=t),
        -1.0,
        2.0,
    ),
    *table(
        "resample",
        lambda **o: ops.resample(LOGITS, RNG, **o),
        count=(COUNT, 3, 0),
        ess_threshold=(REAL, 0.5, 2.0),
        first_population=(COUNT, 3, -1),
    ),
    *table(
        "propagate",
        lambda **o: ops.propagate(
            CHAINS,
            CHAINS,
            torch.zeros(2, 3, dtype=torch.int32),
            torch.ones(2, 3).double(),
            RNG,
            **o,
        ),
        first_population=(COUNT, 3, -1),
        first_particle=(COUNT, 3, -1),
    ),
    *table(
        "weigh_and_resample",
        lambda **o: ops.weigh_and_resample(WEIGHTS, LOGITS, [], [], RNG, **o),
        ess_threshold=(REAL, 0.5, 2.0),
        first_population=(COUNT, 3, -1),
    ),
    row("group_norm", "groups", COUNT, 2, lambda n: ops.group_norm(torch.ones(1, 4, 2), n), 0, 3),
    row(
        "group_norm",
        "eps",
        REAL,
        0.5,
        lambda e: ops.group_norm(torch.ones(1, 4, 2), 2, eps=e),
        -1.0,
        math.inf,
    ),
    row("layer_norm", "eps", REAL, 0.5, lambda e: ops.layer_norm(X, eps=e), -1.0),
    row("rms_norm", "eps", REAL, 0.5, lambda e: ops.rms_norm(X, eps=e), -1.0),
    row(
        "attention",
        "scale",
        REAL,
        0.5,
        lambda s: ops.attention(X[None], X[None], X[None], scale=s),
        math.inf,
    ),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
