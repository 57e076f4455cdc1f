"""The convolution agrees with torch's in every order of derivative, dtype and layout."""

import pytest
import torch
from torch.nn import functional as F

from edmfast.models.backbones.convolution import Convolution, convolve


def inputs(kernel, dtype=torch.float64, batch=2):
    draws = torch.Generator().manual_seed(0)
    shapes = (batch, 3, 5, 4), (4, 3, kernel, kernel), (4,)
    return [torch.randn(shape, generator=draws, dtype=dtype).requires_grad_() for shape in shapes]


def orders(function, x, *weights):
    """Return the value, its gradients, and the gradients of the norm of each of them."""
    value = function(x, *weights)
    first = torch.autograd.grad(value.sin().sum(), (x, *weights), create_graph=True)
    total = sum(gradient.square().sum() for gradient in first)
    return [value, *first, *torch.autograd.grad(total, (x, *weights), create_graph=True)]


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), (3, 2), (3, 0)])
def test_derivatives_of_every_order(kernel, padding):
    def ours(*tensors):
        return convolve(*tensors, padding)

    def plain(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=padding)

    tensors = inputs(kernel)
    for actual, expected in zip(orders(ours, *tensors), orders(plain, *tensors), strict=True):
        torch.testing.assert_close(actual, expected)
    third = [
        torch.autograd.grad(orders(function, *tensors)[-2].square().sum(), tensors)
        for function in (ours, plain)
    ]
    for actual, expected in zip(*third, strict=True):
        torch.testing.assert_close(actual, expected)
    assert torch.autograd.gradgradcheck(ours, tensors, fast_mode=True)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_part_of_the_tensors_requires_grad(frozen):
    x, weight, bias = inputs(3)
    tensors = [x, weight, bias]
    tensors[frozen] = tensors[frozen].detach()
    tensors[2] = bias.detach()
    leaf = tensors[1 - frozen]
    (slope,) = torch.autograd.grad(convolve(*tensors, 1).sin().sum(), leaf, create_graph=True)
    (again,) = torch.autograd.grad(slope.square().sum(), leaf)
    by_torch = F.conv2d(*tensors, padding=1).sin().sum()
    (wanted,) = torch.autograd.grad(by_torch, leaf, create_graph=True)
    torch.testing.assert_close(slope, wanted)
    torch.testing.assert_close(again, torch.autograd.grad(wanted.square().sum(), leaf)[0])


def test_an_empty_batch():
    for actual, expected in zip(
        orders(lambda x, w, b: convolve(x, w, b, 1), *inputs(3, batch=0)),
        orders(lambda x, w, b: F.conv2d(x, w, b, padding=1), *inputs(3, batch=0)),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def test_channels_last_and_half_precision():
    x, weight, bias = inputs(3, torch.float32)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for actual, expected in zip(
        orders(lambda *t: convolve(*t, 1), last, weight, bias),
        orders(lambda *t: convolve(*t, 1), x, weight, bias),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert convolve(last, weight, bias, 1).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        value = convolve(x, weight, bias, 1)
        (slope,) = torch.autograd.grad(value.float().sin().sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(slope.square().sum(), weight)
    assert value.dtype == torch.bfloat16
    assert (slope.dtype, again.dtype) == (torch.float32, torch.float32)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    wanted = F.conv2d(*exact, padding=1)
    (first,) = torch.autograd.grad(wanted.sin().sum(), exact[0], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), exact[1])
    assert (again - second).norm() < 0.05 * second.norm()


def test_transforms_of_functions_use_the_plain_formula():
    x, weight, bias = (tensor.detach() for tensor in inputs(3))
    tangent = torch.func.jvp(lambda x: convolve(x, weight, bias, 1), (x,), (x,))[1]
    torch.testing.assert_close(tangent, F.conv2d(x, weight, padding=1))
    each = torch.func.vmap(lambda x: convolve(x[None], weight, bias, 1)[0])(x)
    torch.testing.assert_close(each, F.conv2d(x, weight, bias, padding=1))


def test_the_layer_has_the_state_of_torch_s_layer():
    torch.manual_seed(0)
    ours, plain = Convolution(3, 4, 3, padding=1), torch.nn.Conv2d(3, 4, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(ours(x), plain(x))
