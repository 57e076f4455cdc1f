"""Targets, constraints and exact densities accept every spelling of their numbers and refuse invalid ones.

See `tests.spellings` for the spellings.
"""

from __future__ import annotations

import math

import pytest
import torch

import edmfast
from edmfast import analytic, models, targets
from edmfast.models.recomputing.blocks import recomputing_blocks
from edmfast.targets import constrained as constraints
from edmfast.targets import measurements
from tests.spellings import CONDITION, COUNT, REAL, SEED, check_bad, check_good, row, table

NORMAL = analytic.GaussianMixture([[0.0, 0.0]], [1.0])
WIDE = [[[1.0, 0.2], [0.2, 0.5]]]
PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 6).reshape(3, 2)


def reward(x):
    return x.flatten(1).sum(1)


def tilted(**options):
    target = edmfast.Tilted(PAIR, reward, options.pop("strength", 1.0), **options)
    return evaluated(target)


def evaluated(target, sigma=0.5, x=X):
    return target.energy_and_score(x, sigma)


def inverse(**options):
    noise = options.pop("noise", 0.5)
    return evaluated(edmfast.LinearInverse(PAIR, torch.ones(1, 2), torch.ones(1), noise, **options))


def walled(**options):
    strength = options.pop("strength", 1.0)
    return evaluated(edmfast.Constrained(PAIR, constraints.box(-1, 1), strength, **options))


def built(kind, *sizes, **options):
    torch.manual_seed(0)
    return kind(*sizes, **options)


def points(value=0.5, kind=analytic.PointSet, **options):
    return kind([[value, 0.0]], **({"dof": 3.0} | options))


def recomputing(every):
    model = models.checkpoint_blocks(models.UNet(1, (4, 4), groups=2), every=every)
    return torch.tensor(len(recomputing_blocks(model)))


def potential(value=0.5, **options):
    return points(value, analytic.PointPotential, **options)


def mlp(**options):
    return built(models.ResidualMLP, **({"dim": 2, "width": 8, "depth": 1} | options))


