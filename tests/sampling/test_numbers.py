"""Test numbers of the samplers and schedules in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import analytic, sampling
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table

NORMAL = analytic.GaussianMixture([[0.0, 0.0]], [1.0])
PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 6).reshape(3, 2)
SIGMAS = [4.0, 2.0, 1.0, 0.5]
TENSOR = torch.tensor(SIGMAS)
V3 = sampling.DPMSolverV3Statistics(TENSOR, *(torch.full((4, 2), v) for v in (0.5, 0.25, 0.0)))


def solved(sampler, **options):
    churned = {"noise_sampler": sampling.noise_sampler(X, seed=3)}
    return sampler(PAIR, X, TENSOR, disable=True, **(churned | options))


def seeded(name, **options):
    churned = {} if "ancestral" in name or "sde" in name else {"s_churn": 1.0}
    return solved(getattr(sampling, name), noise_sampler=None, **(churned | options))


def over_a_range(sampler, **options):
    options = {"sigma_min": 0.5, "sigma_max": 4.0, "eta": 1.0, "seed": 3} | options
    return sampler(PAIR, X, disable=True, **options)


def stepped(**options):
    options = {"h": 0.25, "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0} | options
    controller = sampling.PIDStepSizeController(**options)
    return controller.propose_step(0.5), controller.h, controller.errs


def edm(sampler=sampling.edm_sampler, **options):
    torch.manual_seed(0)
    arguments = {"num_steps": 4} | options
    return sampler(PAIR, X, **arguments)


CASES = [
    *[
        case
        for sampler in (sampling.sample_euler, sampling.sample_heun, sampling.sample_dpm_2)
        for case in table(
            sampler.__name__,
            lambda sampler=sampler, **options: solved(sampler, **({"s_churn": 1.0} | options)),
            s_churn=(REAL, 0.5, -1.0),
            s_tmin=(REAL, 0.5, -1.0),
            s_tmax=(REAL, 2.0, -1.0),
            s_noise=(REAL, 0.5, -1.0, math.inf),
        )
    ],
    *[
        row(name, "seed", SEED, 7, lambda s, name=name, **o: seeded(name, seed=s))
        for name in (
            *("sample_euler", "sample_heun", "sample_euler_ancestral", "sample_dpm_2"),
            *("sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde"),
            *("sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"),
        )
    ],
    *[
        case
        for sampler in (
            sampling.sample_euler_ancestral,
            sampling.sample_dpm_2_ancestral,
            sampling.sample_dpmpp_2s_ancestral,
            sampling.sample_dpmpp_sde,
            sampling.sample_dpmpp_2m_sde,
            sampling.sample_dpmpp_3m_sde,
        )
        for case in table(
            sampler.__name__,
            lambda sampler=sampler, **options: solved(sampler, **options),
            eta=(REAL, 0.5, -1.0),
            s_noise=(REAL, 0.5, -1.0),
        )
    ],
    row("sample_dpmpp_sde", "r", REAL, 0.25, lambda r: solved(sampling.sample_dpmpp_sde, r=r), 0.0),
    row(
        "sample_lms",
        "order",
        COUNT,
        2,
        lambda n: sampling.sample_lms(PAIR, X, TENSOR, disable=True, order=n),
        0,
        8,
    ),
    *table(
        "student_t_prior",
        lambda **o: sampling.student_t_prior(
            **({"shape": (3, 2), "sigma_max": 8.0, "dof": 3.0, "seed": 0} | o)
        ),
        sigma_max=(REAL, 0.5, 0.0, -1.0, math.inf),
        dof=(REAL, 5.0, 0.0, -1.0),
        seed=(SEED, 7),
        first_sample=(COUNT, 3, -1),
    ),
    row(
        "student_t_prior",
        "shape",
        COUNT,
        4,
        lambda n: sampling.student_t_prior((n, 2), 8.0, 3.0, seed=0),
        0,
    ),
    *table(
        "sample_dpm_fast",
        lambda **o: over_a_range(sampling.sample_dpm_fast, **({"n": 4} | o)),
        sigma_min=(REAL, 0.25, 0.0, 1e-30, 4.0),
        sigma_max=(REAL, 8.0, -1.0, 1e30, 0.5),
        n=(COUNT, 5, 0),
        eta=(REAL, 0.5, -1.0),
        s_noise=(REAL, 0.5, -1.0),
        seed=(SEED, 7),
    ),
    *table(
        "sample_dpm_adaptive",
        lambda **o: over_a_range(sampling.sample_dpm_adaptive, **o),
        sigma_min=(REAL, 0.25, 0.0, 1e-30),
        sigma_max=(REAL, 8.0, -1.0, 1e30),
        order=(COUNT, 2, 1, 4),
        rtol=(REAL, 0.25, -1.0),
        atol=(REAL, 0.125, -1.0),
        h_init=(REAL, 0.5, 0.0, math.inf),
        pcoeff=(REAL, 0.25, math.inf),
        icoeff=(REAL, 0.5, math.inf),
        dcoeff=(REAL, 0.125, math.inf),
        accept_safety=(REAL, 0.5, math.inf),
        eta=(REAL, 0.5, -1.0),
        s_noise=(REAL, 0.5, -1.0),
        seed=(SEED, 7),
    ),
    *table(
        "log_likelihood",
        lambda **o: sampling.log_likelihood(
            lambda x, s: PAIR(x, s), X, **({"sigma_min": 0.5, "sigma_max": 4.0, "seed": 3} | o)
        ),
        sigma_min=(REAL, 0.25, 0.0, 1e-30, 4.0),
        sigma_max=(REAL, 8.0, -1.0, 1e30, 0.5),
        atol=(REAL, 0.125, 0.0, math.inf),
        rtol=(REAL, 0.25, -1.0, math.inf),
        seed=(SEED, 7),
    ),
    *table(
        "PIDStepSizeController",
        lambda **o: stepped(**o),
        h=(REAL, 0.5, math.inf),
        pcoeff=(REAL, 0.25, math.inf),
        icoeff=(REAL, 0.5, math.inf),
        dcoeff=(REAL, 0.125, math.inf),
        order=(REAL, 3.0, 0.0),
        accept_safety=(REAL, 0.5, math.inf),
        eps=(REAL, 0.5, 0.0),
    ),
    *table(
        "get_sigmas_karras",
        lambda **o: sampling.get_sigmas_karras(
            **({"n": 4, "sigma_min": 0.5, "sigma_max": 8.0} | o)
        ),
        n=(COUNT, 5, 0, -1),
        sigma_min=(REAL, 0.25, 0.0, 9.0),
        sigma_max=(REAL, 16.0, -1.0, math.inf),
        rho=(REAL, 2.0, 0.0),
    ),
    *table(
        "get_sigmas_exponential",
        lambda **o: sampling.get_sigmas_exponential(
            **({"n": 4, "sigma_min": 0.5, "sigma_max": 8.0} | o)
        ),
        n=(COUNT, 5, 0),
        sigma_min=(REAL, 0.25, 0.0),
        sigma_max=(REAL, 16.0, -1.0),
    ),
    *table(
        "get_sigmas_polyexponential",
        lambda **o: sampling.get_sigmas_polyexponential(
            **({"n": 4, "sigma_min": 0.5, "sigma_max": 8.0} | o)
        ),
        n=(COUNT, 5, 0),
        rho=(REAL, 2.0, 0.0),
    ),
    *table(
        "get_sigmas_vp",
        lambda **o: sampling.get_sigmas_vp(**({"n": 4} | o)),
        n=(COUNT, 5, 0),
        beta_d=(REAL, 16.0, 0.0),
        beta_min=(REAL, 0.25, 0.0),
        eps_s=(REAL, 0.5, 0.0, 2.0),
    ),
    *table(
        "get_sigmas_vp_grid",
        lambda **o: sampling.get_sigmas_vp_grid(**({"n": 4} | o)),
        n=(COUNT, 5, 0),
        spacing=(REAL, 3.0, 0.0, "cubic"),
        t_start=(REAL, 0.5, 0.0, 2.0),
        t_end=(REAL, 0.25, 0.0, 1.0),
    ),
    *table(
        "LinearVP",
        sampling.LinearVP,
        beta_min=(REAL, 0.5, 0.0, 20.0),
        beta_max=(REAL, 16.0, 0.0, 0.1),
    ),
    *table(
        "fit_dpm_solver_v3",
        lambda **o: (
            sampling.fit_dpm_solver_v3(PAIR, X, TENSOR[:2], **({"seed": 1, "probes": 1} | o)).s
        ),
        seed=(SEED, 7),
        probes=(COUNT, 2, 0),
        batch_size=(COUNT, 2, 0),
        step=(REAL, 0.125, 0.0, math.inf),
    ),
    row(
        "sample_dpm_solver_v3",
        "order",
        COUNT,
        2,
        lambda n: sampling.sample_dpm_solver_v3(PAIR, X, TENSOR, V3, disable=True, order=n),
        0,
        4,
    ),
    row("CosineVP", "s", REAL, 0.25, sampling.CosineVP, 0.0),
    row(
        "DiscreteVP",
        "alphas_cumprod",
        REAL,
        0.5,
        lambda value: sampling.DiscreteVP((value, 0.25, 0.125)),
        0.0,
        1.0,
    ),
    *table(
        "discrete_time_labels",
        lambda **o: sampling.discrete_time_labels(**({"times": [0.5], "n": 10} | o)),
        n=(COUNT, 5, 0),
    ),
    row(
        "discrete_time_labels",
        "times",
        REAL,
        0.5,
        lambda time: sampling.discrete_time_labels([time]),
    ),
    *table(
        "sample_dpm_solver_adaptive",
        lambda **o: sampling.sample_dpm_solver_adaptive(
            PAIR, X, **({"sigma_min": 0.5, "sigma_max": 4.0, "disable": True} | o)
        ),
        sigma_min=(REAL, 0.25, 0.0, 5.0),
        sigma_max=(REAL, 2.0, 0.25, math.inf),
        order=(COUNT, 2, 1, 4),
        rtol=(REAL, 0.125, -1.0),
        atol=(REAL, 0.5, -1.0),
        h_init=(REAL, 0.5, 0.0, -1.0),
        theta=(REAL, 0.5, 0.0, 1.5),
    ),
    row(
        "get_ancestral_step",
        "eta",
        REAL,
        0.5,
        lambda e: sampling.get_ancestral_step(2.0, 1.0, e),
        -1.0,
    ),
    row("to_d", "sigma", REAL, 0.5, lambda s: sampling.to_d(X, s, X / 2)),
    row("noise_sampler", "seed", SEED, 7, lambda s: sampling.noise_sampler(X, seed=s)(1, 0)),
    row(
        "noise_sampler",
        "first_sample",
        COUNT,
        7,
        lambda n: sampling.noise_sampler(X, seed=0, first_sample=n)(1, 0),
        -1,
    ),
    *table(
        "BrownianTreeNoiseSampler",
        lambda **o: sampling.BrownianTreeNoiseSampler(
            X, **({"sigma_min": 0.5, "sigma_max": 8.0, "seed": 2} | o)
        )(4.0, 2.0),
        sigma_min=(REAL, 16.0),
        sigma_max=(REAL, 0.25),
        seed=(SEED, 7),
    ),
    *table(
        "BatchedBrownianTree",
        lambda **o: sampling.BatchedBrownianTree(X, **({"t0": 0.5, "t1": 8.0, "seed": 2} | o))(
            4, 2
        ),
        t0=(REAL, 16.0),
        t1=(REAL, 0.25),
        seed=(SEED, 7),
    ),
    *[
        row(
            name,
            "seed",
            SEED,
            7,
            lambda s, name=name: edm(getattr(sampling, name), S_churn=1.0, seed=s),
        )
        for name in ("edm_sampler", "edm2_sampler")
    ],
    *table(
        "edm_sampler",
        edm,
        num_steps=(COUNT, 3, 0),
        sigma_min=(REAL, 0.25, 0.0),
        sigma_max=(REAL, 16.0, 1e30),
        rho=(REAL, 4.0, 0.0),
        S_churn=(REAL, 0.5, -1.0),
        S_min=(REAL, 0.5, -1.0),
        S_max=(REAL, 2.0, -1.0),
        S_noise=(REAL, 0.5, -1.0),
    ),
    *table(
        "edm2_sampler",
        lambda **o: edm(sampling.edm2_sampler, gnet=NORMAL, **o),
        num_steps=(COUNT, 3, 0),
        guidance=(REAL, 1.5, math.inf),
        S_churn=(REAL, 0.5, -1.0),
    ),
    *table(
        "edm2_sampler",
        lambda **o: edm(sampling.edm2_sampler, **({"S_churn": 1.0} | o)),
        sigma_min=(REAL, 0.25, 0.0),
        sigma_max=(REAL, 16.0, 1e30),
        rho=(REAL, 4.0, 0.0),
        S_min=(REAL, 0.5, -1.0),
        S_max=(REAL, 2.0, -1.0),
        S_noise=(REAL, 0.5, -1.0),
    ),
    *table(
        "get_sigmas_polyexponential",
        lambda **o: sampling.get_sigmas_polyexponential(
            **({"n": 4, "sigma_min": 0.5, "sigma_max": 8.0} | o)
        ),
        sigma_min=(REAL, 0.25, 0.0),
        sigma_max=(REAL, 16.0, -1.0),
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
