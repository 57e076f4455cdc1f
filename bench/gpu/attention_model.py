"""Predict the time of a Hessian-vector product of attention on an H200, from the machine code of its kernels.

Command: `python -m bench.gpu.attention_model`. It compiles the six Triton kernels of one such product (forward,
two of the backward, three of the double backward) for sm_90 and needs no GPU. Heads of 64, bfloat16, causal.

One turn of a kernel's loop computes one tile of scores. A turn takes a multiprocessor the longest of these:

issue    instructions of all warps / (4 warp instructions a clock);
matrix   matrix products at the rate that large products of bfloat16 reach (790 TFLOP/s measured, 990 promised);
shared   bytes that matrix instructions read from shared memory / (128 a clock);
special  exponentials / (16 a clock);
cache    bytes of operands that come from the second-level cache / (24 a clock, 6 TB/s in all);
alone    the sum of issue and matrix, and 60 clocks for each barrier, over the number of warpgroups that a
         multiprocessor holds at once: a warpgroup waits for its own products. Warpgroups of one program count as
         one where a barrier follows most products, as Triton 3.9 has it.

The programs of a launch start in order wherever there is room, which gives the time of the launch with its uneven
end. Each launch adds 4 microseconds to start and to end.

Limits. Nothing was measured but the rate of matrix products and the clock; the speed of the cache and of a barrier
are assumptions. The loop without checks stands for all tiles, although the tiles at the diagonal take about half
as long again. A prediction is a lower bound that has to be compared with others, not with a clock.
"""

from __future__ import annotations

import heapq
import re
import sys
import tempfile
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import NamedTuple

from bench.gpu.model import CLOCK, MULTIPROCESSORS, resident_blocks
from bench.gpu.sass import Instruction, Listing, disassemble
from bench.gpu.usage import cuobjdump, usage_of

HEADS, WIDTH = 12, 64
LENGTHS = (1024, 4096, 8192, 32768)
GOALS = {1024: 0.28, 4096: 1.76, 8192: 5.6, 32768: 74.0}
"""Milliseconds of the fastest other implementation on an H200 (flash-hog)."""
MATRIX = 790e12 / MULTIPROCESSORS / CLOCK
LEGACY = 0.62
"""The share of that rate which the matrix instructions of earlier GPUs (HMMA) reach on Hopper."""
SHARED, SPECIAL, CACHE = 128, 16, 24
BARRIER = 60
FEW = 2
"""The most barriers of a turn that leave the warpgroups of a program independent of each other."""
LAUNCH = 4e-6
BYTES = 2


class Pass(NamedTuple):
    """A kernel: its products for a tile, the tensors that each turn loads, and whether its blocks are of keys."""

    kernel: str
    products: int
    loads: int
    by_keys: bool


PASSES = (
    Pass("forward", 2, 2, False),
    Pass("query gradient", 3, 2, False),
    Pass("key gradients", 4, 2, True),
    Pass("row sums", 5, 4, False),
    Pass("query second", 9, 4, False),
    Pass("key second", 8, 3, True),
)


class Turn(NamedTuple):
    """The clocks that one turn of a loop takes a multiprocessor, by what it needs, and its counts."""

    instructions: int
    wgmma: int
    issue: float
    matrix: float
    shared: float
    special: float
    barriers: int
    independent: int

    def clocks(self, cache: float, resident: int) -> float:
        """Return the clocks of a turn while a multiprocessor holds `resident` blocks."""
        alone = self.issue + max(self.matrix, self.shared) + BARRIER * self.barriers
        apart = resident * self.independent
        return max(self.issue, self.matrix, self.shared, self.special, cache, alone / apart)


def loops(listing: Listing) -> Iterator[list[Instruction]]:
    """Return the bodies of the loops of a kernel, in their order."""
    steps = listing.instructions
    index = {step.address: number for number, step in enumerate(steps)}
    for number, step in enumerate(steps):
        target = step.target
        if target is not None and target <= step.address:
            yield steps[index[target] : number + 1]


def _matrix(step: Instruction) -> tuple[float, float]:
    """Return (clocks of the matrix units at the rate of wgmma, bytes read from shared memory) of a warpgroup."""
    if step.name == "HMMA":
        # one warp of four multiplies 16 x 16 by 16 x 8
        return 4 * 2 * 16 * 8 * 16 / MATRIX / LEGACY, 0.0
    rows, columns, depth = (int(part) for part in re.findall(r"(\d+)x(\d+)x(\d+)", step.opcode)[0])
    # the left side comes from shared memory where the first source is a descriptor
    sources = step.operands.split(", ")[1]
    left = 0 if sources.startswith("R") else rows * depth
    return 2 * rows * columns * depth / MATRIX, BYTES * (left + columns * depth)


