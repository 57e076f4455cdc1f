"""Test targets made of Gaussians against means, variances and normalisers in closed form."""

import math

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.smc.checkpoint.fingerprint import fingerprint
from edmfast.targets import Constrained, Guided, LinearInverse, Mixture, Product, Tempered, Tilted
from edmfast.targets.constrained import half_space

SEEDS = 20
F64 = torch.float64
END = 0.02


def within_three_standard_errors(values, truth):
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - truth).abs() < 3 * error).all(), (values.mean(0), error, truth)


def gaussian_law(factors):
    """Return (log of the integral, mean [d], variance) of exp(sum a log N(x; m, v I)) for factors (a, m, v)."""
    factors = [(a, torch.as_tensor(m, dtype=F64), v) for a, m, v in factors]
    d = len(factors[0][1])
    precision = sum(a / v for a, _, v in factors)
    mean = sum(a * m / v for a, m, v in factors) / precision
    log_integral = 0.5 * d * math.log(2 * math.pi / precision)
    for a, m, v in factors:
        away = float((mean - m).square().sum())
        log_integral -= 0.5 * a * (d * math.log(2 * math.pi * v) + away / v)
    return log_integral, mean, 1 / precision


def check(target, factors, levels, start_log_normaliser, constant=0.0, **options):
    """Check a target that is the Gaussian exp(constant) times the product of the factors."""
    log_integral, mean, variance = gaussian_law(factors)
    d = len(mean)
    sigmas = levels(25, low=END)
    result = smc.sample(target, (d,), sigmas, particles=500, populations=SEEDS, seed=7, **options)
    within_three_standard_errors(result.expectation(lambda x: x), mean)
    spread = result.expectation(lambda x: (x - mean).square().sum(-1))
    within_three_standard_errors(spread, d * variance)
    truth = constant + log_integral
    truth -= start_log_normaliser(float(sigmas[0]), target.exponent, d)
    within_three_standard_errors(torch.exp(result.log_z - truth), 1.0)
    return result


def gaussian(mean, std):
    return GaussianMixture([mean], [std]), (mean, std**2 + END**2)


def test_guidance_beyond_the_model(levels, start_log_normaliser):
    """N(0, 1)^-1 N(1, 1/4)² has mean 8/7 and variance 1/7.

    Much larger guidance weights would give the path heavy-tailed importance weights.
    """
    (base, base_law), (model, model_law) = gaussian([0.0], 1.0), gaussian([1.0], 0.5)
    factors = [(-1.0, *base_law), (2.0, *model_law)]
    _, mean, variance = gaussian_law(factors)
    assert float(mean) == pytest.approx(8 / 7, abs=1e-3)
    assert variance == pytest.approx(1 / 7, abs=1e-3)
    check(Guided(base, model, 2.0), factors, levels, start_log_normaliser)


def test_negation_and_guidance_by_two_models(levels, start_log_normaliser):
    (a, pa), (b, pb), (c, pc) = (
        gaussian(mean, std)
        for mean, std in (([0.5, 0.0], 0.4), ([0.0, 0.3], 0.9), ([-0.2, 0.2], 0.6))
    )
    target = Product([a, b], [1.5, -0.5])
    check(target, [(1.5, *pa), (-0.5, *pb)], levels, start_log_normaliser)
    target = Guided(b, [a, c], [0.8, 0.7])
    check(target, [(-0.5, *pb), (0.8, *pa), (0.7, *pc)], levels, start_log_normaliser)


def test_a_guidance_weight_of_its_own_for_every_population(levels, start_log_normaliser):
    (base, base_law), (model, model_law) = gaussian([0.0], 1.0), gaussian([1.0], 0.5)
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=F64).repeat(SEEDS)
    sigmas = levels(25, low=END)
    target = Tempered(Guided(base, model, weights), 1.5)
    result = smc.sample(target, (1,), sigmas, particles=300, populations=len(weights), seed=2)
    mean = result.expectation(lambda x: x)[:, 0]
    for index, w in enumerate((0.5, 1.0, 2.0)):
        log_integral, truth, _ = gaussian_law([(1.5 * (1 - w), *base_law), (1.5 * w, *model_law)])
        within_three_standard_errors(mean[index::3], float(truth))
        truth = log_integral - start_log_normaliser(float(sigmas[0]), 1.5, 1)
        within_three_standard_errors(torch.exp(result.log_z[index::3] - truth), 1.0)


