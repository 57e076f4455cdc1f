"""The rescale of guidance gives a prediction the standard deviation of the conditional one."""

from __future__ import annotations

import pytest
import torch

from edmfast.sampling import guidance

F64 = torch.float64
SIGMA = 1.5


def denoiser(x, sigma, shift):
    return torch.tanh(x + shift)


def predictions(x, denoised):
    """Return the three predictions of denoised states, v of the process with alpha² = 1 / (1 + sigma²)."""
    epsilon = (x - denoised) / SIGMA
    alpha = (1 + SIGMA**2) ** -0.5
    return {"denoised": denoised, "epsilon": epsilon, "v": alpha * (epsilon - SIGMA * denoised)}


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("prediction", ["denoised", "epsilon", "v"])
def test_each_sample_of_a_prediction_is_scaled(prediction, share):
    x, shift = draw(0, 3, 2, 4, 4), draw(1, 3, 2, 4, 4)
    options = {"unconditional": {"shift": torch.zeros(1, 2, 4, 4, dtype=F64)}}
    plain = guidance.ClassifierFreeGuidance(denoiser, 4.0, **options)
    guided = guidance.ClassifierFreeGuidance(
        denoiser, 4.0, rescale=share, rescale_prediction=prediction, **options
    )
    before = predictions(x, plain(x, SIGMA, shift=shift))[prediction]
    after = predictions(x, guided(x, SIGMA, shift=shift))[prediction]
    conditional = predictions(x, denoiser(x, SIGMA, shift))[prediction]
    for b in range(3):
        factor = share * conditional[b].std() / before[b].std() + 1 - share
        torch.testing.assert_close(after[b], factor * before[b], rtol=1e-12, atol=1e-12)
    if share == 1:
        torch.testing.assert_close(
            after.flatten(1).std(1), conditional.flatten(1).std(1), rtol=1e-12, atol=0
        )


def test_samples_without_a_standard_deviation_are_not_scaled():
    x, shift = draw(0, 3, 1), draw(1, 3, 1)
    options = {"unconditional": {"shift": 0.0}}
    plain = guidance.ClassifierFreeGuidance(denoiser, 4.0, **options)
    guided = guidance.ClassifierFreeGuidance(denoiser, 4.0, rescale=1.0, **options)
    assert torch.equal(guided(x, SIGMA, shift=shift), plain(x, SIGMA, shift=shift))


def test_an_unknown_prediction_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="one of denoised, epsilon, v, got 'x0'"):
        guidance.ClassifierFreeGuidance(
            denoiser, 2.0, unconditional={"shift": 0.0}, rescale=0.5, rescale_prediction="x0"
        )


def test_the_rescale_has_no_jump_at_weight_zero():
    def model(x, sigma, label):
        return x / 2 + label * torch.cos(x)

    def guided(weight):
        options = {"unconditional": {"label": 0.5}, "rescale": 0.7}
        wrapped = guidance.ClassifierFreeGuidance(model, weight, **options)
        return wrapped(x, 2.0, label=torch.full_like(x, 3.0))

    x = torch.linspace(-2, 3, 12, dtype=torch.float64).reshape(3, 4)
    torch.testing.assert_close(guided(0.0), guided(1e-12), rtol=1e-10, atol=1e-10)
