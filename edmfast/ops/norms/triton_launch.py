"""Host side: the sizes of the tiles of norms, and the launch of their kernels.

A program holds a group that fits its registers, so every array passes through memory once. It takes several small
groups together, from rows that share a scale. A larger group is cut into parts with one program for each, in two
launches: the first sums over every part, the second does the rest and reads the arrays again, from the cache as
far as they fit. Between the two launches torch adds up the sums of the parts; in forward each program combines
them.

One program that loops over the parts would save a launch. But 32 programs (batch 4, 8 groups) leave three
quarters of a large GPU idle, and the large groups that run at once exceed the cache either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of

_HELD = {"forward": 8192, "backward": 8192, "double_backward": 4096}
"""The size of the largest tile that spills no register; for float64 a quarter of it."""
_PART = {"forward": 4096, "backward": 2048, "double_backward": 2048}
"""The size of a tile of a larger group, for float64 half of it. Several such programs fit a multiprocessor, so
that one loads while another sums."""
_PER_THREAD = {"forward": 16, "backward": 8, "double_backward": 8}
"""The numbers of a tile for each thread, for float64 half as many."""
_WIDE = 16
"""The numbers of a tile for each thread where `_wide` allows it, which takes a third off the instructions."""
_WIDE_REGISTERS = 128
"""The registers of such a thread. Two programs of 4096 numbers then fit a multiprocessor, and compute in turns."""
_PROGRAMS = 512
"""Small groups are taken together as long as this many programs remain, about four for each multiprocessor."""
_ROWS = 64
"""At most this many rows share a partial sum of the gradients of scale and shift."""
_LINE = 32
"""The channels of a tile where they lie side by side in memory, so that 64 bytes or more are read at a time."""


class Tiling(NamedTuple):
    """A tile [rows, channels, positions], all powers of two.

    A program works on `steps` tiles one after the other, and `parts` tiles make up a group. registers: the most
    that the compiler may give to a thread, or None for no limit.
    """

    rows: int
    steps: int
    channels: int
    positions: int
    parts: int
    warps: int
    registers: int | None = None


def tiling(
    order: str,
    dtype: torch.dtype,
    rows: int,
    shared: int,
    groups: int,
    width: int,
    positions: int,
    channels_last: bool,
) -> Tiling:
    """Return the tiles for rows of [groups · width, positions], `shared` of which share their scale.

    order: "forward", "backward" or "double_backward". channels_last: whether the channels of a group lie side by
    side in memory.
    """
    held, part, per_thread = _HELD[order], _PART[order], _PER_THREAD[order]
    if dtype == torch.float64:
        held, part, per_thread = held // 4, part // 2, per_thread // 2
    # tiles are powers of two, and what exceeds the group is masked
    channels, pieces = triton.next_power_of_2(width), triton.next_power_of_2(positions)
    registers = None
    if _wide(order, dtype, width, positions, channels_last):
        held, per_thread, registers = 2 * held, _WIDE, _WIDE_REGISTERS
    together = steps = 1
    if channels * pieces > held:
        # a tile takes neighbours in memory first, and these are channels or positions
        if channels_last:
            channels = min(channels, max(_LINE, part // pieces))
            pieces = min(pieces, part // channels)
        else:
            pieces = min(pieces, part)
            channels = min(channels, part // pieces)
    else:
        most = triton.next_power_of_2(max(1, min(shared, rows * groups // _PROGRAMS)))
        # so many rows together fill 128 threads
        together = min(most, max(1, 128 * per_thread // (channels * pieces)))
        # only the derivatives sum over rows, and steps let them keep the sums in registers
        if order != "forward":
            steps = max(1, min(most, _ROWS // positions) // together)
    parts = triton.cdiv(width, channels) * triton.cdiv(positions, pieces)
    threads = together * channels * pieces // per_thread
    warps = min(16, max(1, threads // 32))
    return Tiling(together, steps, channels, pieces, parts, warps, registers)


def _wide(order: str, dtype: torch.dtype, width: int, positions: int, channels_last: bool) -> bool:
    """Return whether a thread of the double backward may hold sixteen numbers of a whole group.

    These are the groups of which every array fits the registers without a spill.
    """
    channels, pieces = triton.next_power_of_2(width), triton.next_power_of_2(positions)
    aligned = channels == width and positions % 16 == 0 and not channels_last
    fits = 4096 <= channels * pieces <= 8192 and 256 <= pieces <= 1024
    return order == "double_backward" and dtype != torch.float64 and aligned and fits


def options(tiles: Tiling) -> dict[str, Any]:
    """Return the options of a compilation."""
    # no bits are promised between devices here, so fused multiply-adds are welcome
    most = {} if tiles.registers is None else {"maxnreg": tiles.registers}
    return {"num_warps": tiles.warps, "enable_fp_fusion": True} | most


def numbers(tensor: Tensor) -> tuple[int, int, int]:
    """Return the strides of a tensor [N, C, S], with 0 for the last where S is 1 and any stride would do."""
    first, second, third = tensor.stride()
    return first, second, third if tensor.shape[2] > 1 else 0


def dense(x: Tensor) -> Tensor:
    """Return x where its channels are slowest or fastest in memory, which results then keep, or else a copy."""
    # results of any other layout would contradict the shapes that tracing assumes
    return x if x.is_contiguous() or x.mT.is_contiguous() else x.contiguous()


def matched(tensor: Tensor, x: Tensor) -> Tensor:
    """Return the tensor with the strides of x, copied only where it has others."""
    if _agree(tensor, x):
        return tensor
    return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)


def _agree(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape have the same strides."""
    pairs = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or first == second for size, first, second in pairs)