def quadratic(centre, precision):
    centre = torch.tensor(centre, dtype=F64)
    return lambda x: -0.5 * precision * (x - centre).square().sum(1)


@pytest.mark.parametrize("of", ["denoised", "state"])
@pytest.mark.parametrize("gradient", ["none", "approximate", "exact"])
def test_quadratic_reward(levels, start_log_normaliser, of, gradient):
    base, prior = gaussian([0.5, -0.5], 0.6)
    strength, precision, centre = 1.5, 4.0, [-0.3, 0.2]
    # Since D = shrink x + (1 - shrink) m, its reward is quadratic in x.
    shrink = 0.6**2 / (0.6**2 + END**2) if of == "denoised" else 1.0
    around = [(c - (1 - shrink) * m) / shrink for c, m in zip(centre, prior[0], strict=True)]
    width = 1 / (strength * precision * shrink**2)
    target = Tilted(base, quadratic(centre, precision), strength, of=of, gradient=gradient)
    check(
        target,
        [(1.0, *prior), (1.0, around, width)],
        levels,
        start_log_normaliser,
        constant=math.log(2 * math.pi * width),
    )


def test_linear_reward_of_one_strength_for_every_population(levels, start_log_normaliser):
    """A factor exp(lambda <b, x>) moves N(m, v) to mean m + lambda v b."""
    base, (mean, variance) = gaussian([0.5, -0.5], 0.6)
    slope = torch.tensor([1.0, 2.0], dtype=F64)
    strengths = torch.tensor([0.0, 1.0, 2.5], dtype=F64).repeat(SEEDS)
    target = Tilted(base, lambda x: x @ slope, strengths, of="state", gradient="exact")
    sigmas = levels(25, low=END)
    result = smc.sample(target, (2,), sigmas, particles=300, populations=len(strengths), seed=4)
    means = result.expectation(lambda x: x)
    start = start_log_normaliser(float(sigmas[0]), 1.0, 2)
    for index, strength in enumerate((0.0, 1.0, 2.5)):
        truth = torch.tensor(mean, dtype=F64) + strength * variance * slope
        within_three_standard_errors(means[index::3], truth)
        log_z = strength * float(torch.tensor(mean, dtype=F64) @ slope)
        log_z += 0.5 * strength**2 * variance * float(slope.square().sum())
        within_three_standard_errors(torch.exp(result.log_z[index::3] - log_z + start), 1.0)


