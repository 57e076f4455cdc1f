"""The default noise is repeatable by torch's seed, and that of sample k does not depend on its batch."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture

SIGMAS = torch.tensor([8.0, 3.0, 1.2, 0.5, 0.2, 0.0])
CHURN = {"s_churn": 2.0, "s_noise": 1.007}


def in_k_diffusion_style(sampler, **arguments):
    def run(model, z, **more):
        return sampler(model, z * SIGMAS[0], SIGMAS, disable=True, **arguments, **more)

    return run


def in_edm_style(sampler, **arguments):
    def run(model, z):
        return sampler(model, z, num_steps=6, sigma_min=0.1, sigma_max=8.0, **arguments)

    return run


RUNS = {
    "euler": in_k_diffusion_style(sampling.sample_euler),
    "euler_churn": in_k_diffusion_style(sampling.sample_euler, **CHURN),
    "heun": in_k_diffusion_style(sampling.sample_heun),
    "heun_churn": in_k_diffusion_style(sampling.sample_heun, **CHURN),
    "dpmpp_2m": in_k_diffusion_style(sampling.sample_dpmpp_2m),
    "euler_ancestral": in_k_diffusion_style(sampling.sample_euler_ancestral),
    "edm": in_edm_style(sampling.edm_sampler),
    "edm_churn": in_edm_style(sampling.edm_sampler, S_churn=3.0),
    "edm2_churn": in_edm_style(sampling.edm2_sampler, S_churn=3.0),
}
STOCHASTIC = ["euler_churn", "heun_churn", "euler_ancestral", "edm_churn", "edm2_churn"]
TAKES_NOISE = ["euler_churn", "heun_churn", "euler_ancestral"]


@pytest.fixture(scope="module")
def mixture():
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(5, 7, generator=generator)
    return GaussianMixture(means, torch.full((5,), 0.3), torch.full((5,), 0.2))


@pytest.fixture(scope="module")
def start():
    return torch.randn(8, 7, generator=torch.Generator().manual_seed(4))


def seeded(run, *arguments):
    torch.manual_seed(11)
    return run(*arguments)


@pytest.mark.parametrize("name", RUNS)
def test_sample_k_has_the_same_bits_in_every_batch(name, mixture, start):
    full_batch = seeded(RUNS[name], mixture, start)
    assert torch.isfinite(full_batch).all()
    for size in (1, 3):
        assert torch.equal(seeded(RUNS[name], mixture, start[:size]), full_batch[:size])


@pytest.mark.parametrize("name", STOCHASTIC)
def test_torch_generator_decides_the_noise_and_advances_once(name, mixture, start):
    first = seeded(RUNS[name], mixture, start)
    after = torch.get_rng_state()
    assert not torch.equal(RUNS[name](mixture, start), first)
    assert torch.equal(seeded(RUNS[name], mixture, start[:2]), first[:2])
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("name", sorted(set(RUNS) - set(STOCHASTIC)))
def test_ode_runs_do_not_advance_the_generator(name, mixture, start):
    before = torch.get_rng_state()
    RUNS[name](mixture, start)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", TAKES_NOISE)
def test_a_batch_split_over_calls_has_the_noise_of_the_whole_batch(name, mixture, start):
    def run(first, last):
        part = start[first:last]
        noise = sampling.noise_sampler(part, seed=5, first_sample=first)
        return RUNS[name](mixture, part, noise_sampler=noise)

    assert torch.equal(torch.cat([run(0, 3), run(3, 8)]), run(0, 8))


def test_steps_and_samples_are_independent_standard_normals():
    noise = sampling.noise_sampler(torch.empty(2000, 4, dtype=torch.float64), seed=1)
    draws = torch.stack([noise(2.0, 1.0), noise(1.0, 0.5)])
    rows = draws.movedim(1, 0).reshape(2000, 8)
    covariance = rows.T @ rows / len(rows)
    # The 64 estimates have standard errors of at most sqrt(2 / 2000), and five of these have a chance of 1e-5.
    assert (covariance - torch.eye(8)).abs().max() < 5 * math.sqrt(2 / 2000)
    assert rows.mean(0).abs().max() < 5 / math.sqrt(2000)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_is_like_the_state(dtype):
    x = torch.empty(3, 2, 5, dtype=dtype)
    drawn = sampling.noise_sampler(x, seed=0)(1.0, 0.5)
    assert (drawn.shape, drawn.dtype) == (x.shape, dtype)


@pytest.mark.parametrize(
    ("x", "arguments", "error"),
    [
        (torch.zeros(2, 3), {"seed": 0, "first_sample": -1}, ValueError),
        (torch.zeros(2, 3), {"seed": 2**64}, ValueError),
        (torch.zeros(2, 3).long(), {"seed": 0}, TypeError),
    ],
)
def test_bad_noise_arguments_are_refused(x, arguments, error):
    with pytest.raises(error):
        sampling.noise_sampler(x, **arguments)()


def test_signatures_are_those_of_the_projects():
    def names(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]

    none = inspect.Parameter.empty
    common = [("model", none), ("x", none), ("sigmas", none)]
    common += [("extra_args", None), ("callback", None), ("disable", None)]
    churn = [("s_churn", 0.0), ("s_tmin", 0.0), ("s_tmax", math.inf), ("s_noise", 1.0)]
    ancestral = [("eta", 1.0), ("s_noise", 1.0), ("noise_sampler", None)]
    edm_churn = [("S_churn", 0), ("S_min", 0), ("S_max", math.inf), ("S_noise", 1)]
    grid = [("sigma_min", 0.002), ("sigma_max", 80), ("rho", 7)]
    assert names(sampling.sample_euler) == common + churn
    assert names(sampling.sample_heun) == common + churn
    assert names(sampling.sample_dpmpp_2m) == common
    assert names(sampling.sample_euler_ancestral) == common + ancestral
    assert names(sampling.edm_sampler) == [
        *[("net", none), ("latents", none), ("class_labels", None)],
        *[("randn_like", torch.randn_like), ("num_steps", 18), *grid, *edm_churn],
    ]
    assert names(sampling.edm2_sampler) == [
        *[("net", none), ("noise", none), ("labels", None), ("gnet", None), ("num_steps", 32)],
        *grid,
        ("guidance", 1),
        *edm_churn,
        *[("dtype", torch.float32), ("randn_like", torch.randn_like)],
    ]
