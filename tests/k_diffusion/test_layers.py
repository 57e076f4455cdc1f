"""`K.Denoiser` has the numbers of its formula, and weights its loss by the noise level."""

from __future__ import annotations

import pytest
import torch

import edmfast.k_diffusion as K
from edmfast import Denoiser

X = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
SIGMA = torch.tensor([1.0, 2.0])


def network(y, sigma):
    result = y + sigma[:, None]
    y.zero_()
    sigma.zero_()
    return result


def test_denoised_states_are_those_of_the_formula():
    """With sigma_data = 1 at sigma = 1: D = x / 2 + (x / sqrt(2) + 1) / sqrt(2) = x + 1 / sqrt(2)."""
    levels = SIGMA.clone()
    with torch.no_grad():
        denoised = K.Denoiser(network)(X, levels)
    expected = torch.tensor([[1.707107, -1.292893], [3.588854, 2.088854]])
    torch.testing.assert_close(denoised, expected, rtol=0, atol=2e-6)
    assert torch.equal(levels, SIGMA)


def test_the_preconditioning_is_that_of_the_denoiser_of_this_package():
    def plain(y, c):
        return y.sin()

    ours, theirs = Denoiser(plain, sigma_data=0.7), K.Denoiser(plain, sigma_data=0.7)
    torch.testing.assert_close(theirs(X, SIGMA), ours(X, SIGMA))
    torch.testing.assert_close(theirs(X, 0.3), ours(X, 0.3))


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        ("karras", [1.0, 1.0]),
        ("snr", [0.5, 0.2]),
        ("soft-min-snr", [0.25, 0.16]),
        (lambda sigma: 3 * sigma, [3.0, 6.0]),
    ],
)
def test_a_loss_has_the_weight_of_its_level(weighting, weights):
    """With x = 0 and noise n the target is c_skip sigma n / -c_out = -n / sqrt(1 + sigma^2)."""
    model = K.Denoiser(lambda y, sigma: torch.zeros_like(y), weighting=weighting)
    loss = model.loss(torch.zeros(2, 3), torch.ones(2, 3), SIGMA)
    torch.testing.assert_close(loss, torch.tensor([0.5, 0.2]) * torch.tensor(weights))


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting must be one of karras, soft-min-snr, snr, got"):
        K.Denoiser(network, weighting="min-snr")
    with pytest.raises(TypeError, match="weighting must be a name or a function"):
        K.Denoiser(network, weighting=3)
