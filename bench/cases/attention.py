"""Time attention to second order, [heads, L, 64]: one training step's forward, backward and double backward.

Each case computes all orders up to its own; `bench.cases.derivative_orders` times them beside other operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.harness.inputs import tensors
from bench.harness.registry import BACKWARD, DOUBLE_BACKWARD, Case
from edmfast.ops import attention

WIDTH = 64


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return q, k, v, the cotangent of the output, and the cotangents of the three gradients, shaped like q."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(7, *shape, generator=generator).to(device, dtype).unbind())


def _orders(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    q, k, v, grad = (tensor.detach().requires_grad_() for tensor in inputs[:4])
    gradients = torch.autograd.grad(function(q, k, v), (q, k, v), grad, create_graph=True)
    return torch.autograd.grad(gradients, (grad, q, k, v), inputs[4:])


def ours(*inputs: Tensor) -> tuple[Tensor, ...]:
    return _orders(attention, inputs)


def math(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Attention by torch's math path, the only one in torch that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return _orders(scaled_dot_product_attention, inputs)


def reference(*inputs: Tensor) -> tuple[Tensor, ...]:
    return math(*(tensor.double() for tensor in inputs))


def check(output: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> None:
    for ours, wanted in zip(output, truth, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-4)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v)


def _first_order(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    q, k, v = (tensor.detach().requires_grad_() for tensor in inputs[:3])
    return torch.autograd.grad(function(q, k, v), (q, k, v), inputs[3])


def half_check(output: Tensor | tuple[Tensor, ...], truth: Tensor | tuple[Tensor, ...]) -> None:
    """Check with the tolerance of bfloat16, which has three digits, and fewer in sums of many terms."""
    for answer, wanted in zip(tensors(output), tensors(truth), strict=True):
        size = wanted.abs().max().item()
        torch.testing.assert_close(answer.double(), wanted, rtol=0, atol=0.05 * size)


def make_case(heads: int, length: int) -> Case:
    return Case(
        name=f"attention/{heads}x{length}x{WIDTH}",
        shape=(heads, length, WIDTH),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"torch math": math},
        reference=reference,
        check=check,
        direction=DOUBLE_BACKWARD,
        goal=1.0,
        # the numbers of L x L x width products: 2 forward, 5 backward, 12 double backward
        flops=2 * 19 * heads * length**2 * WIDTH,
    )


def gpu_cases(batch: int, heads: int, length: int) -> list[Case]:
    """Return the cases of each order in bfloat16 on a GPU: all against the math path, two against flash
    attention."""
    shape, products = (batch, heads, length, WIDTH), 2 * batch * heads * length**2 * WIDTH
    common: dict[str, Any] = {
        "shape": shape,
        "make_inputs": make_inputs,
        "check": half_check,
        "dtype": torch.bfloat16,
        "devices": ("cuda",),
    }
    size = "x".join(map(str, shape))

    def wide(function: Callable[..., Any], *inputs: Tensor) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return function(scaled_dot_product_attention, tuple(t.double() for t in inputs))

    return [
        Case(
            name=f"attention/bf16 orders {size}",
            ours=ours,
            baselines={"torch math": math},
            reference=reference,
            direction=DOUBLE_BACKWARD,
            goal=3.0,
            flops=19 * products,
            **common,
        ),
        Case(
            # flash attention has no second derivative, so it is a baseline for single orders only
            name=f"attention/bf16 forward {size}",
            ours=lambda q, k, v, *_: attention(q, k, v),
            baselines={"flash": lambda q, k, v, *_: flash(q, k, v)},
            reference=partial(wide, lambda function, inputs: function(*inputs[:3])),
            goal=1 / 1.3,
            flops=2 * products,
            **common,
        ),
        Case(
            name=f"attention/bf16 backward {size}",
            ours=lambda *inputs: _first_order(attention, inputs),
            baselines={"flash": lambda *inputs: _first_order(flash, inputs)},
            reference=partial(wide, _first_order),
            direction=BACKWARD,
            goal=1 / 1.5,
            flops=7 * products,
            **common,
        ),
    ]


CASES = [make_case(8, 512), make_case(2, 2048), *gpu_cases(8, 12, 1024)]
