"""Host side: sizes of the tiles that the kernels of residual perceptrons work on, and for which networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from edmfast.ops._shared.triton_precision import precision as precision_of

WIDEST, DEEPEST = 256, 8


class Tiles(NamedTuple):
    """The sizes of a block and the options of its launch.

    rows: the rows of a block. chunk: how many columns of the sides of a product are held at a time.
    """

    rows: int
    chunk: int
    warps: int
    stages: int = 2


# For each kernel, and for weights in float32 or not: entries for up to 32, 64, 128 and 256 numbers in the wider of
# states and layers. They have the most rows that spill no register on sm_80 and sm_90 by Triton 3.6 and 3.9, in
# float32 with three TF32 products, because with more rows the weights are read less often.
_TILES = {
    ("forward", False): ((128, 64, 8), (64, 64, 8), (64, 32, 8), (16, 64, 8)),
    ("backward", False): ((128, 64, 8), (32, 32, 4), (32, 64, 8), (16, 32, 8)),
    ("forward", True): ((128, 32, 8), (32, 32, 4), (64, 16, 8), (16, 16, 8)),
    ("backward", True): ((16, 32, 4), (32, 32, 8), (16, 32, 8), (16, 16, 8, 1)),
}
# The forward kernel with three TF32 products needs more registers where every row has its own coefficients or
# shifts. These entries replace those that would then spill; blocks with masks have few enough rows already.
_OF_ROWS = {32: (128, 16, 8), 128: (32, 16, 8)}


def fits(dtype: torch.dtype, elements: int, width: int, depth: int) -> bool:
    """Return whether the kernels have tiles for a network of this shape, on states of so many numbers."""
    sizes = 0 < elements <= WIDEST and 0 < width <= WIDEST and depth <= DEEPEST
    return sizes and dtype in (torch.float32, torch.float16, torch.bfloat16)


def configuration(
    kernel: str,
    dtype: torch.dtype,
    elements: int,
    width: int,
    depth: int,
    precision: str | None = None,
    shared: bool = True,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return (constants of a kernel, options of its launch) for weights of a dtype.

    precision: of float32 products; by default as torch's own, see `_shared.triton_precision`.
    shared: whether all rows share their coefficients and their shifts.
    """
    precision = precision or precision_of(dtype)
    # tl.dot needs at least 16 columns, and tiles have powers of two
    padded_state, padded = (max(16, triton.next_power_of_2(n)) for n in (elements, width))
    constants: dict[str, Any] = {
        "D": elements,
        "W": width,
        "DEPTH": depth,
        "PADDED_D": padded_state,
        "PADDED_W": padded,
        "PRECISION": precision,
    }
    widest = max(padded, padded_state)
    # reading such weights for 16 rows takes as long as three products, and one would spill on sm_80 by Triton 3.6
    if kernel == "backward" and widest == WIDEST and precision == "tf32":
        precision = constants["PRECISION"] = "tf32x3"
    tiles = _tiles(kernel, dtype == torch.float32, widest)
    # a mask of more than a few columns takes registers, so such a block has fewer rows
    masked = padded != width or (padded_state != elements and padded_state > 16)
    rows = max(16, tiles.rows // 2) if masked else tiles.rows
    if kernel == "forward" and not (shared or masked) and precision == "tf32x3":
        tiles = Tiles(*_OF_ROWS.get(max(32, widest), tiles))
        rows = tiles.rows
    constants |= {"ROWS": rows, "CHUNK": tiles.chunk}
    stages = 2 if precision == "tf32" else tiles.stages
    return constants, {"num_warps": tiles.warps, "num_stages": stages}


def _tiles(kernel: str, single: bool, padded: int) -> Tiles:
    at = (32, 64, 128, 256).index(max(32, padded))
    return Tiles(*_TILES[kernel, single][at])
