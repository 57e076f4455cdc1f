"""`linear_combination`: ``out = sum_k c_k T_k + sum_m w_m z(seed, node_m)``, one pass over up to eight tensors.

This is the step of nearly every solver: its states, denoised states and slopes are combined with numbers that the
grid of levels fixes, and noise is added where the solver has some. The normals z depend on (seed, node, stream,
sample, element) alone, as those of `edmfast.ops.standard_normal` do. A Brownian increment is a sum of a few nodes
with weights. The noise is drawn in tiles, so that no array of it exists.

Terms are added in their order, and every product and every sum rounds on its own, in float32 or in the float64
of the tensors. So the bits of a sample do not depend on the batch. All derivatives exist in the tensors:
the gradient of tensor k is c_k times that of the result. There are none in coefficients and weights.

Source of the random numbers: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import is_transformed
from edmfast._internal.numbers import as_float, as_int
from edmfast.ops._shared.dtypes import DTYPES
from edmfast.ops._shared.fusing import is_fused
from edmfast.ops.linear_combination import reference
from edmfast.ops.linear_combination.cpu import door
from edmfast.ops.noise.operator import STREAMS

MAX_TENSORS = 8
_SAMPLES = 2**32


def _fake(
    tensors: Sequence[Tensor],
    coefficients: Tensor,
    seeds: Tensor | None,
    nodes: Tensor | None,
    weights: Tensor | None,
    stream: int,
    first_sample: int,
) -> Tensor:
    first = tensors[0]
    if reference.keeps_layout(tensors, seeds is not None):
        return first.new_empty_strided(first.shape, first.stride())
    return first.new_empty(first.shape)


_extension.define(
    "linear_combination(Tensor[] tensors, Tensor coefficients, Tensor? seeds, Tensor? nodes, Tensor? weights, "
    "int stream, int first_sample) -> Tensor",
    reference.linear_combination,
    _fake,
    triton="linear_combination",
)
_OPERATOR = torch.ops.edmfast.linear_combination.default
_DOOR = door()


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, coefficients, *_ = inputs
    ctx.save_for_backward(coefficients)
    ctx.needed = [tensor.requires_grad for tensor in tensors]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (coefficients,) = ctx.saved_tensors
    # one product in plain torch serves batched gradients and all further derivatives
    product = reference.linear_combination
    slopes = [
        product([grad], coefficients[k : k + 1], None, None, None, 0, 0) if needed else None
        for k, needed in enumerate(ctx.needed)
    ]
    return slopes, None, None, None, None, None, None


_extension.differentiate("linear_combination", _backward, _set_up)


def linear_combination(
    tensors: Sequence[Tensor],
    coefficients: Tensor | Sequence[float],
    *,
    seeds: Tensor | None = None,
    nodes: Tensor | None = None,
    weights: Tensor | None = None,
    stream: int = 0,
    first_sample: int = 0,
) -> Tensor:
    """Return sum_k c_k T_k + sum_m w_m z(seed, node_m), like the tensors [B, *shape] and never an alias of one.

    tensors: 1 to 8 tensors of one shape, device and dtype: float16 or bfloat16 (both computed in float32 and
        rounded once), float32 or float64.
    coefficients: float64 [K] on the device of the tensors, or K finite numbers.
    seeds: int64 [1], one seed for all samples, in which sample b has the index first_sample + b; or int64 [B], one
        seed for each sample, in which it has the index 0. None: no noise.
    nodes: int64 [M]. z(seed, node) are the numbers of `standard_normal` with step = node mod 2^32, population =
        the next 28 bits of the node, particle = the index of the sample, and this seed and stream.
    weights: float64 [M], in the units of the tensors.
    stream: 0 to 15, separates uses that share seed and node.
    first_sample: the index of the first sample, where a batch with one seed is split over calls or devices.

    Where all tensors have the same strides and fill their memory, and no noise is drawn, the result has these
    strides and nothing is copied; otherwise it is contiguous. A coefficient of zero makes NaN
    of the NaN and infinities of its tensor, as a product does. The result is differentiable in the tensors, to any
    order.

    Raises TypeError for dtypes and for arguments that are no tensors; ValueError for shapes, devices, counts and
    numbers out of range; RuntimeError where coefficients or weights require grad.
    """
    # Dynamo traces the operator
    if _DOOR is not None and not torch.compiler.is_dynamo_compiling():
        arguments = tensors, coefficients, seeds, nodes, weights, stream, first_sample
        quick: Tensor | None = _DOOR(*arguments)
        if quick is not None:
            return quick
    tensors = [*tensors]
    _check_tensors(tensors)
    first = tensors[0]
    numbers = _coefficients(coefficients, len(tensors), first)
    stream = as_int("stream", stream, least=0, most=STREAMS - 1)
    first_sample = as_int("first_sample", first_sample, least=0, most=_SAMPLES - 1)
    noise = _checked_noise(seeds, nodes, weights, first_sample, first)
    if noise[0] is None and is_fused(*tensors):
        return reference.combined(tensors, numbers)
    if is_transformed():
        # the operator has no rules for forward mode and vmap, and the formula in plain torch has the same bits
        return reference.linear_combination(tensors, numbers, *noise, stream, first_sample)
    out: Tensor = _OPERATOR(tensors, numbers, *noise, stream, first_sample)
    return out


def _check_tensors(tensors: list[Tensor]) -> None:
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise ValueError(f"1 to {MAX_TENSORS} tensors are needed, got {len(tensors)}")
    for k, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensors[{k}] must be a tensor, got {type(tensor).__name__}")
    first = tensors[0]
    if first.dtype not in DTYPES or any(tensor.dtype != first.dtype for tensor in tensors):
        raise TypeError(
            "tensors must all be float16, bfloat16, float32 or float64, "
            f"got {[tensor.dtype for tensor in tensors]}"
        )
    if first.dim() < 1 or any(tensor.shape != first.shape for tensor in tensors):
        raise ValueError(
            f"tensors must be [B, *shape] of one shape, got {[tuple(t.shape) for t in tensors]}"
        )
    if any(tensor.device != first.device for tensor in tensors):
        raise ValueError(f"tensors must be on one device, got {[str(t.device) for t in tensors]}")


def _coefficients(coefficients: Tensor | Sequence[float], count: int, like: Tensor) -> Tensor:
    """Return the coefficients as a float64 tensor on the device of `like`."""
    if not isinstance(coefficients, Tensor):
        numbers = [as_float(f"coefficients[{k}]", c) for k, c in enumerate(coefficients)]
        if len(numbers) != count:
            raise ValueError(f"coefficients must be {count} numbers, got {len(numbers)}")
        # the copy does not wait for a GPU
        on_host = torch.tensor(numbers, dtype=torch.float64)
        return on_host.to(like.device, non_blocking=True)
    _check_numbers("coefficients", coefficients, torch.float64, count, like)
    return coefficients


def _check_numbers(
    name: str, numbers: Tensor, dtype: torch.dtype, count: int | None, like: Tensor
) -> None:
    if not isinstance(numbers, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(numbers).__name__}")
    if numbers.dtype != dtype:
        raise TypeError(f"{name} must be {str(dtype)[6:]}, got {numbers.dtype}")
    if numbers.dim() != 1 or count not in (None, numbers.shape[0]):
        wanted = "[M]" if count is None else f"[{count}]"
        raise ValueError(f"{name} must be {wanted}, got {[*numbers.shape]}")
    if numbers.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {numbers.device}")
    if numbers.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(f"linear_combination has no derivative in {name}: detach them")


def _checked_noise(
    seeds: Tensor | None,
    nodes: Tensor | None,
    weights: Tensor | None,
    first_sample: int,
    like: Tensor,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if seeds is None or nodes is None or weights is None:
        if not (seeds is None and nodes is None and weights is None):
            missing = [
                name
                for name, value in (("seeds", seeds), ("nodes", nodes), ("weights", weights))
                if value is None
            ]
            raise ValueError(f"seeds, nodes and weights are needed together, {missing} are None")
        return None, None, None
    _check_numbers("seeds", seeds, torch.int64, None, like)
    _check_numbers("nodes", nodes, torch.int64, None, like)
    _check_numbers("weights", weights, torch.float64, nodes.shape[0], like)
    batch = like.shape[0]
    if seeds.shape[0] not in (1, batch):
        raise ValueError(f"seeds must be [1] or [B] = [{batch}], got {[*seeds.shape]}")
    if seeds.shape[0] != 1 and first_sample:
        raise ValueError(
            f"first_sample counts the samples of one seed, got {first_sample} and {batch} seeds"
        )
    if first_sample + batch > _SAMPLES:
        raise ValueError(
            f"samples first_sample to first_sample + B must lie in 0 to 2^32, got {first_sample} and B = {batch}"
        )
    return seeds, nodes, weights
