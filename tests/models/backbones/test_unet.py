"""The UNet has the right shapes, conditioning, derivatives and errors."""

import copy

import pytest
import torch
from torch.func import functional_call

from edmfast.models import EnergyModel, UNet
from edmfast.models.backbones.unet_blocks import Attention


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 8)])
def test_any_size_that_its_levels_can_halve(size, patch):
    torch.manual_seed(0)
    channels = (8, 8, 16) if patch == 1 else (8, 16)
    net = UNet(3, channels, groups=4, patch=patch)
    assert (net(torch.randn(2, 3, *size), torch.zeros(2)) == 0).all()
    torch.nn.init.normal_(net.output.weight)
    y = torch.randn(2, 3, *size)
    output = net(y, torch.zeros(2))
    assert output.shape == y.shape
    assert output.std() > 0.1


def test_every_parameter_and_condition_matters():
    torch.manual_seed(0)
    net = UNet(1, (8, 16), blocks=2, groups=4, num_classes=3)
    torch.nn.init.normal_(net.output.weight)
    y, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    output = net(y, torch.zeros(4), label)
    gradients = torch.autograd.grad(output.square().sum(), [*net.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not torch.allclose(net(y, torch.ones(4), label), output)
    assert not torch.allclose(net(y, torch.zeros(4), label.flip(0)), output)
    torch.testing.assert_close(net(y, torch.zeros(4))[3], output[3], rtol=1e-4, atol=1e-5)


def test_attention_reaches_the_whole_image():
    torch.manual_seed(0)
    net = UNet(1, (8, 8), groups=1).double()
    torch.nn.init.normal_(net.output.weight)
    y = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    moved = y.clone()
    moved[0, 0, 0, 0] += 1
    corner = (net(moved, torch.zeros(1)) - net(y, torch.zeros(1)))[0, 0, -1, -1]
    assert corner.abs() > 1e-9


def test_second_derivatives_of_its_energy():
    torch.manual_seed(0)
    model = EnergyModel(UNet(1, (4, 4), groups=2, embedding_width=3, num_classes=2)).double()
    torch.nn.init.normal_(model.backbone.output.weight, std=0.3)
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    condition = {"class_label": torch.tensor([0, 2])}

    def denoise(x, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return functional_call(model, named, (x, 0.5), condition)

    inputs = (x.requires_grad_(), *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(denoise, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_attention_is_the_plain_formula(size, dtype):
    """Value, gradient and double backward agree with the formula, also where positions are padded.

    The formula is evaluated in float64, because in float32 the rounding of its second derivative exceeds the
    tolerance on some machines.
    """
    torch.manual_seed(0)
    block = Attention(6, groups=2).to(dtype)
    exact = copy.deepcopy(block).double()
    x = torch.randn(3, 6, *size, dtype=dtype)

    def plain(x):
        tokens = exact.norm(x).flatten(2).mT
        q, k, v = exact.qkv(tokens).chunk(3, 2)
        attended = torch.softmax(q @ k.mT / 6**0.5, 2) @ v
        return x + exact.projection(attended).mT.reshape(x.shape)

    results = []
    for function, owner, states in ((block, block, x.clone()), (plain, exact, x.double())):
        leaves = [states.requires_grad_(), *owner.parameters()]
        value = function(states)
        (first,) = torch.autograd.grad(value.sin().sum(), states, create_graph=True)
        results.append([value, first, *torch.autograd.grad(first.square().sum(), leaves)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected.to(dtype))


def test_a_third_derivative_raises():
    torch.manual_seed(0)
    block = Attention(4, groups=2)
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    value = block(x).sin().sum()
    for _ in range(2):
        value = torch.autograd.grad(value, x, create_graph=True)[0].square().sum()
    with pytest.raises(RuntimeError, match="third"):
        torch.autograd.grad(value, x)


def test_names_and_shapes_of_saved_attention():
    shapes = {name: [*value.shape] for name, value in Attention(8, groups=2).state_dict().items()}
    assert shapes == {
        "norm.weight": [8],
        "norm.bias": [8],
        "qkv.weight": [24, 8],
        "projection.weight": [8, 8],
        "projection.bias": [8],
    }


def test_default_digits_model_fits_a_megabyte():
    net = UNet(1, (48, 64), num_classes=10, patch=2)
    assert sum(p.numel() for p in net.parameters()) <= 250_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (8, 12), "groups": 8}, "multiples of groups=8"),
        ({"channels": ()}, "channels must hold at least one size"),
        ({"blocks": 0}, "blocks must be an integer of at least 1"),
        ({"patch": 0}, "patch must be an integer of at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(1, **arguments)


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (2, 1, 8, 6), (2, 3, 8, 8), (2, 64)])
def test_bad_states(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        UNet(1)(torch.zeros(shape), torch.zeros(2))