@pytest.mark.parametrize("strength", [0.0, 20.0])
def test_half_space_truncates_a_gaussian(levels, start_log_normaliser, strength):
    base, (mean, variance) = gaussian([0.5, 0.0], 0.6)
    wall = 0.2
    target = Constrained(
        base,
        half_space(torch.tensor([1.0, 0.0]), wall),
        strength,
        of="state",
        hard_below=END,
        ramp=(1.0, 0.1),
    )
    sigmas = levels(30, low=END)
    result = smc.sample(target, (2,), sigmas, particles=1000, populations=SEEDS, seed=3)
    assert result.degenerate.max() == 0
    inside = torch.isfinite(result.log_weights)
    assert (result.x[..., 0][inside] <= wall).all()
    width = math.sqrt(variance)
    beta = (wall - mean[0]) / width
    mass = 0.5 * (1 + math.erf(beta / math.sqrt(2)))
    ratio = math.exp(-0.5 * beta**2) / math.sqrt(2 * math.pi) / mass
    truth = mean[0] - width * ratio
    within_three_standard_errors(result.expectation(lambda x: x[..., 0]), truth)
    spread = result.expectation(lambda x: (x[..., 0] - truth).square())
    within_three_standard_errors(spread, variance * (1 - beta * ratio - ratio**2))
    within_three_standard_errors(result.expectation(lambda x: x[..., 1]), 0.0)
    log_z = math.log(mass) - start_log_normaliser(float(sigmas[0]), 1.0, 2)
    within_three_standard_errors(torch.exp(result.log_z - log_z), 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_scale": 0.5},
        {"of": "denoised", "gradient": "approximate"},
        {"of": "denoised", "gradient": "exact"},
    ],
)
def test_linear_gaussian_posterior(levels, start_log_normaliser, options):
    """The posterior of y = H x + n with a Gaussian prior has a known mean, covariance and evidence.

    With H applied to the denoised state D, H D is still linear in x.
    """
    g = torch.Generator().manual_seed(5)
    mean, std, noise = torch.randn(3, dtype=F64, generator=g) * 0.3, 0.5, 0.2
    operator = torch.randn(2, 3, dtype=F64, generator=g)
    observation = torch.randn(2, dtype=F64, generator=g) * 0.5
    prior = GaussianMixture(mean[None], [std])
    target = LinearInverse(prior, operator, observation, noise, **options)
    sigmas = levels(30, low=END)
    v = std**2 + END**2
    shrink = std**2 / v if "of" in options else 1.0
    seen, known = shrink * operator, observation - (1 - shrink) * operator @ mean
    gain = v * seen.T @ torch.linalg.inv(v * seen @ seen.T + noise**2 * torch.eye(2))
    truth = mean + gain @ (known - seen @ mean)
    covariance = v * (torch.eye(3) - gain @ seen)
    result = smc.sample(target, (3,), sigmas, particles=1000, populations=SEEDS, seed=1)
    within_three_standard_errors(result.expectation(lambda x: x), truth)
    estimate = result.expectation(lambda x: (x - truth)[..., None] * (x - truth)[..., None, :])
    within_three_standard_errors(estimate, covariance)
    evidence = torch.distributions.MultivariateNormal(
        seen @ mean, v * seen @ seen.T + noise**2 * torch.eye(2)
    ).log_prob(known)
    log_z = float(evidence) + math.log(2 * math.pi * noise**2)
    log_z -= start_log_normaliser(float(sigmas[0]), 1.0, 3)
    within_three_standard_errors(torch.exp(result.log_z - log_z), 1.0)


def test_posterior_mass_of_a_mode_for_every_observation(levels):
    """The posterior of two modes seen along one direction gives the left mode a known mass, for two
    observations.
    """
    prior = GaussianMixture([[-1.0, 0.0], [1.0, 0.4]], [0.3, 0.5], [0.35, 0.65])
    operator, noise = torch.tensor([[0.6, 0.8]], dtype=F64), 0.5
    seen = torch.tensor([[-0.2], [0.3]], dtype=F64)
    target = LinearInverse(prior, operator, seen.repeat(SEEDS, 1), noise, per_population=True)
    sigmas = levels(30, low=END)
    result = smc.sample(target, (2,), sigmas, particles=500, populations=2 * SEEDS, seed=6)
    left = result.expectation(lambda x: (x[..., 0] < 0).double())
    v = prior.stds.square() + END**2
    for index in range(2):
        # Each component has its evidence, and a share of its mass below 0.
        width = v + noise**2  # The rows of H have norm 1.
        away = seen[index] - prior.means @ operator[0]
        logits = prior.weights.log() - 0.5 * away.square() / width - 0.5 * width.log()
        share = torch.softmax(logits, 0)
        mean = prior.means[:, 0] + v / width * operator[0, 0] * away
        variance = v - v.square() / width * operator[0, 0] ** 2
        below = 0.5 * (1 + torch.erf(-mean / variance.sqrt() / math.sqrt(2)))
        within_three_standard_errors(left[index::2], float((share * below).sum()))


