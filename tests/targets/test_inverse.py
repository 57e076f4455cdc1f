"""Linear inverse problems: operators agree with matrices, energies and scores with their formulas."""

import math

import pytest
import torch

from edmfast._internal.rows import for_rows
from edmfast.analytic import GaussianMixture
from edmfast.targets import LinearInverse, Tempered
from edmfast.targets.inverse import likelihood_schedule
from edmfast.targets.measurements import (
    as_measurement,
    deblurring,
    gaussian_kernel,
    inpainting,
    super_resolution,
)

F64 = torch.float64
SIGMA = 0.3
G = torch.Generator().manual_seed(0)
PRIOR = GaussianMixture(torch.randn(3, 5, generator=G), [0.3, 0.5, 0.2])
H = torch.randn(2, 5, dtype=F64, generator=G)
Y = torch.randn(2, dtype=F64, generator=G)
X = torch.randn(6, 5, dtype=F64, generator=G)
NOISE = 0.4


def matrix_of(operator, shape):
    """Return the matrix [M, D] of an operator, found column by column."""
    basis = torch.eye(math.prod(shape), dtype=F64).reshape(-1, *shape)
    return operator(basis).flatten(1).T


def test_energy_and_score():
    target = LinearInverse(PRIOR, H, Y, NOISE, gradient_scale=0.25)
    alpha = likelihood_schedule(NOISE, "state")(SIGMA)
    misfit = X @ H.T - Y
    energy, score = PRIOR.energy_and_score(X, SIGMA)
    result = target.energy_and_score(X, SIGMA)
    torch.testing.assert_close(result[0], energy + alpha * misfit.square().sum(1) / (2 * NOISE**2))
    torch.testing.assert_close(result[1], score - 0.25 * alpha * misfit @ H / NOISE**2)
    assert not target.score_is_exact
    assert LinearInverse(PRIOR, H, Y, NOISE).score_is_exact
    denoised = LinearInverse(PRIOR, H, Y, NOISE, of="denoised", gradient="none")
    misfit = PRIOR(X, SIGMA) @ H.T - Y
    alpha = likelihood_schedule(NOISE, "denoised")(SIGMA)
    expected = energy + alpha * misfit.square().sum(1) / (2 * NOISE**2)
    torch.testing.assert_close(denoised.energy_and_score(X, SIGMA)[0], expected)


