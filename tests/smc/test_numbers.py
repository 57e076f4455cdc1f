"""Test the numbers that runs, calibrations, chains and steering take.

Each is given in every spelling, and with wrong values: see `tests.spellings`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import edmfast
from edmfast import analytic, smc
from tests.grouped import grouped
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, same, table

NORMAL = analytic.GaussianMixture([[0.0, 0.0]], [1.0])
PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 6).reshape(3, 2)
CHAINS = X[None].repeat(2, 1, 1)
SIGMAS = [4.0, 2.0, 1.0, 0.5]
RUN = smc.sample(
    PAIR, (2,), SIGMAS, particles=4, populations=2, options=smc.RunOptions(genealogy=True)
)


def reward(x):
    return x.flatten(1).sum(1)


def run(**options):
    return smc.sample(PAIR, (2,), SIGMAS, **grouped(**({"particles": 4} | options)))


def calibrated(**options):
    settings = {"particles": 8, "pilot_steps": 4} | options
    return smc.calibrate(PAIR, (2,), SIGMAS, **settings)


def chains(**options):
    settings = {"sigma": 1.0, "transitions": 4} | options
    return smc.mcmc(PAIR, CHAINS, settings.pop("sigma"), smc.MALA(), **settings)


def steered(**options):
    settings = {"prompts": 2, "candidates": 2} | options
    return smc.steer(PAIR, reward, (2,), SIGMAS, **grouped(**settings))


def offsets(**options):
    mixture = edmfast.Mixture([NORMAL, PAIR])
    settings = {"particles": 4, "populations": 2} | options
    return smc.calibrate_offsets(mixture, (2,), SIGMAS, **settings).offsets


CASES = [
    *table(
        "smc.sample",
        run,
        particles=(COUNT, 4, 0, -1),
        populations=(COUNT, 2, 0),
        seed=(SEED, 7),
        ess_threshold=(REAL, 0.5, -0.1, 1.5),
    ),
    row(
        "smc.Distribution",
        "first_population",
        COUNT,
        3,
        lambda n: run(distribution=smc.Distribution(first_population=n)),
        -1,
        2**28,
    ),
    row(
        "smc.RunOptions",
        "batch_size",
        COUNT,
        2,
        lambda n: run(options=smc.RunOptions(batch_size=n)),
        0,
        -1,
    ),
    row("smc.Checkpoint", "every", COUNT, 2, lambda n: smc.Checkpoint(every=n), 0, -1),
    row(
        "smc.sample",
        "shape",
        COUNT,
        2,
        lambda n: smc.sample(PAIR, (n,), SIGMAS, particles=4),
        0,
        -1,
    ),
    row(
        "smc.sample",
        "sigmas",
        REAL,
        0.5,
        lambda s: smc.sample(PAIR, (2,), [4.0, 2.0, s], particles=4),
        -1.0,
        1e30,
    ),
    row("smc.sample", "sigma_range", REAL, 0.5, lambda s: run(sigma_range=(s, 3.0)), -1.0),
    row(
        "smc.Correction",
        "sigma_range",
        REAL,
        0.5,
        lambda s: run(correction=smc.Correction(smc.ULA(), sigma_range=(s, 3.0))),
        -1.0,
    ),
    row(
        "smc.Correction",
        "waste_free",
        COUNT,
        2,
        lambda n: run(correction=smc.Correction(smc.MALA(), waste_free=n)),
        1,
        -1,
    ),
    *table(
        "smc.calibrate",
        calibrated,
        particles=(COUNT, 8, 0),
        populations=(COUNT, 1, 0),
        pilot_steps=(COUNT, 4, 1, -1),
        seed=(SEED, 7),
        sigma_lo=(REAL, 1.0, -1.0),
        probes=(REAL, 1.5, -1.0, math.inf),
    ),
    row("smc.Reversal", "probes", COUNT, 2, lambda n: run(weights=smc.Reversal(n)), -1),
    row("smc.Hybrid", "probes", COUNT, 2, lambda n: run(weights=smc.Hybrid(n, 0.8)), -1),
    row("smc.Hybrid", "above", REAL, 0.5, lambda s: run(weights=smc.Hybrid(above=s)), 0.0, -1.0),
    *table(
        "smc.mcmc",
        chains,
        sigma=(REAL, 0.5, 0.0, -1.0, 1e30),
        transitions=(COUNT, 3, 0),
        warmup=(COUNT, 1, -1),
        thin=(COUNT, 2, 0),
        seed=(SEED, 7),
        first_population=(COUNT, 3, -1),
        batch_size=(COUNT, 2, 0),
    ),
    *table(
        "smc.steer",
        steered,
        prompts=(COUNT, 2, 0),
        candidates=(COUNT, 2, 0),
        strength=(REAL, 0.5, math.inf),
        seed=(SEED, 7),
    ),
    *table(
        "smc.calibrate_offsets",
        offsets,
        particles=(COUNT, 4, 0),
        populations=(COUNT, 2, 0),
        seed=(SEED, 7),
    ),
    row("Particles.draw", "seed", SEED, 7, lambda s: RUN.draw(s)),
    row("Particles.draw_index", "seed", SEED, 7, lambda s: RUN.draw_index(s)),
    row("Particles.lineage", "population", COUNT, 1, lambda n: RUN.lineage(n, 0), -1, 2),
    row("Particles.lineage", "particle", COUNT, 1, lambda n: RUN.lineage(0, n), -1, 4),
    row("Particles.descendants", "level", COUNT, 1, lambda n: RUN.descendants(n, 0, 0), -1, 4),
    row(
        "Calibration",
        "sigma_lo",
        REAL,
        0.5,
        lambda s: smc.Calibration((2.0, 0.5), (0.5,), (1.0,), s),
        -1.0,
        2.0,
    ),
    row("Calibration", "sigmas", REAL, 0.5, lambda s: smc.Calibration((2.0, s), (0.5,), (1.0,))),
    row("Calibration", "kappa", REAL, 0.5, lambda s: smc.Calibration((2.0, 0.5), (s,), (1.0,))),
    row(
        "Calibration",
        "log_weight_sd",
        REAL,
        0.5,
        lambda s: smc.Calibration((2.0, 0.5), (0.5,), (s,)),
    ),
    row(
        "Calibration",
        "probes",
        COUNT,
        2,
        lambda n: smc.Calibration((2.0, 0.5), (0.5,), (1.0,), probes=(n,)),
        -1,
    ),
    row(
        "Calibration",
        "probe_sd",
        REAL,
        0.5,
        lambda s: smc.Calibration((2.0, 0.5), (0.5,), (1.0,), probe_sd=(s,)),
    ),
    *table("smc.ULA", smc.ULA, steps=(COUNT, 2, 0), step_size=(REAL, 0.5, 0.0, 1e30)),
    *table(
        "smc.MALA",
        smc.MALA,
        steps=(COUNT, 2, 0),
        step_size=(REAL, 0.5, -1.0),
        acceptance=(REAL, 0.5, 0.0, 1.0),
    ),
    *table(
        "smc.HMC",
        smc.HMC,
        leapfrog_steps=(COUNT, 2, 0),
        step_size=(REAL, 0.5, 0.0),
        acceptance=(REAL, 0.5, 2.0),
    ),
    *table(
        "smc.Underdamped",
        smc.Underdamped,
        leapfrog_steps=(COUNT, 2, 0),
        friction=(REAL, 0.5, -1.0),
        step_size=(REAL, 0.5, 0.0),
    ),
    *table("smc.NoiseMatched", smc.NoiseMatched, data_std=(REAL, 0.5, -1.0, 1e200)),
    *table("smc.FeynmanKacProposal", smc.FeynmanKacProposal, eta=(REAL, 0.5, -1.0, math.inf)),
    *table("smc.SuperDiff", smc.SuperDiff, temperature=(REAL, 0.5, math.inf), probes=(COUNT, 2, 0)),
    row("smc.CurvatureMatched", "kappa", REAL, 0.5, lambda k: smc.CurvatureMatched((k,))),
    *table("smc.HMC", smc.HMC, steps=(COUNT, 2, 0)),
    *table("smc.Underdamped", smc.Underdamped, steps=(COUNT, 2, 0), acceptance=(REAL, 0.5, 1.0)),
    *[
        case
        for entry, call in {
            "smc.calibrate": lambda shape, sigmas: smc.calibrate(
                PAIR, shape, sigmas, particles=4, pilot_steps=4
            ),
            "smc.steer": lambda shape, sigmas: smc.steer(PAIR, reward, shape, sigmas),
            "smc.calibrate_offsets": lambda shape, sigmas: (
                smc.calibrate_offsets(
                    edmfast.Mixture([NORMAL, PAIR]), shape, sigmas, particles=4
                ).offsets
            ),
        }.items()
        for case in (
            row(entry, "shape", COUNT, 2, lambda n, call=call: call((n,), SIGMAS), 0),
            row(entry, "sigmas", REAL, 0.5, lambda s, call=call: call((2,), [4.0, 2.0, s]), -1.0),
        )
    ],
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)


FOREIGN = {
    "particles": np.int64(8),
    "populations": torch.tensor(2),
    "seed": np.array(-3),
    "ess_threshold": np.float32(0.75),
    "sigma_range": (np.float64(0.0), np.float32(3.0)),
    "correctors": smc.MALA(steps=np.int64(1), step_size=np.float32(0.5)),
    "corrector_range": np.array([0.0, 3.0]),
    "waste_free": np.int8(2),
    "first_population": np.uint8(3),
    "proposal": smc.NoiseMatched(np.float32(0.5)),
}
PLAIN = {
    "particles": 8,
    "populations": 2,
    "seed": -3,
    "ess_threshold": 0.75,
    "sigma_range": (0.0, 3.0),
    "correctors": smc.MALA(steps=1, step_size=0.5),
    "corrector_range": (0.0, 3.0),
    "waste_free": 2,
    "first_population": 3,
    "proposal": smc.NoiseMatched(0.5),
}


def test_a_run_of_foreign_numbers_is_saved_and_resumed_by_plain_ones(tmp_path):
    whole = smc.sample(PAIR, (2,), SIGMAS, **grouped(**PLAIN))
    settings = FOREIGN | {"checkpoint": tmp_path / "run", "checkpoint_every": np.int64(2)}
    result = smc.sample(PAIR, np.array([2]), [np.float32(s) for s in SIGMAS], **grouped(**settings))
    assert same(whole, result)
    resumed = smc.sample(PAIR, (2,), SIGMAS, **grouped(**PLAIN, resume_from=tmp_path / "run"))
    assert same(whole, resumed)
    result.save(tmp_path / "particles")
    assert same(whole, smc.Particles.load(tmp_path / "particles"))


def test_tables_of_foreign_numbers_are_saved(tmp_path):
    numbers = np.array([2.0, 0.5], dtype=np.float32), torch.tensor([0.5]), [np.float64(1.0)]
    calibration = smc.Calibration(*numbers, np.float32(0.5))
    calibration.save(tmp_path / "calibration")
    assert smc.Calibration.load(tmp_path / "calibration") == calibration
    table = edmfast.targets.Offsets(np.array([1.0, 0.5]), np.zeros((2, 3)), torch.ones(2, 3))
    table.save(tmp_path / "offsets")
    assert edmfast.targets.Offsets.load(tmp_path / "offsets") == table


def test_seeds_of_all_64_bits_are_told_apart():
    seeds = [0, 2**32, 2**63, 2**64 - 1, -2]
    states = {
        tuple(smc.sample(PAIR, (2,), SIGMAS, particles=1, seed=s).x[0, 0].tolist()) for s in seeds
    }
    assert len(states) == len(seeds)
    wrapped = [smc.sample(PAIR, (2,), SIGMAS, particles=1, seed=s).x for s in (-1, 2**64 - 1)]
    assert torch.equal(*wrapped)
