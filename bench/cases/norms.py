"""Time group norm with SiLU and steered layer and RMS norms: forward, backward, and all three orders together.

Training an energy needs the three orders: the forward pass, a backward pass that can be differentiated, and the
backward pass of both. The baselines are torch's norms with autograd, eager and as one graph by inductor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from bench.harness.correctness import close
from bench.harness.registry import DIRECTIONS, Case
from edmfast.models.compiling.flat_graph import compile_graph
from edmfast.ops import group_norm, layer_norm, rms_norm

Norm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, scale, shift) -> like x."""
GROUPS = 32
FORWARD, BACKWARD, DOUBLE = range(3)
STATES = 2, 4, 7
"""The numbers of tensors like x that a job of each order reads and writes."""


def ours_group(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return group_norm(x, GROUPS, scale, shift, silu=True)


def plain_group(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, scale, shift))


def ours_layer(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return layer_norm(x, scale=scale, shift=shift)


def plain_layer(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]


def ours_rms(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return rms_norm(x, scale=scale, shift=shift)


def plain_rms(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def _inputs(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    *,
    numbers: tuple[int, ...],
    channels_last: bool = False,
) -> tuple[Tensor, ...]:
    """Return x, a cotangent of y, one of x's gradient [*shape], scale, shift, and cotangents of their
    gradients."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, *shape, generator=generator).to(device, dtype)
    vectors = torch.randn(4, *numbers, generator=generator).to(device, dtype)
    if channels_last:
        return *(s.to(memory_format=torch.channels_last) for s in states), *vectors.unbind()
    return *states.unbind(), *vectors.unbind()


def run(
    norm: Norm,
    order: int,
    x: Tensor,
    grad: Tensor,
    along: Tensor,
    scale: Tensor,
    shift: Tensor,
    scale_along: Tensor,
    shift_along: Tensor,
) -> tuple[Tensor, ...]:
    """Return y, the gradients of x, scale and shift, and the second-order gradients of grad, x, scale and
    shift."""
    if order == FORWARD:
        return (norm(x, scale, shift),)
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (grad, x, scale, shift)]
        g, *inputs = leaves
        y = norm(*inputs)
        first = torch.autograd.grad(y, inputs, g, create_graph=order == DOUBLE)
        if order == BACKWARD:
            return y.detach(), *first
        cotangents = along, scale_along, shift_along
        second = torch.autograd.grad(first, leaves, cotangents, materialize_grads=True)
    return y.detach(), *(tensor.detach() for tensor in first), *second


@functools.cache
def _graph(norm: Norm, order: int, shape: torch.Size, strides: tuple[int, ...]) -> list[Callable]:
    return []


def compiled(norm: Norm, order: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the same as one flat graph: torch.compile has no double backward of its own."""
    with torch.no_grad():
        kept = _graph(norm, order, inputs[0].shape, inputs[0].stride())
        if not kept:
            graph = make_fx(partial(run, norm, order))(*inputs)
            kept.append(compile_graph(graph, [*inputs], None))
        return kept[0](*inputs)


def reference(norm: Norm, order: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    return run(norm, order, *(tensor.double() for tensor in inputs))


def _case(
    name: str,
    order: int,
    shape: tuple[int, ...],
    norms: tuple[Norm, Norm],
    numbers: tuple[int, ...],
    goal: float,
    channels_last: bool = False,
    floor: float = 0.0,
) -> Case:
    """Return a case.

    goal: against the best of torch, which is mostly the graph, as it fuses the orders. floor: the wanted fraction
    of the copy bandwidth, for cases that run on a GPU only; 0 for none.
    """
    ours, plain = norms
    return Case(
        name=f"group_norm_silu/{name} {DIRECTIONS[order]} {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=partial(_inputs, numbers=numbers, channels_last=channels_last),
        ours=partial(run, ours, order),
        baselines={
            "eager": partial(run, plain, order),
            "compile": partial(compiled, plain, order),
        },
        reference=partial(reference, plain, order),
        check=close(1e-3, 1e-3),
        direction=DIRECTIONS[order],
        goal=goal,
        # forward: x in, y out; backward adds grad in, to_x out; double backward adds to_x's cotangent in, two out
        bytes=4 * torch.Size(shape).numel() * STATES[order]
        # the same for scale and shift: both in; both gradients out; their cotangents in and two gradients out
        + 4 * torch.Size(numbers).numel() * (2, 4, 8)[order],
        floor_goals={"cuda": floor} if floor else {},
        devices=("cuda",) if floor else ("cpu", "cuda"),
    )


_GROUP, _LAYER = (ours_group, plain_group), (ours_layer, plain_layer)
_RMS = (ours_rms, plain_rms)
_IMAGE, _TOKENS = (32, 128, 32, 32), (16, 256, 384)
# the orders in turn move ten states, at four fifths of the bandwidth
_FLOOR = 0.8 * STATES[DOUBLE] / 10
CASES = [
    _case("group", FORWARD, _IMAGE, _GROUP, (128,), 1.0),
    _case("group", BACKWARD, _IMAGE, _GROUP, (128,), 1.0),
    _case("group", DOUBLE, _IMAGE, _GROUP, (128,), 1.5),
    _case("group, channels last,", DOUBLE, _IMAGE, _GROUP, (128,), 1.5, channels_last=True),
    _case("layer", FORWARD, _TOKENS, _LAYER, (16, 384), 1.0),
    _case("layer", BACKWARD, _TOKENS, _LAYER, (16, 384), 1.0),
    _case("layer", DOUBLE, _TOKENS, _LAYER, (16, 384), 1.5),
    _case("rms", FORWARD, _TOKENS, _RMS, (16, 384), 1.0),
    _case("rms", BACKWARD, _TOKENS, _RMS, (16, 384), 1.0),
    _case("rms", DOUBLE, _TOKENS, _RMS, (16, 384), 1.5),
    _case("group", DOUBLE, (256, 128, 32, 32), _GROUP, (128,), 1.5, floor=_FLOOR),
    _case("layer", DOUBLE, (256, 256, 384), _LAYER, (256, 384), 1.5, floor=_FLOOR),
]