def weight_sums(scale: Tensor, x: Tensor, groups: int, order: str) -> tuple[Tensor, Tensor]:
    """Return empty tensors [M, partial sums, C] for the gradients of scale and of shift that programs sum."""
    tiles = chosen(x, scale, groups, order)
    blocks = triton.cdiv(x.shape[0] // scale.shape[0], tiles.rows * tiles.steps)
    count = blocks * triton.cdiv(x.shape[2], tiles.positions)
    to_scale, to_shift = (scale.new_empty(scale.shape[0], count, scale.shape[1]) for _ in range(2))
    return to_scale, to_shift


def summed(partial: Tensor) -> Tensor:
    """Return the sum of partial sums [M, partial sums, C], in torch's order, which is the same at every run."""
    return partial[:, 0] if partial.shape[1] == 1 else partial.sum(1)


def chosen(x: Tensor, scale: Tensor, groups: int, order: str) -> Tiling:
    """Return the tiles for these tensors."""
    rows, channels, positions = x.shape
    shared, width = rows // scale.shape[0], channels // groups
    last = positions > 1 and x.stride(1) < x.stride(2)
    return tiling(order, x.dtype, rows, shared, groups, width, positions, last)


def constants(
    kernel: Any, stage: str, tiles: Tiling, width: int, centred: bool, silu: bool
) -> dict[str, Any]:
    """Return the constants of a kernel; `width` is the number of channels of a group."""
    of_parts = {"PARTS": triton.next_power_of_2(tiles.parts)}
    return (of_parts if "PARTS" in kernel.arg_names else {}) | {
        "STAGE": stage,
        "WIDTH": width,
        "CENTRED": centred,
        "SILU": silu,
        "ROWS": tiles.rows,
        "STEPS": tiles.steps,
        "CHANNELS": tiles.channels,
        "POSITIONS": tiles.positions,
    }


def stages(tiles: Tiling) -> tuple[str, ...]:
    """Return the stage of each launch: one for whole groups, or one for sums of parts and one for the rest."""
    # one program that loops over the parts would save a launch, but leave much of a large GPU idle
    return ("held",) if tiles.parts == 1 else ("sums", "apply")


def launch(
    kernel: Any,
    tensors: Sequence[Tensor | None],
    x: Tensor,
    scale: Tensor,
    groups: int,
    centred: bool,
    silu: bool,
    count: int,
    *rest: float,
) -> None:
    """Launch a kernel in all its stages.

    count: how many sums each part of a group has, where there are parts. rest: arguments after the sizes.
    """
    tiles = chosen(x, scale, groups, kernel.__name__.removesuffix("_kernel"))
    (rows, channels, positions), shared = x.shape, x.shape[0] // scale.shape[0]
    blocks = scale.shape[0] * triton.cdiv(shared, tiles.rows * tiles.steps)
    width = channels // groups
    sums = scale.new_empty(rows, groups, count, tiles.parts) if tiles.parts > 1 else None
    with on_device_of(x):
        for stage in stages(tiles):
            # torch adds up the parts between the launches, unless each program combines them itself
            if stage == "apply" and sums is not None and "PARTS" not in kernel.arg_names:
                sums = sums.sum(3)
            kernel[(blocks * groups * tiles.parts,)](
                *(*tensors, sums, numbers(x), shared, groups, positions, *rest),
                **constants(kernel, stage, tiles, width, centred, silu),
                **options(tiles),
            )
