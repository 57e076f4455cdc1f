"""Test exponents with one number per population, sums within sums, and sums of plain denoisers."""

import math

import pytest
import torch

from edmfast._internal.rows import for_rows
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.targets import Conditioned, Guided, Product, Tempered
from edmfast.targets.algebra import terms_of
from edmfast.targets.scores import has_energy, score_of

F64 = torch.float64
ONE = GaussianMixture([[1.0, -2.0], [0.0, 1.0]], [0.5, 0.3], [0.4, 0.6])
TWO = GaussianMixture([[-0.5, 0.3]], [0.8], [1.0])
X = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
SIGMA = 0.6
GAMMA = torch.tensor([0.5, 1.0, 3.0], dtype=F64)
ROWS = GAMMA.repeat_interleave(2)


def network(seed, classes=3):
    torch.manual_seed(seed)
    backbone = ResidualMLP(2, width=16, depth=2, num_classes=classes)
    torch.nn.init.normal_(backbone.output.weight, std=0.3)
    return backbone


def parts(model, x=X):
    return model.energy_and_score(x, SIGMA)


@pytest.mark.parametrize(
    ("target", "a", "b"),
    [
        (Tempered(ONE, GAMMA), ROWS, 0 * ROWS),
        (Product([ONE, TWO], [GAMMA, 2.0]), ROWS, 0 * ROWS + 2),
        (Guided(ONE, TWO, GAMMA), 1 - ROWS, ROWS),
        (Tempered(Guided(ONE, TWO, GAMMA), 2.0), 2 - 2 * ROWS, 2 * ROWS),
        (Guided(Tempered(ONE, GAMMA), Tempered(TWO, GAMMA), GAMMA), (1 - ROWS) * ROWS, ROWS**2),
        (Tempered(Product([ONE, Tempered(TWO, GAMMA)]), GAMMA), ROWS, ROWS**2),
    ],
)
def test_one_exponent_per_run_of_rows(target, a, b):
    (energy1, score1), (energy2, score2) = parts(ONE), parts(TWO)
    energy, score = parts(target)
    expected = a[:, None] * score1 + b[:, None] * score2
    torch.testing.assert_close(energy, a * energy1 + b * energy2)
    torch.testing.assert_close(score, expected)
    total = (a + b)[::2]
    assert target.exponent.dtype == F64
    torch.testing.assert_close(target.exponent, total)
    torch.testing.assert_close(target(X, SIGMA), X + SIGMA**2 * expected / (a + b)[:, None])
    pieces = [parts(for_rows(target, i, i + 3, 6), X[i : i + 3]) for i in (0, 3)]
    torch.testing.assert_close(torch.cat([p[0] for p in pieces]), energy, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([p[1] for p in pieces]), score, rtol=0, atol=0)
    terms = target.terms()
    assert [leaf for _, leaf in terms] == [ONE, TWO][: len(terms)]
    for (exponent, _), expected in zip(terms, (a, b), strict=False):
        torch.testing.assert_close(torch.as_tensor(exponent, dtype=F64).expand(3), expected[::2])


def test_guidance_by_several_models_relative_to_a_base():
    target = Guided(ONE, [TWO, ONE], [GAMMA, 0.25])
    direct = parts(ONE)[0] + ROWS * (parts(TWO)[0] - parts(ONE)[0])
    torch.testing.assert_close(parts(target)[0], direct)
    assert target.exponent.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="2 models and 1 weights"):
        Guided(ONE, [TWO, ONE], [1.0])


def test_second_derivatives_of_a_nested_sum():
    """The second derivatives that a curvature probe takes are the Hessian of the sum of log-densities."""
    x = X.clone().requires_grad_()
    target = Tempered(Guided(ONE, TWO, GAMMA), 1.5)
    _, score = target.energy_and_score(x, SIGMA)
    (gradients,) = torch.autograd.grad(score[:, 0].sum(), x)

    def log_density(row, a, b):
        first, second = (m.log_prob(row[None], SIGMA)[0] for m in (ONE, TWO))
        return 1.5 * ((1 - a) * first + b * second)

    for row, weight, gradient in zip(X, ROWS, gradients, strict=True):
        hessian = torch.autograd.functional.hessian(lambda r, w=weight: log_density(r, w, w), row)
        torch.testing.assert_close(gradient, hessian[0])


