"""The yardstick gives exact draws no error within their spread, and recognises wrong ones."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import Product, Tempered, smc
from edmfast.demo.known_answer import power_answer, product_answer, systematic
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.demo.yardstick import HEADER, NOTES, measure, measure_run, measures_of_draws
from edmfast.sampling import get_sigmas_karras
from tests.mixtures import F64, mixture

SIGMA = 0.3
PLANE = mixture(4, 2, classes=[0, 0, 1, 1])


def grid():
    axis = torch.linspace(-15, 15, 601, dtype=F64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("gamma", [0.7, 1.25, 2.0, 3.0])
def test_answers_of_powers_are_integrals(gamma):
    answer = power_answer(PLANE, gamma, SIGMA, draws=4000, importance=40_000)
    x, cell = grid()
    density = gamma * PLANE.log_prob(x, SIGMA) + math.log(cell)
    log_z = float(density.logsumexp(0))
    weights = density.softmax(0)
    masses = weights @ PLANE.responsibilities(x, SIGMA)
    mean = float(weights @ answer.log_target(x))
    exact = gamma.is_integer()
    assert abs(answer.log_z - log_z) < (1e-9 if exact else 4 * answer.log_z_error)
    allowed = 1e-9 if exact else 4 * answer.masses_error
    assert ((answer.masses - masses).abs() < allowed).all()
    assert abs(answer.log_density - mean) < 4 * answer.log_density_error
    torch.testing.assert_close(answer.class_masses, PLANE.by_class(answer.masses))
    if not exact:
        assert 0 < answer.log_z_error < 0.01
        assert (answer.masses_error > 0).all()


def test_answers_of_products_are_integrals():
    other = mixture(3, 2, seed=9)
    answer = product_answer(PLANE, other, SIGMA)
    x, cell = grid()
    density = PLANE.log_prob(x, SIGMA) + other.log_prob(x, SIGMA) + math.log(cell)
    assert abs(float(density.logsumexp(0)) - answer.log_z) < 1e-9
    mean = float(density.softmax(0) @ answer.log_target(x))
    assert abs(answer.log_density - mean) < 4 * answer.log_density_error
    assert len(answer.masses) == 12
    assert answer.class_masses is None


ANSWERS = {
    "p²": lambda: power_answer(PLANE, 2.0, SIGMA),
    "p^1.25": lambda: power_answer(PLANE, 1.25, SIGMA, importance=20_000),
    "product": lambda: product_answer(PLANE, mixture(3, 2, seed=9), SIGMA),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_exact_draws_have_small_errors(name):
    answer = ANSWERS[name]()
    measures = measures_of_draws(answer, 500, populations=8)
    # the spread of a share over 4,000 draws is at most sqrt(.25/4000) = .008
    assert measures.total_variation_of_mean < 0.03
    assert (measures.total_variation < 0.12).all()
    assert abs(float(measures.log_density_gap.mean())) < 0.15
    assert measures.frechet < 0.02
    assert measures.sliced < 0.1
    assert len(measures.row()) == len(HEADER)
    assert measures.row()[7:] == [None, None, None]


def test_draws_of_another_density_are_far():
    answer = power_answer(PLANE, 2.0, SIGMA)
    x = PLANE.sample(4000, SIGMA, seed=3).view(8, 500, 2)
    measures = measure(answer, x)
    expected = 0.5 * (PLANE.weights - answer.masses).abs().sum()
    assert abs(measures.total_variation_of_mean - expected) < 0.03
    by_class = 0.5 * PLANE.by_class(PLANE.weights - answer.masses).abs().sum()
    assert abs(measures.class_variation_of_mean - by_class) < 0.03
    assert measures.log_density_gap.mean() < -0.5
    assert measures.frechet > 10 * measures_of_draws(answer, 500).frechet
    # weights p(x) turn draws of p into draws of p²
    weights = PLANE.log_prob(x.flatten(0, 1), SIGMA).view(8, 500).exp()
    corrected = measure(answer, x, weights)
    assert corrected.total_variation_of_mean < 0.3 * measures.total_variation_of_mean
    assert corrected.log_density_gap.mean().abs() < 0.2


def test_every_column_is_explained():
    explained = " ".join(NOTES)
    assert all(f"{column}:" in explained or f"{column}, " in explained for column in HEADER)


def test_equal_weights_and_states_of_any_shape_give_the_same_measures():
    answer = power_answer(PLANE, 2.0, SIGMA)
    x = PLANE.sample(200, SIGMA, seed=3).view(2, 100, 2)
    plain = measure(answer, x)
    shaped = measure(answer, x.view(2, 100, 1, 2), torch.full((2, 100), 3.0))
    assert plain.row()[7:] == shaped.row()[7:] == [None, None, None]
    numbers = [[row[0], row[1], row[2], *row[4:7]] for row in (plain.row(), shaped.row())]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)


@pytest.mark.parametrize("weights", ["energy", "reversal", "score"])
def test_runs_are_measured_with_their_log_z(weights):
    other = mixture(3, 2, seed=9)
    levels = get_sigmas_karras(65, SIGMA, 20.0)[:-1]
    for target, answer in (
        (Tempered(PLANE, 2.0), power_answer(PLANE, 2.0, SIGMA)),
        (Product([PLANE, other]), product_answer(PLANE, other, SIGMA)),
    ):
        run = smc.sample(
            target,
            (2,),
            levels,
            particles=500,
            populations=4,
            weights=weights,
            options=smc.RunOptions(dtype=F64, on_degenerate="ignore"),
        )
        measures = measure_run(answer, run, extra_evaluations=5)
        assert measures.evaluations == sum(run.evaluations) + 5
        assert measures.ancestors.shape == measures.log_weight_variance.shape == (4,)
        if weights != "score":
            assert measures.total_variation_of_mean < 0.06
            assert abs(measures.log_z_error) < 0.1
        assert abs(measures.log_z_error) < 1


def test_the_smooth_digits_are_a_hard_test():
    mixture_of_digits = load_smooth_digits()
    answer = power_answer(mixture_of_digits, 2.0)
    x = mixture_of_digits.sample(1024, answer.sigma, seed=2).view(4, 256, 1, 8, 8)
    assert measure(answer, x).total_variation_of_mean > 0.6
    exact = measures_of_draws(answer, 256, populations=8)
    assert exact.total_variation_of_mean < 0.03
    assert exact.class_variation_of_mean < 0.03


def test_systematic_draws_follow_the_weights():
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2])
    assert systematic(weights, 10).bincount(minlength=4).tolist() == [5, 0, 3, 2]


def test_bad_arguments():
    answer = power_answer(PLANE, 2.0, SIGMA, draws=10)
    x = torch.zeros(2, 5, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"prod\(shape\) = 2"):
        measure(answer, torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"weights must be \[P, N\] = \[2, 5\]"):
        measure(answer, x, torch.ones(5))
    with pytest.raises(ValueError, match="positive sum"):
        measure(answer, x, torch.zeros(2, 5))
    with pytest.raises(ValueError, match="not negative"):
        measure(answer, x, torch.tensor([[1.0, 1, 1, 1, -1]] * 2))
    with pytest.raises(ValueError, match="gamma must be"):
        power_answer(PLANE, 0.0, SIGMA)
    with pytest.raises(ValueError, match="importance must be"):
        power_answer(PLANE, 1.5, SIGMA, draws=100, importance=10)
    run = smc.sample(Tempered(PLANE, 2.0), (2,), [3.0, 1.0], particles=4)
    with pytest.raises(ValueError, match="must end at the noise level of the answer"):
        measure_run(answer, run)