def test_nested_targets_as_a_law(levels, start_log_normaliser):
    """A tilt of a tempered mixture of two distant Gaussians favours one of them."""
    (left, pl), (right, pr) = gaussian([-2.0], 0.3), gaussian([2.0], 0.5)
    strength, gamma = 0.4, 2.0
    target = Tilted(
        Tempered(Mixture([left, right], [0.4, 0.6]), gamma),
        lambda x: x[:, 0],
        strength,
        of="state",
        gradient="exact",
    )
    sigmas = levels(40, low=END)
    masses = []
    for weight, (mean, v) in ((0.4, pl), (0.6, pr)):
        # Each mode is w² N(x; m, v)² exp(lambda x); at this distance the cross term vanishes.
        log_mass = gamma * math.log(weight) - 0.5 * math.log(4 * math.pi * v)
        log_mass += strength * mean[0] + strength**2 * v / 4
        masses.append(log_mass)
    truth = torch.tensor(masses, dtype=F64)
    result = smc.sample(target, (1,), sigmas, particles=1000, populations=SEEDS, seed=9)
    mass = result.expectation(lambda x: (x[..., 0] < 0).double())
    within_three_standard_errors(mass, float(torch.softmax(truth, 0)[0]))
    log_z = float(torch.logsumexp(truth, 0)) - start_log_normaliser(float(sigmas[0]), gamma, 1)
    within_three_standard_errors(torch.exp(result.log_z - log_z), 1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda base, r: Tilted(base, r, 1.0, ramp=(2.0, 0.01)), "end the ramp above it"),
        (lambda base, r: Tempered(Tilted(base, r, 1.0, ramp=(2.0, 0.01)), 2.0), "end the ramp"),
        (lambda base, r: Constrained(base, r, 1.0, hard_below=0.01), "a wall must stand"),
        (lambda base, r: Constrained(base, r, 1.0, hard_below=0.5), "and no other"),
        (
            lambda base, _: LinearInverse(base, torch.eye(2), torch.zeros(2), 1.0, full_below=0.01),
            "raise full_below",
        ),
    ],
)
def test_a_run_must_end_where_the_target_is_whole(levels, build, message):
    base, _ = gaussian([0.0, 0.0], 1.0)
    target = build(base, half_space(torch.tensor([1.0, 0.0]), 0.0))
    with pytest.raises(ValueError, match=message):
        smc.sample(target, (2,), levels(25, low=END), particles=10)


def test_checkpoints_tell_targets_apart():
    base, (zero, _) = gaussian([0.0, 0.0], 1.0)
    plane = half_space(torch.tensor([1.0, 0.0]), 0.0)
    eye, y = torch.eye(2), torch.zeros(2)
    ones = torch.ones(3)
    targets = [
        base,
        Tempered(base, 2.0),
        Tempered(base, 3.0),
        Tempered(base, 2 * ones),
        Tempered(base, 3 * ones),
        Guided(base, base, 2.0),
        Mixture([base, base]),
        Mixture([base, base], [0.3, 0.7]),
        Mixture([base, base], offsets=([1.0], [[0.0, 1.0]])),
        Mixture([base, base], offsets=([1.0], [[0.0, 2.0]])),
        Tilted(base, plane, 1.0),
        Tilted(base, plane, 2.0),
        Tilted(base, plane, 2 * ones),
        Tilted(base, plane, 3 * ones),
        Tilted(base, plane, 1.0, ramp=(2.0, 0.2)),
        Tilted(base, plane, 1.0, ramp=None),
        Tilted(base, plane, 1.0, of="state"),
        Tilted(base, plane, 1.0, gradient="exact"),
        Tilted(base, half_space(torch.tensor([1.0, 0.0]), 1.0), 1.0),
        Tilted(base, quadratic(zero, 1.0), 1.0),
        Constrained(base, plane, 1.0),
        Constrained(base, plane, 1.0, hard_below=0.1),
        LinearInverse(base, eye, y, 1.0),
        LinearInverse(base, eye, y, 2.0),
        LinearInverse(base, eye, y + 1, 1.0),
        LinearInverse(base, 2 * eye, y, 1.0),
        LinearInverse(base, eye, y, 1.0, full_below=0.1),
    ]
    assert len({fingerprint(target) for target in targets}) == len(targets)
    assert fingerprint(targets[-1]) == fingerprint(LinearInverse(base, eye, y, 1.0, full_below=0.1))
