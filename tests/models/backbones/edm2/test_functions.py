"""Functions and layers of EDM2 return numbers of unit variance for numbers of unit variance."""

import math

import pytest
import torch

from edmfast.models.backbones.edm2.functions import (
    FourierFeatures,
    mp_cat,
    mp_silu,
    mp_sum,
    normalised,
    rms,
)
from edmfast.models.backbones.edm2.layers import MPConv2d, MPLinear

F64 = torch.float64


def normal(*shape, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)


def size(x):
    """Return the root mean square of all numbers."""
    return float(x.detach().double().square().mean().sqrt())


def test_silu_keeps_the_size():
    x = normal(200_000)
    assert size(mp_silu(x)) == pytest.approx(1, abs=5e-3)
    torch.testing.assert_close(mp_silu(x), torch.nn.functional.silu(x) / 0.596)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_a_sum_keeps_the_size(t):
    a, b = normal(2, 100_000)
    assert size(mp_sum(a, b, t)) == pytest.approx(1, abs=1e-2)
    wanted = torch.lerp(a, b, t) / math.sqrt((1 - t) ** 2 + t**2)
    torch.testing.assert_close(mp_sum(a, b, t), wanted)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 9)])
@pytest.mark.parametrize("t", [0.3, 0.5])
def test_a_concatenation_keeps_the_size_and_the_shares(n, m, t):
    a, b = normal(1, n, 5000), normal(1, m, 5000, seed=1)
    joined = mp_cat(a, b, t)
    assert joined.shape == (1, n + m, 5000)
    assert size(joined) == pytest.approx(1, abs=2e-2)
    parts = joined[:, n:].square().sum() / joined.square().sum()
    assert float(parts) == pytest.approx(t**2 / ((1 - t) ** 2 + t**2), abs=1e-2)


def test_features_keep_the_size_at_any_level():
    torch.manual_seed(0)
    features = FourierFeatures(20_000)
    values = features(torch.tensor([-1.5, 0.0, 0.7]))
    assert [size(row) for row in values] == pytest.approx([1, 1, 1], abs=2e-2)
    assert float(features.freqs.std()) == pytest.approx(2 * math.pi, rel=2e-2)
    wanted = math.sqrt(2) * torch.cos(0.7 * features.freqs + features.phases)
    torch.testing.assert_close(values[2], wanted, rtol=1e-4, atol=1e-4)


def test_the_norm_of_a_pixel():
    x = 7 * normal(2, 6, 4, 4, dtype=F64)
    y = normalised(x, 1)
    torch.testing.assert_close(y, x / (1e-4 + x.square().mean(1, keepdim=True).sqrt()))
    assert size(y) == pytest.approx(1, abs=1e-3)
    assert normalised(x.bfloat16(), 1).dtype == torch.bfloat16
    torch.testing.assert_close(normalised(x.bfloat16(), 1).double(), y, rtol=2**-7, atol=0)


def test_the_norm_of_zeros_has_derivatives():
    for dtype in (torch.float32, F64):
        x = torch.zeros(1, 3, 1, 1, dtype=dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(normalised(x, 1).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), x)
        assert slope.isfinite().all()
        assert second.isfinite().all()


@pytest.mark.parametrize("gain", [None, 0.25])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_layers_keep_the_size_whatever_the_size_of_their_weights(gain, scale):
    torch.manual_seed(0)
    layers = [(MPLinear(64, 400), normal(500, 64)), (MPConv2d(48, 64, 3), normal(4, 48, 16, 16))]
    layers.append((MPConv2d(48, 64, 1), normal(4, 48, 16, 16)))
    for layer, x in layers:
        with torch.no_grad():
            layer.weight *= scale
        y = layer(x, None if gain is None else torch.tensor(gain))
        # pixels at the border miss the inputs beyond it
        y = y[..., 1:-1, 1:-1] if y.dim() == 4 else y
        assert size(y) == pytest.approx(1 if gain is None else gain, rel=2e-2)


def test_a_gradient_is_orthogonal_to_the_weight_and_does_not_change_its_size():
    torch.manual_seed(0)
    layer = MPConv2d(3, 4, 3).double()
    value = layer(normal(2, 3, 5, 5, dtype=F64)).sin().sum()
    (slope,) = torch.autograd.grad(value, layer.weight)
    along = (slope * layer.weight).flatten(1).sum(1)
    # the part that remains is of the order of the epsilon in the norm
    assert (
        along.abs() < 2e-4 * slope.flatten(1).norm(dim=1) * layer.weight.flatten(1).norm(dim=1)
    ).all()


def test_forced_normalisation():
    torch.manual_seed(0)
    layer = MPLinear(8, 5, (1, 1)).double()
    direction = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight *= torch.tensor([0.1, 1.0, 3.0, 10.0, 100.0])[:, None, None, None]
    layer.force_normal()
    torch.testing.assert_close(
        rms(layer.weight, [1, 2, 3]).flatten(), torch.ones(5, dtype=F64), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(layer.weight.detach(), direction, rtol=2e-3, atol=0)


def test_second_derivatives_of_the_layers():
    torch.manual_seed(0)
    gain = torch.tensor(0.7, dtype=F64, requires_grad=True)
    conv, linear = MPConv2d(2, 3, 3).double(), MPLinear(3, 6, (), (2, -1, 3)).double()
    x, rows = normal(2, 2, 3, 3, dtype=F64), normal(2, 3, dtype=F64)

    def run(layer, x, weight, gain):
        return torch.func.functional_call(layer, {"weight": weight}, (x, gain))

    for layer, inputs in ((conv, x), (linear, rows)):
        arguments = inputs.requires_grad_(), layer.weight.detach().clone().requires_grad_(), gain
        assert torch.autograd.gradgradcheck(
            lambda *a, n=layer: run(n, *a), arguments, fast_mode=True
        )


def test_outputs_of_a_layer_are_reordered_as_attention_takes_them():
    torch.manual_seed(0)
    plain, ordered = MPLinear(4, 12), MPLinear(4, 12, (), (2, 2, 3))
    ordered.load_state_dict(plain.state_dict())
    x = normal(5, 4)
    wanted = plain(x).unflatten(1, (2, 2, 3)).permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(ordered(x), wanted)
