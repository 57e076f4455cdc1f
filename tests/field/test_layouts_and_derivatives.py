"""Test that problems publicly reported for memory layouts, masks and higher derivatives do not occur here."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edmfast import models
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.ops import attention, group_norm

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=GENERATOR)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_does_not_depend_on_the_layout(layout, silu):
    """pytorch 140913, 111824, 115940: group norm of channels_last images was wrong or had wrong gradients. Here
    value, gradient and second gradient are those of the contiguous image."""
    weight, bias = normal(8), normal(8)
    image = normal(2, 8, 5, 3)

    def derivatives(x, norm):
        x = x.detach().requires_grad_()
        y = norm(x)
        (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), x)
        return y, first, second

    values = derivatives(
        image.contiguous(memory_format=layout),
        lambda x: group_norm(x, 4, weight, bias, silu=silu),
    )

    def plain(x):
        y = functional.group_norm(x, 4, weight, bias)
        return functional.silu(y) if silu else y

    for actual, expected in zip(values, derivatives(image, plain), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 5), (2, 8, 3, 4), (2, 8, 3, 2, 5)])
def test_group_norm_takes_any_number_of_axes(shape):
    """Liger 1376: group norm of more than three axes failed. Here every number of axes gives torch's result."""
    x = normal(*shape)
    torch.testing.assert_close(group_norm(x, 4), functional.group_norm(x, 4))


def test_rows_whose_keys_are_all_masked_are_zero():
    """pytorch 103963, 163997: attention of a row without keys, and its gradients, were NaN. Here they are 0."""
    q, k, v = (normal(2, 1, 4, 8).requires_grad_() for _ in range(3))
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    out = attention(q, k, v, key_mask=mask)
    assert not out[1].any()
    (first,) = torch.autograd.grad((out**2).sum(), q, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), k)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
    expected = functional.scaled_dot_product_attention(
        q[:1], k[:1], v[:1], attn_mask=mask[:1, None, None]
    )
    torch.testing.assert_close(out[:1], expected)


def test_a_unet_can_be_trained_through_its_score():
    """diffusers 5678: attention and norms of U-Nets had no second derivative. Here the gradient of a squared score
    with respect to a weight agrees with finite differences.
    """
    torch.manual_seed(0)
    model = EnergyModel(models.UNet(1, channels=(8, 8), groups=4)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = normal(2, 1, 4, 4)
    weight = next(p for p in model.parameters() if p.ndim == 4)

    def loss():
        inputs = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(model.energy(inputs, 0.7).sum(), inputs, create_graph=True)
        return (score**2).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = normal(*weight.shape)
    with torch.no_grad():
        weight.add_(1e-5 * direction)
    up = loss().item()
    with torch.no_grad():
        weight.sub_(2e-5 * direction)
    slope = (up - loss().item()) / 2e-5
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_forward_mode_of_a_denoiser_is_its_jacobian():
    """pytorch 98164: forward mode through a network silently lost tangents. Here those of a denoiser are right."""
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(3, width=16, depth=2)).double()
    torch.nn.init.normal_(model.backbone.output.weight, std=0.3)
    x, tangent = normal(4, 3), normal(4, 3)
    _, actual = torch.func.jvp(lambda y: model(y, 0.8), (x,), (tangent,))
    step = 1e-6
    expected = (model(x + step * tangent, 0.8) - model(x - step * tangent, 0.8)) / (2 * step)
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-6, atol=1e-7)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        dual_tangent = torch.autograd.forward_ad.unpack_dual(model(dual, 0.8)).tangent
    torch.testing.assert_close(dual_tangent, expected.detach(), rtol=1e-6, atol=1e-7)
