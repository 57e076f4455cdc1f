"""Numbers whose squares or sums overflow or vanish are computed correctly or refused by name."""

from __future__ import annotations

import math

import pytest
import torch

import edmfast
from edmfast import analytic, diagnostics, models, sampling, smc
from edmfast.targets import constrained as constraints

PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 8).reshape(4, 2)
NETWORK = edmfast.EnergyModel(models.ResidualMLP(2, 8, 1))


def reward(x):
    return x.sum(1)


@pytest.mark.parametrize("sigma", [1e-30, 1e30, 1e-200, 1e200])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sigma", lambda s: PAIR.energy_and_score(X, s)),
        ("sigma", lambda s: PAIR.denoise(X, s)),
        ("sigma", lambda s: NETWORK.energy(X, s)),
        ("sigma", lambda s: NETWORK(X, s)),
        ("sigma", lambda s: smc.mcmc(PAIR, X[None], s, smc.ULA(), transitions=1)),
        ("sigmas", lambda s: smc.sample(NETWORK, (2,), [4 * s, 2 * s, s], particles=2)),
        ("sigmas", lambda s: smc.calibrate(NETWORK, (2,), [4 * s, 2 * s, s], particles=2)),
        ("sigmas", lambda s: smc.steer(NETWORK, reward, (2,), [4 * s, 2 * s, s])),
        (
            "sigmas",
            lambda s: sampling.sample_heun(
                PAIR, X, torch.tensor([2 * s, s], dtype=torch.float64), disable=True
            ),
        ),
        ("sigma_max", lambda s: sampling.edm_sampler(PAIR, X, sigma_min=s / 2, sigma_max=s)),
        ("sigma_data", lambda s: edmfast.Denoiser(models.ResidualMLP(2), sigma_data=s)),
    ],
)
def test_noise_levels_without_a_square_in_float32(name, call, sigma):
    with pytest.raises(ValueError, match=rf"{name}\S* must be from .* where its square fits"):
        call(sigma)


@pytest.mark.parametrize("sigma", [1e-30, 1e30])
def test_float64_has_room_for_them(sigma):
    x = X.double() * sigma
    energy, score = analytic.GaussianMixture([[0.0, 0.0]], [sigma]).energy_and_score(x, sigma)
    variance = 2 * sigma**2
    expected = x.square().sum(1) / (2 * variance) + math.log(2 * math.pi * variance)
    torch.testing.assert_close(energy, expected)
    torch.testing.assert_close(score, -x / variance)
    run = smc.sample(
        PAIR,
        (2,),
        [4 * sigma, 2 * sigma, sigma],
        particles=8,
        options=smc.RunOptions(dtype=torch.float64),
    )
    assert run.log_z.isfinite().all()
    assert run.log_weights.isfinite().all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: analytic.GaussianMixture([[1e30, 0.0]], [1.0]).energy_and_score(X, 1.0),
        lambda: analytic.GaussianMixture([[0.0, 0.0]], [1e-30]).energy_and_score(X, 0.0),
        lambda: analytic.GaussianMixture([[0.0, 0.0]], [1e200]),
        lambda: PAIR.sample(1, 1e200, seed=0),
        lambda: sampling.get_ancestral_step(1e200, 1e199),
        lambda: diagnostics.noising_trajectory(X, [1e200, 1.0]),
        lambda: edmfast.LinearInverse(PAIR, torch.ones(1, 2), torch.ones(1), 0.1, full_below=1e200),
        lambda: edmfast.Tempered(PAIR, 1e200),
        lambda: edmfast.Tempered(PAIR, torch.tensor([1e200], dtype=torch.float64)),
    ],
)
def test_other_numbers_without_a_square(call):
    with pytest.raises(ValueError, match=r"must (be from|fit)|needs means below"):
        call()


def test_weights_whose_sum_overflows_are_shares():
    assert edmfast.Mixture([PAIR, PAIR], [1e308, 1e308]).weights == (0.5, 0.5)
    huge = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5], [1e308, 1e308])
    assert torch.equal(huge.weights, PAIR.weights)
    assert torch.equal(huge.energy(X, 0.5), PAIR.energy(X, 0.5))
    with pytest.raises(ValueError, match="weights must be of comparable size"):
        edmfast.Mixture([PAIR, PAIR], [1e308, 1e-308])


def test_a_small_exponent_is_positive():
    assert edmfast.Tempered(PAIR, 1e-200).exponent == 1e-200


def test_bounds_that_are_no_numbers():
    for low, high in ((math.nan, 1.0), (0.0, math.nan), (torch.tensor([0.0, math.nan]), 1.0)):
        with pytest.raises(ValueError, match=r"(low|high) must be"):
            constraints.box(low, high)
    with pytest.raises(ValueError, match="must hold some state"):
        constraints.box(math.inf, math.inf)
    with pytest.raises(ValueError, match="normal must be finite"):
        constraints.half_space(torch.tensor([math.nan, 1.0]), 0.0)
    with pytest.raises(ValueError, match="must fit float32"):
        constraints.half_space(torch.tensor([1e200, 1.0], dtype=torch.float64), 0.0)
    # An infinite bound leaves a side open.
    outside = constraints.box(-math.inf, 0.5)(torch.tensor([[1.0, -9.0]]))
    assert outside.tolist() == [0.25]


def test_seeds_of_an_initialisation_that_differ_by_two_to_the_32():
    teacher = edmfast.Denoiser(models.ResidualMLP(2, 8, 1))
    torch.nn.init.normal_(
        teacher.backbone.output.weight, generator=torch.Generator().manual_seed(0)
    )
    scales = [
        models.initialise_from(NETWORK, teacher, X, seed=seed).scale.values.clone()
        for seed in (3, 3 + 2**32)
    ]
    assert not torch.equal(*scales)


def test_seeds_of_exact_draws_that_differ_by_two_to_the_32():
    for law in (PAIR, analytic.ManyWell(2)):
        assert not torch.equal(law.sample(4, seed=5), law.sample(4, seed=5 + 2**32))
        assert not torch.equal(law.sample(4, seed=-1), law.sample(4, seed=2**32 - 1))
