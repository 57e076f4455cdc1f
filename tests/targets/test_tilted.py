"""Tilts by rewards and constraints agree with direct formulas: energies, scores, ramps, rows and errors."""

import math

import pytest
import torch

from edmfast._internal.rows import for_rows
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, ResidualMLP
from edmfast.targets import Constrained, Guided, Product, Tempered, Tilted
from edmfast.targets.constrained import box, half_space
from edmfast.targets.mixture import Mixture
from edmfast.targets.scores import has_energy, score_is_exact
from edmfast.targets.tilt_gradients import detached_tilts

F64 = torch.float64
BASE = GaussianMixture([[1.0, -2.0], [-0.4, 0.3]], [0.5, 0.3], [0.4, 0.6])
OTHER = GaussianMixture([[0.0, 0.5]], [0.7])
X = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
SIGMA = 0.4
GAMMA = torch.tensor([0.5, 1.0, 3.0], dtype=F64)
ROWS = GAMMA.repeat_interleave(2)


def reward(x):
    return torch.sin(2 * x[:, 0]) - x[:, 1] ** 2


def share(sigma, high=2.0, low=0.1):
    return min(1, max(0, math.log(high / sigma) / math.log(high / low)))


def direct(target_energy):
    """Return (U, -grad U) of a function of x by autograd."""
    x = X.clone().requires_grad_()
    energy = target_energy(x)
    return energy.detach(), -torch.autograd.grad(energy.sum(), x)[0]


def denoise(x, exponent=1.0, model=BASE):
    return x + SIGMA**2 * model.energy_and_score(x, SIGMA)[1] / exponent


@pytest.mark.parametrize("of", ["denoised", "state"])
def test_exact_gradient_is_that_of_the_energy(of):
    target = Tilted(BASE, reward, 1.7, of=of, gradient="exact")
    point = denoise if of == "denoised" else lambda x: x
    expected = direct(lambda x: BASE.energy(x, SIGMA) - 1.7 * share(SIGMA) * reward(point(x)))
    for sigma in (SIGMA, torch.tensor(SIGMA, dtype=F64), torch.full((6,), SIGMA, dtype=F64)):
        for part, truth in zip(target.energy_and_score(X, sigma), expected, strict=True):
            torch.testing.assert_close(part, truth)
            assert not part.requires_grad
    assert target.score_is_exact
    torch.testing.assert_close(target(X, SIGMA), X + SIGMA**2 * expected[1])
    x = X.clone().requires_grad_()
    energy, _ = target.energy_and_score(x, SIGMA)
    torch.testing.assert_close(-torch.autograd.grad(energy.sum(), x)[0], expected[1])


def test_other_gradients_change_the_score_but_not_the_energy():
    exact = Tilted(BASE, reward, 1.7, gradient="exact").energy_and_score(X, SIGMA)
    none = Tilted(BASE, reward, 1.7)
    energy, score = none.energy_and_score(X, SIGMA)
    torch.testing.assert_close(energy, exact[0])
    torch.testing.assert_close(score, BASE.energy_and_score(X, SIGMA)[1])
    approximate = Tilted(
        BASE, reward, 1.7, gradient="approximate", gradient_scale=0.5, data_std=0.3
    )
    energy, guided = approximate.energy_and_score(X, SIGMA)
    torch.testing.assert_close(energy, exact[0])
    point = denoise(X).requires_grad_()
    (slope,) = torch.autograd.grad(reward(point).sum(), point)
    factor = 0.5 * 1.7 * share(SIGMA) * 0.09 / (0.09 + SIGMA**2)
    torch.testing.assert_close(guided, score + factor * slope)
    assert not score_is_exact(none)
    assert not score_is_exact(approximate)
    assert not score_is_exact(Product([BASE, Tempered(none, 2.0)]))
    assert not score_is_exact(Mixture([BASE, none]))
    assert score_is_exact(Tilted(BASE, reward, 1.0, of="state", gradient="approximate"))
    assert score_is_exact(Guided(BASE, OTHER, 2.0))


def test_for_gaussian_data_the_approximate_gradient_is_the_exact_one():
    gaussian = GaussianMixture([[0.3, -0.1]], [0.5])
    exact, approximate = (
        Tempered(Tilted(gaussian, reward, 2.0, gradient=g), 1.5) for g in ("exact", "approximate")
    )
    score = approximate.energy_and_score(X, SIGMA)[1]
    torch.testing.assert_close(score, exact.energy_and_score(X, SIGMA)[1])


