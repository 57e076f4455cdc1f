"""Host side of residual perceptrons on a GPU by Triton: K models of one shape in one launch, on tensor cores.

Products have the dtype of the weights, with sums in float32. Products of float32 use TF32 where torch's own do,
and three TF32 products elsewhere, which lose two bits of float32. float64, widths and states above 256 numbers
and more than 8 layers run on the plain formulas, since the kernels have no tiles for them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops.mlp_potential import reference
from edmfast.ops.mlp_potential.triton_backward import backward_kernel
from edmfast.ops.mlp_potential.triton_forward import forward_kernel
from edmfast.ops.mlp_potential.triton_launch import configuration, fits

_PROBE_ROWS = 1 << 17
"""The rows of a launch where only states have a gradient. The slopes that wait in memory then take half a GB for 4
layers of 128 numbers in float32."""


def mlp_potential(
    x: Tensor,
    coefficients: Tensor,
    shifts: list[Tensor],
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `edmfast.ops.mlp_potential.reference.mlp_potential`."""
    models, depth, (batch, elements) = len(entry), len(layers) // len(entry), x.shape
    width = entry[0].shape[0]
    lists = shifts, entry, entry_bias, layers, exit, exit_bias
    if not _runs(x, entry[0], depth):
        # the plain formulas multiply tensors of one dtype only
        plain: Any = reference.mlp_potential
        answer: tuple[Tensor, Tensor, Tensor] = plain(x, coefficients, *_of_type(lists, x), save)
        return answer
    weights = _stacked(*lists)
    energy, field = x.new_empty(models, batch), x.new_empty(models, batch, elements)
    if batch:
        shared = _shared(coefficients, shifts)
        constants, options = configuration(
            "forward", entry[0].dtype, elements, width, depth, shared=all(shared.values())
        )
        inputs = x.contiguous(), coefficients.contiguous(), *weights
        rows = constants["ROWS"]
        # each program has its own scratch memory, so there are only as many as run at once
        programs = min(triton.cdiv(batch, rows), _programs(x))
        wide, wider = constants["PADDED_W"], max(constants["PADDED_W"], constants["PADDED_D"])
        scratch = entry[0].new_empty(models, programs, rows * (wider + depth * wide))
        with on_device_of(x):
            forward_kernel[programs, models](
                *inputs, energy, field, scratch, batch, **constants, **shared, **options
            )
    return energy, field, x.new_empty(0)


def mlp_potential_backward(
    grad_energy: Tensor,
    grad_field: Tensor,
    x: Tensor,
    coefficients: Tensor,
    shifts: list[Tensor],
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
    saved: Tensor,
    inputs: bool,
    weights: bool,
) -> tuple[Tensor, ...]:
    """See `edmfast.ops.mlp_potential.reference.mlp_potential_backward`."""
    lists = shifts, entry, entry_bias, layers, exit, exit_bias
    depth, batch = len(layers) // len(entry), x.shape[0]
    if not _runs(x, entry[0], depth) or batch == 0:
        plain: Any = reference.mlp_potential_backward
        first = grad_energy, grad_field, x, coefficients
        gradients = plain(*first, *_of_type(lists, x), saved, inputs, weights)
        # empty results, which stand for gradients that are not requested, have the dtype of the states
        dtype = entry[0].dtype if weights else x.dtype
        return *gradients[:2], *(gradient.to(dtype) for gradient in gradients[2:])
    job = _Backward(_shared(coefficients, shifts), _stacked(*lists), depth)
    nothing = [x.new_empty(0) for _ in range(8)]
    if weights:
        states, rest = job.run(grad_energy, grad_field, x, coefficients, inputs, True)
    else:
        # without gradients of weights, rows are independent and can be taken in pieces
        parts = []
        for start in range(0, batch, _PROBE_ROWS):
            rows = slice(start, start + _PROBE_ROWS)
            four = coefficients if coefficients.shape[1] == 1 else coefficients[:, rows]
            e, v = grad_energy[:, rows], grad_field[:, rows]
            parts.append(job.run(e, v, x[rows], four, inputs, False, rows)[0])
        states, rest = [torch.cat(each, 1) for each in zip(*parts, strict=True)], nothing[2:]
    if not inputs:
        return *nothing[:2], *rest
    to_x, numbers = states
    if coefficients.shape[1] == 1:
        numbers = numbers.sum(1, keepdim=True)
    return to_x.sum(0), numbers, *rest


