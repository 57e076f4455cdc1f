"""Networks of diffusers with patched attention differentiate twice, as they do by plain attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from edmfast.diffusers import as_denoiser
from edmfast.models import EnergyModel, patch_attention
from tests.diffusers.networks import diffusers, dit, images, text_unet, unet

TEXTS = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(2))
LENGTHS = torch.tensor([[3], [7]])
CASES = {
    "UNet2DModel": (unet, 3, {}),
    "UNet2DConditionModel": (text_unet, 4, {"encoder_hidden_states": TEXTS}),
    "with a mask of texts": (
        text_unet,
        4,
        {"encoder_hidden_states": TEXTS, "encoder_attention_mask": torch.arange(7) < LENGTHS},
    ),
    "DiTTransformer2DModel": (dit, 4, {"class_labels": torch.tensor([0, 3])}),
}


def second_derivatives(denoiser, x, conditions):
    """Return a Hessian-vector product of <D(x), v>, and the gradient of <its gradient, v> in a weight."""
    x = x.clone().requires_grad_()
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    value = (denoiser(x, 1.5, **conditions) * probe).sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    weight = next(p for name, p in denoiser.named_parameters() if "to_q" in name)
    return torch.autograd.grad((slope * probe).sum(), (x, weight))


@pytest.mark.parametrize("name", CASES)
def test_double_backward_agrees_with_plain_attention(name):
    build, channels, conditions = CASES[name]
    conditions = {
        key: value.double() if value.is_floating_point() else value
        for key, value in conditions.items()
    }
    config = diffusers.DDIMScheduler().config
    x = images(2, channels).double()
    denoiser = as_denoiser(build().double(), config)
    with sdpa_kernel(SDPBackend.MATH):
        plain = denoiser(x, 1.5, **conditions)
        expected = second_derivatives(denoiser, x, conditions)
    assert patch_attention(denoiser) is denoiser
    torch.testing.assert_close(denoiser(x, 1.5, **conditions), plain, rtol=1e-10, atol=1e-10)
    found = second_derivatives(denoiser, x, conditions)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_error_without_a_patch_names_the_cure():
    denoiser = as_denoiser(unet(), diffusers.DDIMScheduler().config)
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        pytest.raises(RuntimeError, match="patch_attention"),
    ):
        second_derivatives(denoiser, images(2), {})


def test_a_network_of_diffusers_is_trained_as_an_energy():
    class Backbone(torch.nn.Module):
        """A network of diffusers as a backbone of ours, which takes c_noise and returns a tensor."""

        def __init__(self):
            super().__init__()
            self.network = unet()

        def forward(self, y, c_noise):
            return self.network(y, c_noise).sample

    energy = patch_attention(EnergyModel(Backbone()))
    x = images(2).requires_grad_()
    score = energy.energy_and_score(x, 0.7)[1]
    score.square().sum().backward()
    weights = [p for name, p in energy.named_parameters() if "to_q" in name]
    assert weights
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in weights)