@pytest.mark.parametrize("gradient", ["none", "exact", "approximate"])
def test_strengths_of_one_population_each_and_rows(gradient):
    target = Tilted(Tempered(BASE, GAMMA), reward, GAMMA**2, gradient=gradient)
    result = target.energy_and_score(X, SIGMA)
    direct = ROWS * BASE.energy(X, SIGMA)
    direct = direct - ROWS**2 * share(SIGMA) * reward(denoise(X))
    torch.testing.assert_close(result[0], direct)
    levels = torch.full((6,), SIGMA, dtype=F64)
    pieces = [
        for_rows(target, i, i + 3, 6).energy_and_score(X[i : i + 3], levels[:3]) for i in (0, 3)
    ]
    for piece, part in zip(zip(*pieces, strict=True), result, strict=True):
        torch.testing.assert_close(torch.cat(piece), part)
    torch.testing.assert_close(target.strength_at(SIGMA), GAMMA**2 * share(SIGMA))
    assert target.exponent.tolist() == GAMMA.tolist()
    assert "numbers" in target.state_dict()


@pytest.mark.parametrize("gradient", ["none", "exact", "approximate"])
def test_nested_in_any_order(gradient):
    """Tilts inside and outside of powers, guidance and mixtures agree with the formulas."""
    tilt = Tilted(BASE, reward, 1.7, gradient=gradient)
    inner = BASE.energy(X, SIGMA) - 1.7 * share(SIGMA) * reward(denoise(X))
    guided = Tempered(Guided(OTHER, tilt, GAMMA), 2.0)
    other = OTHER.energy(X, SIGMA)
    energy = 2 * ((1 - ROWS) * other + ROWS * inner)
    torch.testing.assert_close(guided.energy_and_score(X, SIGMA)[0], energy)
    mixture = Mixture([Product([BASE, tilt]), Product([OTHER, OTHER])], [0.3, 0.7])
    pair = torch.stack(
        [0.3 * torch.exp(-BASE.energy(X, SIGMA) - inner), 0.7 * torch.exp(-2 * other)]
    )
    torch.testing.assert_close(mixture.energy_and_score(X, SIGMA)[0], -pair.sum(0).log())
    outer = Tilted(mixture, reward, 0.4, of="state", ramp=None)
    expected = -pair.sum(0).log() - 0.4 * reward(X)
    torch.testing.assert_close(outer.energy_and_score(X, SIGMA)[0], expected)
    assert outer.exponent == 2.0
    if gradient == "exact":
        expected = torch.func.grad(lambda x: guided_energy(x).sum())(X)
        torch.testing.assert_close(guided.energy_and_score(X, SIGMA)[1], -expected)


def guided_energy(x):
    log_p = BASE.log_prob(x, SIGMA)
    score = torch.func.grad(lambda y: BASE.log_prob(y, SIGMA).sum())(x)
    inner = -log_p - 1.7 * share(SIGMA) * reward(x + SIGMA**2 * score)
    return 2 * ((1 - ROWS) * OTHER.energy(x, SIGMA) + ROWS * inner)


