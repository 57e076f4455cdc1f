"""Test sequential Monte Carlo against closed forms: masses, normalisers and exact reversals."""

import math

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.targets import Product, Tempered

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")

SEEDS = 20


def square_masses(mixture, sigma):
    """Return log masses, means and variances of the squared density of a mixture at noise sigma, for pairs (i,
    j).
    """
    means, v = mixture.means, mixture.stds.square() + sigma**2
    return product_of_mixtures(means, v, mixture.weights, means, v, mixture.weights)


def product_of_mixtures(mean_a, var_a, w_a, mean_b, var_b, w_b):
    """Return log mass, mean and variance of every pairwise product of isotropic Gaussians."""
    d = mean_a.shape[1]
    a, b = var_a[:, None], var_b[None, :]
    gap = (mean_a[:, None] - mean_b[None]).square().sum(-1)
    log_mass = (
        torch.log(w_a[:, None] * w_b[None])
        - 0.5 * d * torch.log(2 * math.pi * (a + b))
        - gap / (2 * (a + b))
    )
    mean = (b[..., None] * mean_a[:, None] + a[..., None] * mean_b[None]) / (a + b)[..., None]
    return log_mass.flatten(), mean.flatten(0, 1), (a * b / (a + b)).flatten()


def left_of(threshold, log_mass, mean, variance):
    share = torch.softmax(log_mass, 0)
    z = (threshold - mean[:, 0]) / variance.sqrt()
    return float((share * 0.5 * (1 + torch.erf(z / math.sqrt(2)))).sum())


def within_three_standard_errors(values, truth):
    values = torch.tensor(values, dtype=torch.float64)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - truth) < 3 * error, (values.mean(), error, truth)
    return float(error)


# The ancestral kernel needs small steps; otherwise its Z is heavy-tailed.
@pytest.mark.parametrize(
    ("proposal", "steps", "particles"),
    [("curvature_matched", 40, 1000), ("noise_matched", 40, 1000), ("ancestral", 200, 4000)],
)
def test_low_temperature_masses_and_normaliser(
    two_modes, levels, start_log_normaliser, proposal, steps, particles
):
    sigmas = levels(steps)
    pairs = square_masses(two_modes, float(sigmas[-1]))
    result = smc.sample(
        Tempered(two_modes, 2.0),
        (2,),
        sigmas,
        particles=particles,
        populations=SEEDS,
        proposal=proposal,
        seed=3,
    )
    mass = result.expectation(lambda x: (x[..., 0] < -0.2).double())
    error = within_three_standard_errors(mass.tolist(), left_of(-0.2, *pairs))
    assert error < 0.03
    truth = float(torch.logsumexp(pairs[0], 0)) - start_log_normaliser(float(sigmas[0]), 2.0, 2)
    ratio = torch.exp(result.log_z - truth)  # The estimate exp(log Z) is unbiased.
    within_three_standard_errors(ratio.tolist(), 1.0)


@pytest.mark.parametrize("resampling", ["stratified", "multinomial", "residual", "killing", "ssp"])
def test_every_resampling_scheme_has_the_law(two_modes, levels, start_log_normaliser, resampling):
    sigmas = levels(30)
    pairs = square_masses(two_modes, float(sigmas[-1]))
    result = smc.sample(
        Tempered(two_modes, 2.0),
        (2,),
        sigmas,
        particles=1000,
        populations=SEEDS,
        resampling=resampling,
        ess_threshold=0.9,
        seed=5,
    )
    mass = result.expectation(lambda x: (x[..., 0] < -0.2).double())
    within_three_standard_errors(mass.tolist(), left_of(-0.2, *pairs))
    truth = float(torch.logsumexp(pairs[0], 0)) - start_log_normaliser(float(sigmas[0]), 2.0, 2)
    within_three_standard_errors(torch.exp(result.log_z - truth).tolist(), 1.0)
    assert result.resampled.sum() > 2 * SEEDS


