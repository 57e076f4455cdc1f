"""Products, powers and guidance of Gaussians are Gaussians with known means and precisions."""

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, ResidualMLP
from edmfast.targets import Conditioned, Guided, Product, Tempered

F64 = torch.float64
ONE = GaussianMixture([[1.0, -2.0]], [0.5], [1.0])
TWO = GaussianMixture([[-0.5, 0.3]], [0.8], [1.0])
X = torch.randn(7, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
SIGMA = 0.6


def gaussian(mean, std):
    """Return (mean [2], precision) of one factor at SIGMA."""
    return torch.tensor(mean, dtype=F64), 1 / (std**2 + SIGMA**2)


@pytest.mark.parametrize(
    ("target", "a", "b"),
    [
        (Product([ONE, TWO]), 1.0, 1.0),
        (Product([ONE, TWO], [2.0, -0.5]), 2.0, -0.5),
        (Tempered(ONE, 3.0), 3.0, 0.0),
        (Guided(ONE, TWO, 2.5), -1.5, 2.5),
        (Tempered(Product([ONE, Tempered(TWO, 2.0)]), 1.5), 1.5, 3.0),
    ],
)
def test_weighted_gaussians(target, a, b):
    (mean1, precision1), (mean2, precision2) = (
        gaussian([1.0, -2.0], 0.5),
        gaussian([-0.5, 0.3], 0.8),
    )
    expected = -a * precision1 * (X - mean1) - b * precision2 * (X - mean2)
    energy, score = target.energy_and_score(X, SIGMA)
    torch.testing.assert_close(score, expected)
    assert target.exponent == pytest.approx(a + b)
    torch.testing.assert_close(target(X, SIGMA), X + SIGMA**2 * expected / (a + b))
    log_prob = a * ONE.log_prob(X, SIGMA) + b * TWO.log_prob(X, SIGMA)
    torch.testing.assert_close(energy, -log_prob)


def test_score_stays_differentiable():
    x = X.clone().requires_grad_()
    _, score = Guided(ONE, TWO, 2.0).energy_and_score(x, SIGMA)
    (row,) = torch.autograd.grad(score[:, 0].sum(), x)
    expected = 1 / (0.5**2 + SIGMA**2) - 2 / (0.8**2 + SIGMA**2)
    torch.testing.assert_close(row[:, 0], torch.full((7,), expected, dtype=F64))


def test_a_model_of_weight_zero_is_not_evaluated():
    class Broken:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            raise AssertionError

    _, score = Guided(Broken(), ONE, 1.0).energy_and_score(X, SIGMA)
    assert torch.equal(score, ONE.energy_and_score(X, SIGMA)[1])


def test_models_move_with_their_sum_and_get_its_conditions():
    product = Product([ONE, TWO])
    assert {name.split(".")[0] for name, _ in product.named_buffers()} == {"model_0", "model_1"}

    class Labelled:
        exponent = 1.0

        def energy_and_score(self, x, sigma, class_label):
            return class_label.to(x.dtype), x

    energy, _ = Conditioned(Product([Labelled(), Labelled()]), class_label=3).energy_and_score(X, 1)
    assert (energy == 6).all()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Tempered(ONE, 0.0), ValueError, "A = 0"),
        (lambda: Product([ONE, TWO], [1.0, -2.0]), ValueError, "must be positive"),
        (lambda: Tempered(ONE, math.nan), ValueError, "finite"),
        (lambda: Product([ONE, TWO], [1.0]), ValueError, "2 models and 1 exponents"),
        (lambda: Product([]), ValueError, "at least one model"),
        (
            lambda: Tempered(Denoiser(ResidualMLP(2)), 2.0).energy_and_score(X, 1.0),
            TypeError,
            "has no energy: distil",
        ),
    ],
)
def test_bad_arguments_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_loaded_exponents_have_their_own_total():
    model = GaussianMixture([[0.0]], [1.0])
    first, second = (Tempered(model, torch.tensor(gammas)) for gammas in ([1.0, 2.0], [3.0, 4.0]))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.exponent, first.exponent)
