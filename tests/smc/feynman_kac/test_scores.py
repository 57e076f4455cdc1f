"""Test laws without energies: the Feynman–Kac corrector, superposition, and rewards on a plain sampler."""

import itertools
import math
import warnings

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.smc.populations.select import select_one
from edmfast.targets import Conditioned, Constrained, Guided, Product, ProposedBy, Tempered, Tilted
from tests.grouped import grouped

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")

SEEDS = 20


class Denoiser:
    """The denoiser of a mixture, without its energy."""

    def __init__(self, mixture):
        self.mixture = mixture

    def __call__(self, x, sigma):
        return self.mixture.denoise(x, sigma)


def gaussian(mean, std):
    return GaussianMixture(torch.tensor([[mean]]), [std])


def close(values, truth, allowed=0.0):
    values = torch.as_tensor(values, dtype=torch.float64)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - truth) < 3 * error + allowed, (values.mean(), error, truth)


def moments(result):
    mean = result.expectation(lambda x: x[..., 0])
    return mean, result.expectation(lambda x: x[..., 0].square()) - mean.square()


@pytest.mark.parametrize(
    ("target", "eta", "mean", "variance"),
    [
        (lambda a, b: Tempered(a, 2.0), 1.0, 0.0, 0.5),
        (lambda a, b: Tempered(a, 2.0), 2.0, 0.0, 0.5),
        (lambda a, b: Product([a, b]), 1.0, 0.8, 0.2),
        # Guidance without a reward has the law base^-1 model^2.
        (lambda a, b: Guided(a, b, 2.0), 1.0, 8 / 7, 1 / 7),
    ],
)
def test_corrector_tends_to_the_law(levels, target, eta, mean, variance):
    first, second = gaussian(0.0, 1.0), gaussian(1.0, 0.5)
    made = target(Denoiser(first), Denoiser(second))
    result = smc.sample(
        made,
        (1,),
        levels(500, low=0.01, high=40.0),
        particles=500,
        populations=SEEDS,
        proposal=smc.FeynmanKacProposal(eta=eta),
        options=smc.RunOptions(dtype=torch.float64),
    )
    assert "Feynman–Kac" in result.law
    estimates = moments(result)
    close(estimates[0], mean, allowed=0.01)
    close(estimates[1], variance, allowed=0.02 * variance)


