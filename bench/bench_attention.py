"""Attention to second order, [heads, L, 64]: forward, backward and double backward of one training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.registry import Case
from edmfast.ops import attention

WIDTH = 64


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """q, k, v, the cotangent of the output, and those of the three gradients, like q."""
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(7, *shape, generator=generator).to(device, dtype)
    return tuple(tensors.unbind())


def _orders(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    q, k, v, grad = (tensor.detach().requires_grad_() for tensor in inputs[:4])
    gradients = torch.autograd.grad(function(q, k, v), (q, k, v), grad, create_graph=True)
    return torch.autograd.grad(gradients, (grad, q, k, v), inputs[4:])


def ours(*inputs: Tensor) -> tuple[Tensor, ...]:
    return _orders(attention, inputs)


def math(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The only way in torch that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return _orders(scaled_dot_product_attention, inputs)


def reference(*inputs: Tensor) -> tuple[Tensor, ...]:
    return math(*(tensor.double() for tensor in inputs))


def check(output: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> None:
    for ours, wanted in zip(output, truth, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-4)


def make_case(heads: int, length: int) -> Case:
    return Case(
        name=f"attention/{heads}x{length}x{WIDTH}",
        shape=(heads, length, WIDTH),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"torch math": math},
        reference=reference,
        check=check,
        goal=1.0,
        # products of L x L x width: 2 forward, 5 backward, 12 double backward
        flops=2 * 19 * heads * length**2 * WIDTH,
    )


CASES = [make_case(8, 512), make_case(2, 2048)]