def turn_of(listing: Listing, warps: int) -> Turn:
    """Return the turn of the shortest loop with matrix products, which is the one without checks."""
    bodies = [body for body in loops(listing) if any(s.name in ("HGMMA", "HMMA") for s in body)]
    body = min(bodies, key=len)
    work = [_matrix(step) for step in body if step.name in ("HGMMA", "HMMA")]
    barriers = sum(step.name == "BAR" for step in body)
    exponentials = sum(step.opcode.startswith("MUFU.EX2") for step in body)
    return Turn(
        instructions=len(body),
        wgmma=sum(step.name == "HGMMA" for step in body),
        issue=len(body) * warps / 4,
        matrix=sum(clocks for clocks, _ in work) * warps / 4,
        shared=sum(read for _, read in work) * warps / 4 / SHARED,
        special=exponentials * warps * 32 / SPECIAL,
        barriers=barriers,
        independent=1 if barriers > FEW else warps // 4,
    )


class Kernel(NamedTuple):
    """A compiled kernel: its pass, the rows and columns of its tiles, its registers, spills and residents."""

    of: Pass
    queries: int
    keys: int
    registers: int
    spilled: int
    resident: int
    turn: Turn

    def seconds(self, length: int) -> float:
        """Predict one launch for queries and keys of a length."""
        block, step = (self.keys, self.queries) if self.of.by_keys else (self.queries, self.keys)
        blocks = ceil(length / block)
        # a multiprocessor holds fewer programs than it could where there are not enough
        held = min(self.resident, ceil(blocks * HEADS / MULTIPROCESSORS))
        cache = self.of.loads * step * WIDTH * BYTES / CACHE
        # each of the programs that share a multiprocessor works this long on one tile
        tile = self.turn.clocks(cache, held) * held
        # a block of keys is seen by the queries after it, a block of queries sees the keys before it
        turns = [ceil((number + 1) * block / step) for number in range(blocks)][::-1]
        places = [0.0] * (MULTIPROCESSORS * held)
        for work in turns * HEADS:
            heapq.heapreplace(places, places[0] + work * tile)
        return max(places) / CLOCK + LAUNCH


def kernel_of(of: Pass) -> Kernel:
    """Compile one kernel as it is launched on Hopper."""
    # Triton takes seconds to import
    from bench.gpu.compile_cases import CASES, compiled

    tool = cuobjdump()
    assert tool is not None
    case = f"attention {of.kernel} bfloat16 {WIDTH}"
    result, constants = compiled(case, 90), CASES[case].constants
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(result.asm["cubin"])
        (usage,) = usage_of(binary, tool)
        (listing,) = disassemble(binary, tool)
    warps, shared = result.metadata.num_warps, result.metadata.shared
    return Kernel(
        of=of,
        queries=constants["QUERIES"],
        keys=constants["KEYS"],
        registers=usage.registers,
        spilled=usage.spilled,
        resident=resident_blocks(32 * warps, usage.registers, shared),
        turn=turn_of(listing, warps),
    )


def floor(length: int) -> float:
    """Return the seconds of all matrix products of one Hessian-vector product at the measured rate."""
    products = sum(of.products for of in PASSES)
    return products * HEADS * length**2 * WIDTH / 790e12


def main() -> int:
    if cuobjdump() is None:
        print("attention_model: no cuobjdump, neither beside nvcc nor from Triton", file=sys.stderr)
        return 2
    kernels = [kernel_of(of) for of in PASSES]
    print("held: programs on a multiprocessor; from issue on: its clocks for 128 scores, predicted")
    print(
        f"{'kernel':15} {'tile':>7} regs spill held wgmma instr issue matrix shared special cache clocks"
    )
    for kernel in kernels:
        turn, scores = kernel.turn, kernel.queries * kernel.keys
        step = kernel.queries if kernel.of.by_keys else kernel.keys
        cache = kernel.of.loads * step * WIDTH * BYTES / CACHE
        parts = (turn.issue, turn.matrix, turn.shared, turn.special, cache)
        clocks = [128 * part / scores for part in (*parts, turn.clocks(cache, kernel.resident))]
        size = f"{kernel.queries}x{kernel.keys}"
        print(
            f"{kernel.of.kernel:15} {size:>7} {kernel.registers:4} {kernel.spilled:5} {kernel.resident:4} "
            f"{turn.wgmma:5} {turn.instructions:5} " + " ".join(f"{part:6.1f}" for part in clocks)
        )
    print(f"\n{'length':>7} {'predicted ms':>12} {'products ms':>11} {'goal ms':>8}")
    for length in LENGTHS:
        predicted = sum(kernel.seconds(length) for kernel in kernels)
        goal = GOALS[length]
        print(f"{length:7} {1e3 * predicted:12.3f} {1e3 * floor(length):11.3f} {goal:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