def test_corrector_of_energies_is_that_of_their_scores(two_modes, levels):
    options = {"particles": 50, "weights": "score", "dtype": torch.float64}
    by_energy = smc.sample(Tempered(two_modes, 2.0), (2,), levels(10), **grouped(**options))
    by_score = smc.sample(
        Tempered(Denoiser(two_modes), 2.0), (2,), levels(10), **grouped(**options)
    )
    torch.testing.assert_close(by_energy.x, by_score.x, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(by_energy.log_weights, by_score.log_weights, rtol=1e-6, atol=1e-6)
    exact = smc.sample(Tempered(two_modes, 2.0), (2,), levels(10), particles=50)
    assert exact.law.startswith("exact")


def test_plain_denoiser_has_equal_weights(two_modes, levels):
    result = smc.sample(Denoiser(two_modes), (2,), levels(60), particles=4000, populations=4)
    assert torch.equal(result.log_weights, torch.zeros_like(result.log_weights))
    mass = result.expectation(lambda x: (x[..., 0] < 0).double())
    assert (mass - 0.5).abs().max() < 0.05


def first(x):
    return x[:, 0]


# The sum over levels of sums over levels is large, and is undone at the last level.
STRENGTH = {"difference": 0.5, "max": 0.5, "sum": 0.05}


def plain_law(levels, std):
    """Return the variance of the ancestral chain of N(0, std²), and the slope of its denoiser at the end."""
    variance = levels[0] ** 2
    for s, u in itertools.pairwise(levels):
        tau2 = s**2 - u**2
        slope = 1 - tau2 / (std**2 + s**2)
        variance = slope**2 * variance + tau2 * u**2 / s**2
    return variance, std**2 / (std**2 + levels[-1] ** 2)


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_rewards_tilt_the_law_of_the_sampler(levels, potential):
    sigmas = levels(16, low=0.3, high=10.0).tolist()
    result = smc.sample(
        Tilted(
            Denoiser(gaussian(0.0, 1.0)), first, STRENGTH[potential], ramp=None, potential=potential
        ),
        (1,),
        sigmas,
        particles=2000,
        populations=SEEDS,
        ess_threshold=0.9,
        options=smc.RunOptions(dtype=torch.float64),
    )
    variance, slope = plain_law(sigmas, 1.0)
    estimates = moments(result)
    pull = slope * STRENGTH[potential]
    close(estimates[0], variance * pull)
    close(estimates[1], variance)
    ratio = torch.exp(result.log_z - variance * pull**2 / 2)
    close(ratio, 1.0)
    if potential != "difference":
        # The potential must have caused resampling on the way.
        assert bool(result.resampled.any())


@pytest.mark.parametrize("gradient", ["exact", "approximate", "none"])
def test_moves_that_follow_the_reward_keep_the_law(levels, gradient):
    sigmas = levels(16, low=0.3, high=10.0).tolist()

    class Smooth(Denoiser):
        def __call__(self, x, sigma):
            return x / (1 + sigma[:, None] ** 2)

    def reward(x):
        return -2.0 * (x[:, 0] - 1.0).square()

    result = smc.sample(
        Tilted(Smooth(None), reward, 1.0, ramp=(2.0, 0.3), gradient=gradient, data_std=1.0),
        (1,),
        sigmas,
        particles=2000,
        populations=SEEDS,
        options=smc.RunOptions(dtype=torch.float64),
    )
    variance, slope = plain_law(sigmas, 1.0)
    # The law is N(0, variance) times exp(-2 (slope x - 1)²).
    precision = 1 / variance + 4 * slope**2
    close(moments(result)[0], 4 * slope / precision)
    close(moments(result)[1], 1 / precision)
    total = float(result.log_weight_sd[1:].square().sum(0).mean())
    assert (total < 1.0) == (gradient != "none"), total


def test_walls_without_energies(levels):
    sigmas = levels(16, low=0.3, high=10.0).tolist()
    result = smc.sample(
        Constrained(
            Denoiser(gaussian(0.0, 1.0)),
            lambda x: x[:, 0].clamp_min(0),
            1.0,
            hard_below=0.35,
            ramp=(2.0, 0.3),
            gradient="none",
        ),
        (1,),
        sigmas,
        particles=2000,
        populations=SEEDS,
        options=smc.RunOptions(dtype=torch.float64),
    )
    variance, _ = plain_law(sigmas, 1.0)
    close(moments(result)[0], -math.sqrt(2 * variance / math.pi))
    assert float(result.x[result.weights > 0].max()) <= 0


@pytest.mark.parametrize("potential", ["max", "sum"])
def test_rewards_along_paths_of_an_energy_are_exact(levels, potential):
    result = smc.sample(
        Tilted(gaussian(0.0, 1.0), first, STRENGTH[potential], ramp=None, potential=potential),
        (1,),
        levels(16, low=0.3, high=10.0),
        particles=2000,
        populations=SEEDS,
        weights="energy",
        options=smc.RunOptions(dtype=torch.float64),
    )
    variance = 1 + 0.3**2
    close(moments(result)[0], STRENGTH[potential])
    close(moments(result)[1], variance)


def test_superdiff_and_keeps_densities_together(levels):
    models = [GaussianMixture(torch.tensor([m]), [0.5]) for m in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.5])]
    result = smc.sample(
        Product([Denoiser(m) for m in models]),
        (3,),
        levels(300, low=0.02, high=20.0),
        particles=500,
        proposal="superdiff",
        options=smc.RunOptions(dtype=torch.float64),
    )
    densities = result.log_densities[0]
    torch.testing.assert_close(densities[:, 0], densities[:, 1], rtol=0, atol=1e-5)
    true = torch.stack([m.log_prob(result.x[0], 0.02) for m in models], 1)
    # Both densities are equal along the path, so the samples lie between the models.
    gap = true[:, 0] - true[:, 1]
    assert float(gap.abs().mean()) < 1.0
    assert "no weights" in result.law


def test_ito_density_of_a_path_tends_to_the_density(levels):
    model = GaussianMixture(torch.tensor([[0.3, -0.2]]), [0.8])
    off = []
    for steps in (100, 800):
        result = smc.sample(
            Product([Denoiser(model), Denoiser(model)]),
            (2,),
            levels(steps, low=0.05, high=20.0),
            particles=300,
            proposal="superdiff",
            options=smc.RunOptions(dtype=torch.float64),
        )
        truth = model.log_prob(result.x[0], 0.05)
        off.append(float((result.log_densities[0, :, 0] - truth).std()))
    assert off[1] < 0.45 * off[0]
    assert off[1] < 0.35