def test_perceptrons_are_evaluated_in_one():
    conditional, other = EnergyModel(network(0)), EnergyModel(network(1))
    label = torch.tensor([0, 1, 2])
    x = X.float()
    target = Product([Conditioned(conditional, class_label=label), other], [GAMMA, 1.0])
    result = for_rows(target, 0, 6, 6).energy_and_score(x, SIGMA)
    first = conditional.energy_and_score(x, SIGMA, class_label=label.repeat_interleave(2))
    second = other.energy_and_score(x, SIGMA)
    torch.testing.assert_close(result[0], ROWS.float() * first[0] + second[0])
    torch.testing.assert_close(result[1], ROWS.float()[:, None] * first[1] + second[1])


def test_a_condition_does_not_keep_a_sum_from_being_split():
    model = EnergyModel(network(0))
    target = Conditioned(Tempered(model, GAMMA), class_label=torch.tensor([0, 1, 2]))
    result = for_rows(target, 0, 6, 6).energy_and_score(X.float(), SIGMA)[0]
    for i in range(6):
        part = for_rows(target, i, i + 1, 6).energy_and_score(X.float()[i : i + 1], SIGMA)[0]
        torch.testing.assert_close(part, result[i : i + 1])
    assert target.exponent.tolist() == GAMMA.tolist()
    assert terms_of(target)[0][0].tolist() == GAMMA.tolist()
    assert terms_of(target)[0][1].condition == target.condition


def test_a_row_with_exponent_zero_ignores_a_wall():
    class Wall:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            return torch.full_like(x[:, 0], math.inf), torch.zeros_like(x)

    target = Product([ONE, Wall()], [1.0, torch.tensor([0.0, 1.0])])
    energy, _ = parts(target)
    torch.testing.assert_close(energy[:3], parts(ONE)[0][:3])
    assert energy[3:].isinf().all()


def test_a_sum_of_plain_denoisers_is_a_denoiser():
    energy = EnergyModel(network(0)).double()
    denoiser = Denoiser(network(1)).double()
    target = Guided(energy, Tempered(denoiser, GAMMA), 0.5)
    assert not has_energy(target)
    assert not has_energy(Conditioned(target, class_label=1))
    assert has_energy(Guided(energy, denoiser, 0.0))
    with pytest.raises(TypeError, match="weights='score'"):
        parts(target)
    score = 0.5 * parts(energy)[1] + 0.5 * ROWS[:, None] * (denoiser(X, SIGMA) - X) / SIGMA**2
    torch.testing.assert_close(score_of(target, X, SIGMA), score)
    total = (0.5 + 0.5 * ROWS)[:, None]
    torch.testing.assert_close(target(X, SIGMA), X + SIGMA**2 * score / total)
    assert [leaf for _, leaf in target.terms()] == [energy, denoiser]
    torch.testing.assert_close(score_of(energy, X, SIGMA), parts(energy)[1])
    assert terms_of(denoiser) == [(1.0, denoiser)]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Tempered(ONE, torch.tensor([1.0, 0.0])), ValueError, "must be positive"),
        (lambda: Guided(Tempered(ONE, 0.5), TWO, -GAMMA), ValueError, "must be positive"),
        (lambda: Tempered(ONE, torch.tensor([1.0, math.inf])), ValueError, "finite"),
        (lambda: Tempered(ONE, torch.ones(2, 2)), ValueError, r"\[K\]"),
        (lambda: Product([ONE, TWO], [GAMMA, GAMMA[:2]]), ValueError, "different lengths"),
        (lambda: Tempered(ONE, "cold"), TypeError, "numbers or tensors"),
        (lambda: Tempered(3, 2.0), TypeError, "no denoiser"),
        (lambda: parts(Tempered(ONE, torch.ones(4))), ValueError, "do not divide a batch of 6"),
        (lambda: for_rows(Tempered(ONE, torch.ones(4)), 0, 2, 6), ValueError, "do not divide"),
    ],
)
def test_bad_exponents_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