def test_product_of_two_mixtures(levels, start_log_normaliser):
    a = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.3]]), [0.3, 0.5], [0.3, 0.7])
    b = GaussianMixture(torch.tensor([[-0.8, 0.2], [1.2, 0.0]]), [0.4, 0.35], [0.6, 0.4])
    sigmas = levels(40)
    last = float(sigmas[-1]) ** 2
    pairs = product_of_mixtures(
        a.means, a.stds**2 + last, a.weights, b.means, b.stds**2 + last, b.weights
    )
    result = smc.sample(Product([a, b]), (2,), sigmas, particles=1000, populations=SEEDS, seed=11)
    mass = result.expectation(lambda x: (x[..., 0] < 0.0).double())
    within_three_standard_errors(mass.tolist(), left_of(0.0, *pairs))
    mean = result.expectation(lambda x: x)[:, 1]
    truth = (torch.softmax(pairs[0], 0)[:, None] * pairs[1]).sum(0)[1]
    within_three_standard_errors(mean.tolist(), float(truth))
    log_z = float(torch.logsumexp(pairs[0], 0)) - start_log_normaliser(float(sigmas[0]), 2.0, 2)
    within_three_standard_errors(torch.exp(result.log_z - log_z).tolist(), 1.0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_gaussian_weights_do_not_vary_with_matched_kernels(levels, gamma):
    gaussian = GaussianMixture(torch.zeros(1, 4), [0.7])
    for proposal in ("curvature_matched", smc.NoiseMatched(data_std=0.7)):
        result = smc.sample(
            Tempered(gaussian, gamma), (4,), levels(12), particles=50, proposal=proposal
        )
        assert result.log_weight_sd[1:].max() < 1e-6
    euler = smc.sample(Tempered(gaussian, gamma), (4,), levels(12), particles=50, proposal="euler")
    assert euler.log_weight_sd[1:].max() > 1e-2


def gaussian_log_density(x, mean, variance):
    d = x.shape[-1]
    return -0.5 * (x - mean).square().sum(-1) / variance - 0.5 * d * math.log(
        2 * math.pi * variance
    )


@pytest.mark.parametrize("proposal", ["euler", "ancestral", "noise_matched", "curvature_matched"])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_increment_equals_ratio_of_densities(two_modes, proposal, gamma):
    """The increment log G equals a ratio of densities to 1e-10.

    It is log pi_u(x_u) L(x_s | x_u) - log pi_s(x_s) M(x_u | x_s).
    """
    s, u = 0.9, 0.6
    target = Tempered(two_modes, gamma)
    kernel = smc.CurvatureMatched(kappa=(0.8,)) if proposal == "curvature_matched" else proposal
    states = []
    result = smc.sample(
        target,
        (2,),
        [s, u],
        particles=200,
        proposal=kernel,
        ess_threshold=0.0,
        callback=lambda info: states.append((info["x"][0], info["log_weights"][0])),
    )
    (x_s, before), (x_u, after) = states
    tau2 = s**2 - u**2
    drift, v_m, v_l = {
        "euler": (tau2, tau2, tau2),
        "ancestral": (tau2, tau2 * u**2 / s**2, tau2),
        "noise_matched": (tau2 / gamma, tau2 * u**2 / s**2 / gamma, tau2 / gamma),
        "curvature_matched": (tau2 / gamma, 0.8 * tau2 / gamma, tau2 / gamma),
    }[proposal]
    energy_s, score = target.energy_and_score(x_s, s)
    energy_u, _ = target.energy_and_score(x_u, u)
    direct = (
        -energy_u
        + gaussian_log_density(x_s, x_u, v_l)
        + energy_s
        - gaussian_log_density(x_u, x_s + drift * score, v_m)
    )
    torch.testing.assert_close(after - before, direct, rtol=0, atol=1e-10)
    assert result.x.dtype == torch.float64


def test_trailing_zero_denoises_once(two_modes, levels):
    sigmas = [*levels(10).tolist(), 0.0]
    rough = smc.sample(two_modes, (2,), sigmas[:-1], particles=50)
    clean = smc.sample(two_modes, (2,), sigmas, particles=50)
    expected = two_modes.denoise(rough.x[0], sigmas[-2])
    torch.testing.assert_close(clean.x[0], expected)
    assert torch.equal(clean.log_weights, rough.log_weights)
    assert not torch.equal(clean.x, rough.x)


def test_adaptive_weights_of_skipped_steps_count(two_modes, levels):
    """Runs that never resample, and runs that resample when needed, estimate the same mass."""
    truth = left_of(-0.2, *square_masses(two_modes, 0.02))
    for threshold in (0.0, 0.9):
        result = smc.sample(
            Tempered(two_modes, 2.0),
            (2,),
            levels(60),
            particles=1000,
            populations=SEEDS,
            ess_threshold=threshold,
            seed=5,
        )
        mass = result.expectation(lambda x: (x[..., 0] < -0.2).double())
        within_three_standard_errors(mass.tolist(), truth)
        assert bool(result.resampled.any()) == (threshold > 0)


def test_sigma_range_stops_weights_and_resampling(cold, levels):
    sigmas = levels(20)
    low = float(sigmas[12])
    result = smc.sample(
        cold, (2,), sigmas, particles=200, sigma_range=(low, math.inf), ess_threshold=1.0
    )
    assert result.resampled[:13].any()
    assert not result.resampled[13:].any()
    assert torch.equal(result.ess[13], result.ess[-1])