def test_superdiff_for_two_models_by_its_formula():
    from edmfast.smc.feynman_kac.choose import choose_feynman_kac

    torch.manual_seed(0)
    law = choose_feynman_kac(
        Product([Denoiser(gaussian(0.0, 1.0)), Denoiser(gaussian(1.0, 0.5))]),
        "superdiff", "auto", None, populations=2, levels=(2.0, 1.0), device=torch.device("cpu"),
        batch_size=None,
    ).first  # fmt: skip
    scores, z = torch.randn(2, 2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 3).double()
    gram = torch.einsum("ipnd,jpnd->pnij", scores, scores)
    along = torch.einsum("ipnd,pnd->pni", scores, z)
    tau2 = torch.tensor(0.3, dtype=torch.float64)
    gap = scores[0] - scores[1]
    expected = 0.5 - (gap * z).sum(-1) / (tau2.sqrt() * gap.square().sum(-1))
    kappa = law._kappa(torch.zeros(2, 5, 2), gram, along, tau2)
    torch.testing.assert_close(kappa[..., 0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kappa.sum(-1), torch.ones(2, 5, dtype=torch.float64))


def test_select_draws_one_with_the_weights():
    from edmfast.ops import Weights, rng_state, weigh_and_resample

    populations = 4000
    wanted = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    increments = wanted.log().expand(populations, 4).contiguous()
    rng = rng_state(3, 5)
    start = Weights.start(populations, 4)
    weights = weigh_and_resample(start, increments, [], [], rng, ess_threshold=0.0)
    chosen = select_one(weights, rng, 0)
    assert bool((chosen.ancestors == chosen.ancestors[:, :1]).all())
    assert torch.equal(chosen.root, chosen.ancestors)
    share = torch.bincount(chosen.ancestors[:, 0], minlength=4).double() / populations
    assert ((share - wanted).abs() < 4 * (wanted * (1 - wanted) / populations).sqrt()).all()
    assert bool(chosen.resampled.all())


@pytest.mark.parametrize(
    ("target", "options", "error", "text"),
    [
        (Tempered, {"weights": "energy"}, TypeError, "weights='score'"),
        (Tempered, {"proposal": "ancestral"}, ValueError, "feynman_kac"),
        (None, {"proposal": "curvature_matched"}, ValueError, "without energies"),
    ],
)
def test_what_does_not_go_together(levels, target, options, error, text):
    model = Denoiser(gaussian(0.0, 1.0))
    made = model if target is None else target(model, 2.0)
    with pytest.raises(error, match=text):
        smc.sample(made, (1,), levels(4), **grouped(particles=4, **options))


def test_a_proposal_of_its_own_needs_energies(levels):
    model = gaussian(0.0, 1.0)
    with pytest.raises(ValueError, match="ProposedBy goes with weights from energies"):
        smc.sample(ProposedBy(model, model), (1,), levels(4), particles=4, weights="score")
    with pytest.raises(TypeError, match="no energy"):
        ProposedBy(Denoiser(model), model)


def test_compiled_steps_agree(two_modes, levels):
    target, options = Tempered(Denoiser(two_modes), 2.0), {"particles": 40, "dtype": torch.float64}
    eager = smc.sample(target, (2,), levels(4), **grouped(**options))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        compiled = smc.sample(target, (2,), levels(4), **grouped(compile=True, **options))
    torch.testing.assert_close(compiled.x, eager.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(compiled.log_weights, eager.log_weights, rtol=1e-9, atol=1e-9)


def test_a_condition_around_a_sum_leaves_it_a_sum(levels):
    """Conditions bound to guidance are bound to its models, which keep their weights."""

    def shrunk(factor):
        def denoise(x, sigma, scale):
            return scale[:, None] * factor * x / (1 + sigma[:, None] ** 2)

        return denoise

    first_model, second_model = shrunk(0.9), shrunk(0.5)
    inside = Guided(Conditioned(first_model, scale=0.8), Conditioned(second_model, scale=0.8), 2.0)
    outside = Conditioned(Guided(first_model, second_model, 2.0), scale=0.8)
    first, second = (
        smc.sample(target, (2,), levels(10), particles=50, seed=1, weights="score")
        for target in (inside, outside)
    )
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.log_weights, second.log_weights)
    assert first.log_weights.std() > 0