@pytest.mark.parametrize("gradient", ["none", "exact", "approximate"])
def test_the_curvature_probe_leaves_out_the_tilt(gradient):
    """A curvature probe differentiates the base model only, so the reward needs no second derivative."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.square().sum(1)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, cotangent):
            return cotangent[:, None] * torch.ones(len(cotangent), 2, dtype=F64)

    tilted_derivatives, base_derivatives = [], []
    for target, out in (
        (Tilted(BASE, Once.apply, 1.0, gradient=gradient), tilted_derivatives),
        (BASE, base_derivatives),
    ):
        x = X.clone().requires_grad_()
        with detached_tilts():
            _, score = target.energy_and_score(x, SIGMA)
        out.extend(torch.autograd.grad(score[:, 0].sum(), x))
    torch.testing.assert_close(tilted_derivatives[0], base_derivatives[0])


def test_ramps():
    tilt = Tilted(BASE, reward, 3.0, ramp=(4.0, 0.25))
    assert tilt.strength_at(4.0) == tilt.strength_at(9.0) == 0
    assert tilt.strength_at(0.25) == tilt.strength_at(0.1) == 3.0
    assert tilt.strength_at(1.0) == pytest.approx(1.5)
    assert tilt.strength_at(torch.tensor([9.0, 1.0, 0.1])).tolist() == [0.0, 1.5, 3.0]
    assert Tilted(BASE, reward, 3.0, ramp=None).strength_at(torch.tensor(50.0)) == 3.0
    assert Tilted(BASE, reward, 3.0, ramp=(1.0, 1.0)).strength_at(0.99) == 3.0
    by_function = Tilted(BASE, reward, lambda sigma: 1 / (1 + sigma))
    assert by_function.strength_at(1.0) == 0.5
    expected = BASE.energy(X, 1.0) - 0.5 * reward(BASE(X, 1.0))
    torch.testing.assert_close(by_function.energy_and_score(X, 1.0)[0], expected)

    def broken(x):
        raise AssertionError

    silent = Tilted(BASE, broken, 3.0).energy_and_score(X, 2.5)
    torch.testing.assert_close(silent, BASE.energy_and_score(X, 2.5))
    walled = Tilted(BASE, lambda x: x[:, 0] * math.inf, 3.0, ramp=(1.0, 0.5))
    assert walled.energy_and_score(X, torch.tensor(2.5))[0].isfinite().all()


def test_path_rewards_and_plain_denoisers_have_no_energy():
    path = Tilted(BASE, reward, 1.0, potential="max")
    assert has_energy(path)
    with pytest.raises(TypeError, match="rewards paths"):
        path.energy_and_score(X, SIGMA)
    torch.manual_seed(0)
    denoiser = Denoiser(ResidualMLP(2, width=8, depth=1)).double()
    tilt = Tilted(denoiser, reward, 1.3, gradient="exact")
    assert not has_energy(tilt)
    with pytest.raises(TypeError, match="weights='score'"):
        tilt.energy_and_score(X, SIGMA)
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(reward(denoiser(x, SIGMA)).sum(), x)
    guided = denoiser(X, SIGMA) + SIGMA**2 * 1.3 * share(SIGMA) * slope
    torch.testing.assert_close(tilt(X, SIGMA), guided.detach())
    assert torch.equal(tilt.reward_of(X, 2 * X), reward(2 * X))


def test_constraints():
    inside = torch.tensor([[0.2, -0.9], [0.0, 0.5]], dtype=F64)
    outside = torch.tensor([[1.5, -1.25], [-2.0, 0.0]], dtype=F64)
    assert box(-1.0, 1.0)(inside).tolist() == [0, 0]
    assert box(-1.0, torch.tensor([1.0, 3.0]))(outside).tolist() == [0.25 + 0.0625, 1.0]
    plane = half_space(torch.tensor([2.0, 0.0]), 1.0)
    assert plane(outside).tolist() == [4.0, 0.0]
    soft = Constrained(BASE, plane, 2.0, gradient="exact")
    expected = direct(
        lambda x: (
            BASE.energy(x, SIGMA) + 2 * share(SIGMA) * (2 * denoise(x)[:, 0] - 1).clamp_min(0) ** 2
        )
    )
    torch.testing.assert_close(soft.energy_and_score(X, SIGMA), expected)


@pytest.mark.parametrize("of", ["denoised", "state"])
def test_a_wall_stands_from_its_level_down(of):
    plane = half_space(torch.tensor([1.0, 0.0]), 0.0)
    walled = Constrained(BASE, plane, 0.0, hard_below=SIGMA, of=of)
    point = denoise(X) if of == "denoised" else X
    outside = point[:, 0] > 0
    assert outside.any()
    assert not outside.all()
    for sigma in (SIGMA, torch.tensor(SIGMA)):
        energy, score = walled.energy_and_score(X, sigma)
        assert energy[outside].isinf().all()
        torch.testing.assert_close(energy[~outside], BASE.energy(X, SIGMA)[~outside])
        assert score.isfinite().all()
    for sigma in (0.5, torch.tensor(0.5)):
        energy, _ = walled.energy_and_score(X, sigma)
        torch.testing.assert_close(energy, BASE.energy(X, 0.5))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Tilted(BASE, 3.0, 1.0), TypeError, "must be callable"),
        (lambda: Tilted(3, reward, 1.0), TypeError, "no denoiser"),
        (lambda: Tilted(BASE, reward, math.inf), ValueError, "strength must be finite"),
        (lambda: Tilted(BASE, reward, 1.0, of="noise"), ValueError, "denoised, state"),
        (lambda: Tilted(BASE, reward, 1.0, gradient="full"), ValueError, "approximate"),
        (lambda: Tilted(BASE, reward, 1.0, potential="min"), ValueError, "difference"),
        (lambda: Tilted(BASE, reward, 1.0, ramp=(0.1, 2.0)), ValueError, "decreasing"),
        (lambda: Tilted(BASE, reward, 1.0, data_std=0.0), ValueError, "data_std"),
        (lambda: Tilted(BASE, lambda x: x, 1.0)(X, SIGMA), ValueError, "one number for each row"),
        (
            lambda: Tilted(BASE, lambda x: (x > 0).sum(1), 1.0, gradient="exact")(X, SIGMA),
            ValueError,
            "no gradient",
        ),
        (lambda: Constrained(BASE, reward, 1.0, hard_below=0.0), ValueError, "hard_below"),
        (lambda: box(1.0, -1.0), ValueError, "low <= high"),
        (lambda: half_space(torch.zeros(2), 1.0), ValueError, "normal"),
    ],
)
def test_bad_tilts_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
