"""Test numbers of the diagnostics in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import analytic, diagnostics
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table

PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 6).reshape(3, 2)
SIGMAS = [4.0, 2.0, 1.0, 0.5]


CASES = [
    row(
        "sliced_wasserstein",
        "projections",
        COUNT,
        3,
        lambda n: diagnostics.sliced_wasserstein(X, X + 1, projections=n),
        0,
    ),
    row(
        "sliced_wasserstein",
        "seed",
        SEED,
        7,
        lambda s: diagnostics.sliced_wasserstein(X, X + 1, seed=s),
    ),
    row(
        "maximum_mean_discrepancy",
        "bandwidth",
        REAL,
        0.5,
        lambda b: diagnostics.maximum_mean_discrepancy(X, X + 1, bandwidth=b),
        0.0,
        1e-200,
    ),
    row(
        "log_z_error",
        "truth",
        REAL,
        0.5,
        lambda t: diagnostics.log_z_error(torch.zeros(2), t),
        math.inf,
    ),
    *table(
        "field_asymmetry",
        lambda **o: diagnostics.field_asymmetry(lambda x: x.square(), X, **o),
        probes=(COUNT, 2, 0),
        seed=(SEED, 7),
    ),
    row(
        "field_asymmetry",
        "scale",
        REAL,
        0.5,
        lambda s: diagnostics.field_asymmetry(torch.square, X, method="difference", scale=s),
        0.0,
    ),
    row(
        "score_asymmetry",
        "sigma",
        REAL,
        0.5,
        lambda s: diagnostics.score_asymmetry(PAIR, X, s),
        0.0,
        1e30,
    ),
    *table(
        "fokker_planck",
        lambda **o: diagnostics.fokker_planck(PAIR, [X], [0.5], **o),
        probes=(COUNT, 2, 0),
        seed=(SEED, 7),
        relative_step=(REAL, 0.125, 0.0),
    ),
    row(
        "fokker_planck",
        "sigmas",
        REAL,
        0.5,
        lambda s: diagnostics.fokker_planck(PAIR, [X], [s]),
        0.0,
    ),
    *table(
        "rectangle_circulation",
        lambda **o: diagnostics.rectangle_circulation(
            lambda x: x.square(), X, **({"sides": 1.0} | o)
        ),
        sides=(REAL, 0.5, 0.0),
        seed=(SEED, 7),
        tolerance=(REAL, 0.5, -1.0),
        max_nodes=(COUNT, 8, 0),
    ),
    row(
        "score_circulation",
        "sigma",
        REAL,
        0.5,
        lambda s: diagnostics.score_circulation(PAIR, X, s),
        0.0,
    ),
    row(
        "noising_trajectory",
        "seed",
        SEED,
        7,
        lambda s: diagnostics.noising_trajectory(X, SIGMAS, seed=s),
    ),
    row(
        "noising_trajectory",
        "sigmas",
        REAL,
        0.5,
        lambda s: diagnostics.noising_trajectory(X, [2.0, s]),
        0.0,
    ),
    row(
        "ancestral_trajectory",
        "seed",
        SEED,
        7,
        lambda s: diagnostics.ancestral_trajectory(PAIR, X, SIGMAS, seed=s),
    ),
    row(
        "self_check",
        "sigmas",
        REAL,
        0.5,
        lambda s: diagnostics.self_check(PAIR, [X, X], [2.0, s]).residuals,
        0.0,
    ),
    *table(
        "energy_error",
        lambda **o: diagnostics.energy_error(PAIR, PAIR, [0.5], **o),
        count=(COUNT, 4, 1),
        seed=(SEED, 7),
    ),
    row(
        "energy_error",
        "sigmas",
        REAL,
        0.5,
        lambda s: diagnostics.energy_error(PAIR, PAIR, [s], count=4),
        0.0,
        1e-200,
    ),
    row(
        "conservativity_report",
        "sigmas",
        REAL,
        0.5,
        lambda s: diagnostics.conservativity_report({"a": PAIR}, [X], [s]),
    ),
    row(
        "conservativity_report",
        "probes",
        COUNT,
        2,
        lambda n: diagnostics.conservativity_report({"a": PAIR}, [X], [0.5], probes=n),
        0,
    ),
    *table(
        "score_asymmetry",
        lambda **o: diagnostics.score_asymmetry(PAIR, X, 0.5, **o),
        probes=(COUNT, 2, 0),
        seed=(SEED, 7),
    ),
    row(
        "score_circulation",
        "sides",
        REAL,
        0.5,
        lambda s: diagnostics.score_circulation(PAIR, X, 1.0, sides=s),
        0.0,
    ),
    row(
        "conservativity_report",
        "seed",
        SEED,
        7,
        lambda s: diagnostics.conservativity_report({"a": PAIR}, [X], [0.5], seed=s),
    ),
    row(
        "ancestral_trajectory",
        "sigmas",
        REAL,
        0.5,
        lambda s: diagnostics.ancestral_trajectory(PAIR, X, [2.0, s]),
        0.0,
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