CASES = [
    row(
        "GaussianMixture",
        "means",
        REAL,
        0.5,
        lambda v: evaluated(analytic.GaussianMixture([[v, 0.0]], [1.0])),
        math.inf,
    ),
    row(
        "GaussianMixture",
        "stds",
        REAL,
        0.5,
        lambda v: evaluated(analytic.GaussianMixture([[0.0, 0.0]], [v])),
        0.0,
        1e200,
    ),
    row(
        "GaussianMixture",
        "weights",
        REAL,
        0.5,
        lambda v: evaluated(analytic.GaussianMixture([[0.0, 0.0]], [1.0], [v])),
        -1.0,
    ),
    row("GaussianMixture.sample", "n", COUNT, 3, lambda n: PAIR.sample(n, seed=0), -1),
    row("GaussianMixture.sample", "sigma", REAL, 0.5, lambda s: PAIR.sample(3, s, seed=0), -1.0),
    row("GaussianMixture.sample", "seed", SEED, 7, lambda s: PAIR.sample(3, seed=s)),
    row("checkpoint_blocks", "every", COUNT, 2, recomputing, 0),
    row("PointSet", "points", REAL, 0.5, lambda v: evaluated(points(v)), math.inf),
    row("PointSet", "weights", REAL, 0.5, lambda v: evaluated(points(weights=[v])), -1.0),
    row("PointSet", "dof", REAL, 3, lambda v: evaluated(points(dof=v)), 0.0, -1.0),
    row("PointSet.sample", "n", COUNT, 3, lambda n: points().sample(n, seed=0), -1),
    row("PointSet.sample", "sigma", REAL, 0.5, lambda s: points().sample(3, s, seed=0), -1.0),
    row("PointSet.sample", "seed", SEED, 7, lambda s: points().sample(3, seed=s)),
    row("PointPotential", "points", REAL, 0.5, lambda v: evaluated(potential(v)), math.inf),
    row("PointPotential", "weights", REAL, 0.5, lambda v: evaluated(potential(weights=[v])), -1.0),
    row("PointPotential", "dof", REAL, 3, lambda v: evaluated(potential(dof=v)), 0.0, -1.0),
    row(
        "PotentialDenoiser",
        "dof",
        REAL,
        3,
        lambda v: models.PotentialDenoiser(potential(), dof=v)(X, 0.5),
        0.0,
        -1.0,
    ),
    row(
        "MixtureOfGaussians",
        "means",
        REAL,
        0.5,
        lambda v: evaluated(analytic.MixtureOfGaussians([[v, 0.0]], WIDE)),
        math.inf,
    ),
    row(
        "MixtureOfGaussians",
        "weights",
        REAL,
        0.5,
        lambda v: evaluated(analytic.MixtureOfGaussians([[0.0, 0.0]], WIDE, [v])),
        -1.0,
    ),
    row(
        "MixtureOfGaussians",
        "classes",
        REAL,
        1,
        lambda k: evaluated(
            analytic.MixtureOfGaussians(torch.eye(2), [*WIDE, *WIDE], None, [0, k])
        ),
        -1,
        0.5,
    ),
    row("ManyWell", "dim", COUNT, 2, lambda n: evaluated(analytic.ManyWell(n)), 0, 3),
    row("ManyWell.sample", "n", COUNT, 3, lambda n: analytic.ManyWell(2).sample(n, seed=0), -1),
    row(
        "ManyWell.sample",
        "sigma",
        REAL,
        0.5,
        lambda s: analytic.ManyWell(2).sample(3, s, seed=0),
        -1.0,
    ),
    row("ManyWell.sample", "seed", SEED, 7, lambda s: analytic.ManyWell(2).sample(3, seed=s)),
    *table(
        "DoubleWellPairs",
        lambda **o: evaluated(
            analytic.DoubleWellPairs(**({"particles": 3} | o)),
            0.0,
            torch.arange(12.0).reshape(2, 6),
        ),
        dimensions=(COUNT, 2, 0),
        particles=(COUNT, 3, 1),
        a=(REAL, 0.5),
        b=(REAL, 0.5),
        c=(REAL, 0.5),
        offset=(REAL, 0.5),
        tau=(REAL, 0.5, 0.0),
        centre_std=(REAL, 0.5, 0.0),
    ),
    *table(
        "LennardJones",
        lambda **o: evaluated(
            analytic.LennardJones(3, 2, **o), 0.0, torch.arange(12.0).reshape(2, 6)
        ),
        eps=(REAL, 0.5),
        r_m=(REAL, 0.5),
        trap=(REAL, 0.5),
        tau=(REAL, 0.5, 0.0),
    ),
    *table(
        "Tilted",
        tilted,
        strength=(REAL, 0.5, math.inf),
        gradient_scale=(REAL, 0.5, math.inf),
        data_std=(REAL, 0.5, 0.0, 1e30),
    ),
    row("Tilted", "ramp", REAL, 0.5, lambda s: tilted(ramp=(1.0, s)), 0.0, 2.0),
    *table("Constrained", walled, strength=(REAL, 0.5), hard_below=(REAL, 0.5, 0.0, math.inf)),
    row("box", "low", REAL, -0.5, lambda v: constraints.box(v, 1.0)(X)),
    row("box", "high", REAL, 0.5, lambda v: constraints.box(-1.0, v)(X)),
    row(
        "half_space",
        "offset",
        REAL,
        0.5,
        lambda v: constraints.half_space(torch.ones(2), v)(X),
        math.inf,
    ),
    row(
        "half_space",
        "normal",
        REAL,
        0.5,
        lambda v: constraints.half_space([v, 1.0], 0.0)(X),
        math.inf,
    ),
    row(
        "super_resolution",
        "factor",
        COUNT,
        2,
        lambda n: measurements.super_resolution(n)(torch.ones(1, 1, 4, 4)),
        0,
    ),
    row("gaussian_kernel", "std", REAL, 0.5, measurements.gaussian_kernel, 0.0, 1e30, 1e-200),
    row("gaussian_kernel", "radius", COUNT, 2, lambda n: measurements.gaussian_kernel(0.5, n), -1),
    *table(
        "LinearInverse",
        inverse,
        noise=(REAL, 0.5, 0.0, 1e30),
        full_below=(REAL, 0.5, -1.0, math.inf),
        data_std=(REAL, 0.5, 0.0),
        gradient_scale=(REAL, 0.5),
    ),
    row(
        "Product",
        "exponents",
        REAL,
        0.5,
        lambda a: evaluated(edmfast.Product([PAIR], [a])),
        math.inf,
    ),
    row("Tempered", "gamma", REAL, 0.5, lambda a: evaluated(edmfast.Tempered(PAIR, a)), math.inf),
    row(
        "Guided",
        "weight",
        REAL,
        0.5,
        lambda a: evaluated(edmfast.Guided(NORMAL, PAIR, a)),
        math.inf,
    ),
    row(
        "Mixture",
        "weights",
        REAL,
        0.5,
        lambda w: evaluated(edmfast.Mixture([NORMAL, PAIR], [w, 1.0])),
        0.0,
        math.inf,
    ),
    row(
        "Offsets", "sigmas", REAL, 0.5, lambda s: targets.Offsets((1.0, s), ((0.0, 1.0),) * 2), 0.0
    ),
    row("Offsets", "values", REAL, 0.5, lambda v: targets.Offsets((1.0,), ((v, 1.0),)), math.inf),
    row(
        "Conditioned",
        "class_label",
        CONDITION,
        1,
        lambda n: evaluated(
            edmfast.Conditioned(edmfast.EnergyModel(mlp(num_classes=2)), class_label=n)
        ),
    ),
    *[
        row(
            name,
            "sigma",
            REAL,
            0.5,
            lambda s, target=target: evaluated(target, s),
            -1.0,
            1e30,
            1e-30,
        )
        for name, target in {
            "GaussianMixture.energy_and_score": PAIR,
            "ManyWell.energy_and_score": analytic.ManyWell(2),
            "EnergyModel.energy_and_score": edmfast.EnergyModel(mlp()),
            "Product.energy_and_score": edmfast.Product([PAIR, NORMAL]),
            "Mixture.energy_and_score": edmfast.Mixture([PAIR, NORMAL]),
            "Tilted.energy_and_score": edmfast.Tilted(PAIR, reward, 1.0, gradient="exact"),
        }.items()
    ],
    row("Denoiser.forward", "sigma", REAL, 0.5, lambda s: edmfast.Denoiser(mlp())(X, s), -1.0),
    *table(
        "Constrained",
        walled,
        data_std=(REAL, 0.5, 0.0),
        gradient_scale=(REAL, 0.5, math.inf),
    ),
    row("Constrained", "ramp", REAL, 0.5, lambda s: walled(ramp=(1.0, s)), 0.0, 2.0),
    *table(
        "LennardJones",
        lambda **o: evaluated(
            analytic.LennardJones(**({"particles": 3, "dimensions": 2} | o)),
            0.0,
            torch.arange(12.0).reshape(2, 6),
        ),
        particles=(COUNT, 3, 1),
        dimensions=(COUNT, 2, 0),
        centre_std=(REAL, 0.5, 0.0),
    ),
    row(
        "Offsets",
        "errors",
        REAL,
        0.5,
        lambda e: targets.Offsets((1.0,), ((1.0,),), ((e,),)),
        math.inf,
    ),
    row("expand_sigma", "sigma", REAL, 0.5, lambda s: models.expand_sigma(s, X), -1.0, 1e30),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