class _Backward:
    """The backward of K models: their weights, and launches of the kernel on pieces of the batch."""

    def __init__(self, shared: dict[str, bool], weights: list[Tensor], depth: int) -> None:
        self.shared, self.weights, self.depth = shared, weights, depth

    def run(
        self,
        e: Tensor,
        v: Tensor,
        x: Tensor,
        coefficients: Tensor,
        inputs: bool,
        weights: bool,
        rows: slice | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return ([to_x of each model, to_numbers], gradients of the weights); each is empty unless requested."""
        shifts, entry, *rest = self.weights
        if rows is not None and not self.shared["SHARED_SHIFTS"]:
            shifts = shifts[:, rows]
        models, width, elements = entry.shape
        batch, dtype = x.shape[0], entry.dtype

        def pairs(*shape: int) -> Tensor:
            return entry.new_empty(models, *shape)

        first = [x.new_empty(models, batch, elements), x.new_empty(models, batch, 4)]
        # slopes wait in the third of these, which is needed without gradients of weights too
        places: list[Tensor | None] = [None, None, pairs(self.depth, 2, batch, width), None, None]
        if weights:
            places = [
                pairs(2, batch, width),
                pairs(2, batch, elements),
                places[2],
                pairs(self.depth + 1, 2, batch, width),
                pairs(2, batch, elements),
            ]
        constants, options = configuration("backward", dtype, elements, width, self.depth)
        blocks = triton.cdiv(batch, constants["ROWS"])
        wider = max(constants["PADDED_W"], constants["PADDED_D"])
        scratch = entry.new_empty(models, blocks, 2 * constants["ROWS"] * wider)
        states = [t.contiguous() for t in (e, v, x, coefficients, shifts)]
        with on_device_of(x):
            backward_kernel[blocks, models](
                *states,
                entry,
                *rest,
                *(first if inputs else (None, None)),
                *places,
                scratch,
                batch,
                **constants,
                **self.shared,
                **options,
            )
        return first if inputs else [], self._gradients(*places) if weights else []

    def _gradients(self, *places: Any) -> list[Tensor]:
        """Return the gradients of shifts, entry, entry_bias, layers, exit and exit_bias.

        Each matrix takes one product of what the kernel has written.
        """
        entry_left, entry_right, left, right, exit_left = places
        q, dtype = left[:, :, 1], left.dtype
        if self.shared["SHARED_SHIFTS"]:
            # half precisions are summed in float32 and rounded once
            to_shifts = q.sum(2, dtype=torch.float32).to(dtype).flatten(1)[:, None]
        else:
            # always a copy, because a view would keep all slopes in memory
            rows_first = q.transpose(1, 2).clone(memory_format=torch.contiguous_format)
            to_shifts = rows_first.flatten(2)
        return [
            to_shifts,
            _product(entry_left, entry_right),
            entry_left[:, 1].sum(1, dtype=torch.float32).to(dtype),
            _product(left, right[:, :-1]),
            _product(exit_left, right[:, -1]),
            exit_left[:, 1].sum(1, dtype=torch.float32).to(dtype),
        ]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return the product [..., n, k] of [..., 2, B, n] and [..., 2, B, k], summed over all 2 B rows."""
    return left.flatten(-3, -2).mT @ right.flatten(-3, -2)


def _programs(x: Tensor) -> int:
    """Return how many programs may run at once, so that the memory that is their own stays in the cache."""
    # the interpreter runs on the CPU
    if not x.is_cuda:
        return 2
    return 4 * torch.cuda.get_device_properties(x.device).multi_processor_count


def _runs(x: Tensor, entry: Tensor, depth: int) -> bool:
    """Return whether the kernels run these states and networks."""
    return x.dtype == torch.float32 and fits(entry.dtype, x.shape[1], entry.shape[0], depth)


def _of_type(lists: tuple[list[Tensor], ...], like: Tensor) -> list[list[Tensor]]:
    """Return the lists with all tensors in the dtype of another tensor."""
    return [[tensor.to(like.dtype) for tensor in tensors] for tensors in lists]


def _stacked(
    shifts: list[Tensor],
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
) -> list[Tensor]:
    """Return each list as one tensor [K, ...]; layers [K depth, W, W]."""
    width = entry[0].shape[0]
    middle = layers or [entry[0].new_empty(0, width, width)]
    lists = shifts, entry, entry_bias, middle, exit, exit_bias
    return [each[0].contiguous()[None] if len(each) == 1 else torch.stack(each) for each in lists]


def _shared(coefficients: Tensor, shifts: list[Tensor]) -> dict[str, bool]:
    """Return the constants that say whether all rows share their coefficients and their shifts."""
    return {
        "SHARED_NUMBERS": coefficients.shape[1] == 1,
        "SHARED_SHIFTS": shifts[0].shape[0] == 1,
    }
