"""Test numbers of the flow models and interpolants in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import analytic, interpolants
from tests.interpolants.two_mixtures import BASE, DATA
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table

PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
MIXTURE = interpolants.GaussianMixtureInterpolant(BASE, DATA)
X = torch.linspace(-1, 1, 6).reshape(3, 2)
LINE = torch.linspace(-1, 1, 3)[:, None]
TIMES = [0.5, 0.75, 1.0]


def denoised(**options):
    return interpolants.from_velocity(lambda x, t: x * t[:, None], **options)(X, 1.0)


def velocity(**options):
    return interpolants.to_velocity(PAIR, **options)(X, 0.5)


def diffused(**options):
    arguments = {"seed": 1, "disable": True} | options
    return interpolants.solve_sde(MIXTURE, LINE, TIMES, **arguments)


CASES = [
    row("from_velocity", "time_scale", REAL, 4.0, lambda s: denoised(time_scale=s), 0.0, math.inf),
    row("to_velocity", "time_scale", REAL, 4.0, lambda s: velocity(time_scale=s), 0.0, math.inf),
    row("to_velocity", "sigma_max", REAL, 0.5, lambda s: velocity(sigma_max=s), 0.0, math.inf),
    row(
        "OneSidedModel",
        "sigma_max",
        REAL,
        0.5,
        lambda s: interpolants.OneSidedModel(PAIR, sigma_max=s).drift(X, 0.5),
        0.0,
        math.inf,
    ),
    *table(
        "sigmas_from_times",
        lambda **o: interpolants.sigmas_from_times(**({"times": TIMES} | o)),
        shift=(REAL, 0.5, 0.0, math.inf),
        sigma_max=(REAL, 0.5, 0.0, math.inf),
    ),
    *table(
        "solve_sde",
        diffused,
        epsilon=(REAL, 0.5, -1.0, math.inf),
        seed=(SEED, 7),
        first_sample=(COUNT, 7, -1),
    ),
    *table(
        "log_likelihood",
        lambda **o: (
            interpolants.log_likelihood(
                lambda x, t: torch.sin(x @ torch.ones(2, 2)), X, [1, 0.5], disable=True, **o
            ).log_prob
        ),
        probes=(COUNT, 2, 0),
    ),
    row(
        "log_likelihood",
        "seed",
        SEED,
        7,
        lambda s: (
            interpolants.log_likelihood(
                lambda x, t: torch.sin(x @ torch.ones(2, 2)), X, [1, 0.5], probes=1, seed=s
            ).log_prob
        ),
    ),
    row("draws", "n", COUNT, 3, lambda n: MIXTURE.sample(n, 0.5, seed=1), -1),
    row("draws", "t", REAL, 0.5, lambda t: MIXTURE.sample(3, t, seed=1), -1.0, 2.0),
    row("draws", "seed", SEED, 7, lambda s: MIXTURE.sample(3, 0.5, seed=s)),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