@pytest.mark.parametrize("of", ["state", "denoised"])
def test_the_likelihood_is_whole_from_full_below_down(of):
    alpha = likelihood_schedule(NOISE, of, full_below=0.05)
    for sigma in (0.05, 0.01, torch.tensor(0.05, dtype=F64), torch.tensor([0.01, 0.04])):
        assert torch.as_tensor(alpha(sigma) == 1).all()
    assert float(alpha(torch.tensor(0.7))) == pytest.approx(alpha(0.7))
    assert alpha(0.06) < 1
    # At this level the likelihood of the state must vanish, and the denoised state is the mean of the prior.
    late = 0.0 if of == "state" else NOISE**2 / (NOISE**2 + 4 * 0.5**2)
    assert alpha(50.0) == pytest.approx(late, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("model", [PRIOR, Tempered(PRIOR, torch.tensor([1.0, 2.0, 3.0]))])
def test_one_observation_per_population(model):
    many = torch.randn(3, 2, dtype=F64, generator=G)
    target = LinearInverse(model, H, many, NOISE, per_population=True)
    result = target.energy_and_score(X, SIGMA)
    pieces = [for_rows(target, i, i + 3, 6).energy_and_score(X[i : i + 3], SIGMA) for i in (0, 3)]
    for piece, part in zip(zip(*pieces, strict=True), result, strict=True):
        torch.testing.assert_close(torch.cat(piece), part)
    for row in range(3):
        rows = slice(2 * row, 2 * row + 2)
        part = for_rows(model, rows.start, rows.stop, 6)
        single = LinearInverse(part, H, many[row], NOISE).energy_and_score(X[rows], SIGMA)
        torch.testing.assert_close(result[0][rows], single[0])
        torch.testing.assert_close(result[1][rows], single[1])


def test_a_pair_of_functions_agrees_with_its_matrix():
    with torch.no_grad():  # The functions need not be differentiable.
        pair = (lambda x: (x @ H.T).detach(), lambda y: (y @ H).detach())
    target, truth = (LinearInverse(PRIOR, by, Y, NOISE) for by in (pair, H))
    for result, expected in zip(
        target.energy_and_score(X, SIGMA), truth.energy_and_score(X, SIGMA), strict=True
    ):
        torch.testing.assert_close(result, expected)


def test_operators_as_matrices():
    mask = torch.tensor([[True, False, False], [False, True, True]])
    torch.testing.assert_close(
        matrix_of(inpainting(mask), (2, 3)), torch.eye(6, dtype=F64)[[0, 4, 5]]
    )
    pool = matrix_of(super_resolution(2), (1, 2, 4))
    expected = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]]) / 4
    torch.testing.assert_close(pool, expected.double())
    line = matrix_of(super_resolution(2), (2, 4))
    torch.testing.assert_close(line.sum(1), torch.ones(4, dtype=F64))
    kernel = torch.tensor([[0.0, 1.0, 0.0], [2.0, 3.0, 4.0], [0.0, 5.0, 0.0]], dtype=F64)
    blur = matrix_of(deblurring(kernel), (2, 3, 3)).reshape(2, 9, 2, 9)
    assert not blur[0, :, 1].any()
    centre = blur[1, 4, 1].reshape(3, 3)  # The middle pixel receives the whole kernel.
    torch.testing.assert_close(centre, kernel)
    torch.testing.assert_close(blur[0, 0, 0].reshape(3, 3)[:2, :2], kernel[1:, 1:])
    assert gaussian_kernel(1.0).sum() == pytest.approx(1.0)
    assert gaussian_kernel(0.7, 1)[0, 1] / gaussian_kernel(0.7, 1)[1, 1] == pytest.approx(
        math.exp(-1 / (2 * 0.49))
    )


def test_images():
    prior = GaussianMixture(torch.zeros(1, 16), [0.5])
    x, y = torch.randn(3, 1, 4, 4, dtype=F64, generator=G), torch.zeros(1, 2, 2)
    target = LinearInverse(prior, super_resolution(2), y, 0.1)
    leaf = x.clone().requires_grad_()
    energy, score = target.energy_and_score(leaf, SIGMA)
    (slope,) = torch.autograd.grad(energy.sum(), leaf)
    torch.testing.assert_close(score, -slope)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: LinearInverse(PRIOR, H, Y, 0.0), ValueError, "noise must be positive"),
        (lambda: LinearInverse(PRIOR, H, Y / 0, 1.0), ValueError, "observation must be finite"),
        (lambda: LinearInverse(PRIOR, H, Y, 1.0, full_below=-1.0), ValueError, "full_below"),
        (lambda: LinearInverse(PRIOR, H, Y[:1], 1.0)(X, SIGMA), ValueError, "as H x is"),
        (lambda: LinearInverse(PRIOR, H[0], Y, 1.0), ValueError, r"\[M, D\]"),
        (lambda: as_measurement(3), TypeError, "pair of functions"),
        (lambda: inpainting(torch.ones(3)), ValueError, "bool"),
        (lambda: super_resolution(0), ValueError, "factor must be an integer of at least 1"),
        (lambda: super_resolution(2)(torch.zeros(1, 1, 3, 4)), ValueError, "divides"),
        (lambda: deblurring(torch.ones(2, 3)), ValueError, "odd"),
        (lambda: deblurring(torch.ones(3))(torch.zeros(1, 1, 4, 4)), ValueError, "1 sizes"),
    ],
)
def test_bad_problems_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
