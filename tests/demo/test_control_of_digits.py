"""On the smooth digits, reversal weights from a denoiser are right; scaled scores and corrector weights are not.

256 particles, 32 steps of Karras' levels, threshold 0.4, 8 populations.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edmfast import Product, Tempered, smc
from edmfast.demo.known_answer import power_answer, product_answer
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.demo.smooth_digits import SIGMA_MAX, SIGMA_MIN, load_smooth_digits
from edmfast.demo.yardstick import Measures, measure, measure_run
from edmfast.sampling import get_sigmas_karras

LEVELS = get_sigmas_karras(33, SIGMA_MIN, SIGMA_MAX)[:-1]
PARTICLES, POPULATIONS = 256, 8

pytestmark = pytest.mark.slow


class PlainDenoiser(nn.Module):
    """The denoiser of a mixture with its exact trace, without its energy."""

    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture

    def forward(self, x, sigma):
        return self.mixture(x, sigma)

    def jacobian_trace(self, x, sigma):
        return self.mixture.jacobian_trace(x, sigma)


def measured(answer, target, weights) -> Measures:
    run = smc.sample(
        target,
        (64,),
        LEVELS,
        particles=PARTICLES,
        populations=POPULATIONS,
        weights=weights,
        ess_threshold=0.4,
        seed=1,
        options=smc.RunOptions(on_degenerate="ignore"),
    )
    return measure_run(answer, run)


@pytest.mark.parametrize(("gamma", "variance"), [(2.0, 2.0), (1.25, 0.5)])
def test_reversal_weights_give_the_masses_of_powers(gamma, variance):
    digits = load_smooth_digits()
    measures = measured(
        power_answer(digits, gamma), Tempered(PlainDenoiser(digits), gamma), "reversal"
    )
    assert measures.total_variation_of_mean <= 0.1
    assert measures.class_variation_of_mean <= 0.1
    assert measures.log_weight_variance.mean() <= variance
    assert measures.log_density_gap.mean().abs() <= 1


def test_scaled_scores_and_corrector_weights_do_not():
    digits = load_smooth_digits()
    answer = power_answer(digits, 2.0)
    like = torch.empty(POPULATIONS, PARTICLES, 64)
    scaled = measure(answer, score_scaled_samples(digits, 2.0, like, LEVELS, seed=1))
    assert scaled.total_variation_of_mean >= 0.6
    assert scaled.log_density_gap.mean() > 5
    corrected = measured(answer, Tempered(PlainDenoiser(digits), 2.0), "score")
    assert corrected.total_variation_of_mean >= 0.4
    assert corrected.total_variation.mean() >= 0.6
    assert corrected.ancestors.mean() < 0.01


def test_reversal_weights_give_the_masses_of_a_product():
    digits = load_smooth_digits()
    first, second = digits.conditional(3), digits.conditional(8)
    measures = measured(
        product_answer(first, second),
        Product([PlainDenoiser(first), PlainDenoiser(second)]),
        "reversal",
    )
    assert measures.total_variation_of_mean <= 0.1
    assert measures.log_weight_variance.mean() <= 2
