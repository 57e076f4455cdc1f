"""Sizes of the tiles of group norm, and the launch of its kernels.

A group that fits the registers of a program is held there: every array goes through memory once, and small
groups of rows that share a scale are taken together. A larger one is cut into parts, one to a program, in two
launches: sums of every part, then the rest, which reads the arrays again, from the cache where they fit it.
Between them torch adds the parts' sums up, except forward's, which every program puts together by itself.
Looping over the parts in one program would spare a launch, but 32 programs (batch 4, 8 groups) leave three
quarters of a large GPU idle, and as many large groups as run at once are more than its cache either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of

_HELD = {"forward": 8192, "backward": 8192, "double_backward": 4096}
"""Numbers of the largest tile that spills no register; of float64 a quarter as many."""
_PART = {"forward": 4096, "backward": 2048, "double_backward": 2048}
"""Of a tile of a larger group: several programs fit a multiprocessor, and one loads while another sums.
Of float64 half as many, to a thread too."""
_OF_A_THREAD = {"forward": 16, "backward": 8, "double_backward": 8}
_PROGRAMS = 512
"""Small groups are taken together as long as there are so many programs, some four to a multiprocessor."""
_ROWS = 64
"""At most so many rows share a partial sum of the weights' gradients."""
_LINE = 32
"""Channels of a tile where they lie side by side: 64 bytes or more at a time."""


class Tiling(NamedTuple):
    """A tile is [rows, channels, positions], powers of two; `steps` of them follow each other in a program;
    `parts` tiles make up a group."""

    rows: int
    steps: int
    channels: int
    positions: int
    parts: int
    warps: int


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
    """Of rows [groups · width, positions], `shared` of which share their scale.

    order: forward, backward or double_backward; channels_last: a group's channels lie side by side.
    """
    held, part, of_a_thread = _HELD[order], _PART[order], _OF_A_THREAD[order]
    if dtype == torch.float64:
        held, part, of_a_thread = held // 4, part // 2, of_a_thread // 2
    channels, pieces = triton.next_power_of_2(width), triton.next_power_of_2(positions)
    together = steps = 1
    if channels * pieces > held:
        if channels_last:
            channels = min(channels, max(_LINE, part // pieces))
            pieces = min(pieces, part // channels)
        else:
            pieces = min(pieces, part)
            channels = min(channels, part // pieces)
    else:
        most = triton.next_power_of_2(max(1, min(shared, rows * groups // _PROGRAMS)))
        together = min(most, max(1, 128 * of_a_thread // (channels * pieces)))
        if order != "forward":
            steps = max(1, min(most, _ROWS // positions) // together)
    parts = triton.cdiv(width, channels) * triton.cdiv(positions, pieces)
    threads = together * channels * pieces // of_a_thread
    return Tiling(together, steps, channels, pieces, parts, min(16, max(1, threads // 32)))


def numbers(tensor: Tensor) -> tuple[int, int, int]:
    """Strides of [N, C, S]; 0 where S is 1, of which any stride is true."""
    first, second, third = tensor.stride()
    return first, second, third if tensor.shape[2] > 1 else 0


def dense(x: Tensor) -> Tensor:
    """x where its numbers fill their memory in some order, which results then keep; else in plain order."""
    return x if _agree(x, torch.empty_like(x)) else x.contiguous()


def matched(tensor: Tensor, x: Tensor) -> Tensor:
    """The tensor, copied only where its strides are not those of x."""
    if _agree(tensor, x):
        return tensor
    return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)


def _agree(a: Tensor, b: Tensor) -> bool:
    pairs = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in pairs)


def weight_sums(scale: Tensor, x: Tensor, groups: int, order: str) -> tuple[Tensor, Tensor]:
    """Room for the gradients of scale and shift by every program: [M, partial sums, C] each."""
    tiles = chosen(x, scale, groups, order)
    blocks = triton.cdiv(x.shape[0] // scale.shape[0], tiles.rows * tiles.steps)
    count = blocks * triton.cdiv(x.shape[2], tiles.positions)
    to_scale, to_shift = (scale.new_empty(scale.shape[0], count, scale.shape[1]) for _ in range(2))
    return to_scale, to_shift


def summed(partial: Tensor) -> Tensor:
    """In torch's order, which is the same at every run."""
    return partial[:, 0] if partial.shape[1] == 1 else partial.sum(1)


def chosen(x: Tensor, scale: Tensor, groups: int, order: str) -> Tiling:
    rows, channels, positions = x.shape
    shared, width = rows // scale.shape[0], channels // groups
    last = positions > 1 and x.stride(1) < x.stride(2)
    return tiling(order, x.dtype, rows, shared, groups, width, positions, last)


def constants(
    kernel: Any, stage: str, tiles: Tiling, width: int, centred: bool, silu: bool
) -> dict[str, Any]:
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
    """What the launches do: all of it by tiles that are held, or the sums of parts, then the rest."""
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
    """count: sums of every part of a group, where it has several; rest: what follows the sizes."""
    tiles = chosen(x, scale, groups, kernel.__name__.removesuffix("_kernel"))
    (rows, channels, positions), shared = x.shape, x.shape[0] // scale.shape[0]
    blocks = scale.shape[0] * triton.cdiv(shared, tiles.rows * tiles.steps)
    width = channels // groups
    sums = scale.new_empty(rows, groups, count, tiles.parts) if tiles.parts > 1 else None
    with on_device_of(x):
        for stage in stages(tiles):
            if stage == "apply" and sums is not None and "PARTS" not in kernel.arg_names:
                sums = sums.sum(3)
            kernel[(blocks * groups * tiles.parts,)](
                *(*tensors, sums, numbers(x), shared, groups, positions, *rest),
                **constants(kernel, stage, tiles, width, centred, silu),
                num_warps=tiles.warps,
                enable_fp_fusion=True,
            )
