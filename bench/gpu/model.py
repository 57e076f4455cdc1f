"""A model of the time that a kernel takes on an H200, from its machine code alone.

The time of a launch is the largest of four:

issue    instructions of all threads / (4 warp instructions a clock and multiprocessor);
pipe     for each pipe, the instructions that it runs / its rate;
memory   bytes that must cross the memory bus / the measured bandwidth of a copy;
latency  the waits for memory that one thread makes one after the other, times the latency, times the number of
         times that the multiprocessors fill up with blocks. This is Little's law: it is the time in which the
         bytes that are in flight at once let all bytes pass.

Assumptions: 132 multiprocessors at the boost clock of 1.98 GHz; rates a clock and multiprocessor from the table of
arithmetic throughput in the CUDA C++ programming guide for compute capability 9.0; a 32-bit product with a 64-bit
result at half the rate of one with a 32-bit result (the guide does not say); 4.3 TB/s, read and written, as a
device-to-device copy reaches; 700 ns from a load to its value while the memory is busy.

Limits. The time of a launch itself is left out. All reads miss the caches, and all accesses are coalesced. The
path is the likely one (see flow). Loops that are not the main one count `others` turns each. Work that a few
threads do counts as if all did it. The four times are not added, although no kernel overlaps them perfectly. A
prediction is therefore a lower bound, and it can be far too low where two of the four are close. It says where a
kernel stands and whether a change helps, and replaces no measurement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from bench.gpu.sass import Instruction

MULTIPROCESSORS = 132
CLOCK = 1.98e9
BANDWIDTH = 4.3e12
LATENCY = 700e-9
ISSUE = 4 * 32
"""Thread instructions a clock and multiprocessor."""
RATES = {"fma": 128, "imad": 64, "wide": 32, "alu": 64, "fp64": 64, "xu": 16, "lsu": 32}
"""Thread instructions a clock and multiprocessor by pipe; pipes that are not here count as issued only."""
REGISTERS, THREADS, BLOCKS, SHARED = 65536, 2048, 32, 228 * 1024
RESERVED = 1024
"""Shared memory that the system takes from every block, in bytes."""


class Times(NamedTuple):
    """Predicted seconds by each of the four, and the name of the pipe that `pipe` is about."""

    issue: float
    pipe: float
    memory: float
    latency: float
    busiest: str

    @property
    def total(self) -> float:
        """Return the prediction."""
        return max(self.issue, self.pipe, self.memory, self.latency)

    @property
    def bound(self) -> str:
        """Return the name of what the prediction is bound by."""
        names = ("memory", "latency", "issue", "pipe")
        best = max(names, key=lambda name: getattr(self, name))
        return self.busiest if best == "pipe" else best


def pipe_time(instructions: Counter[str]) -> tuple[float, str]:
    """Return the clocks of one multiprocessor for thread instructions by pipe, and the busiest pipe.

    The three kinds that the pipes for float32 products run (fma, imad, wide) share them: `fma` may use both
    halves, the others use one.
    """
    clocks = {pipe: instructions[pipe] / rate for pipe, rate in RATES.items()}
    heavy = clocks["imad"] + clocks["wide"]
    clocks["fma"] = max(heavy, (heavy * 64 + instructions["fma"]) / RATES["fma"])
    best = max(("fma", "alu", "fp64", "xu", "lsu"), key=clocks.__getitem__)
    return clocks[best], best


def weighted(steps: Iterable[Instruction]) -> Counter[str]:
    """Count instructions by pipe; a wide access of memory counts once for each 4 bytes of a thread."""
    count = Counter[str]()
    for step in steps:
        count[step.pipe] += max(1, step.bytes // 4) if step.pipe == "lsu" else 1
    return count


def resident_blocks(threads: int, registers: int, shared: int) -> int:
    """Return the blocks that one multiprocessor of compute capability 9.0 holds at once.

    Args:
        threads: threads of a block.
        registers: registers of a thread; a warp gets them in units of 256.
        shared: shared memory of a block, in bytes.
    """
    warps = ceil(threads / 32)
    of_a_warp = max(1, ceil(registers * 32 / 256)) * 256
    # each of the four schedulers has a quarter of the registers
    by_registers = REGISTERS // 4 // of_a_warp * 4 // warps
    return min(THREADS // (warps * 32), BLOCKS, by_registers, SHARED // (shared + RESERVED))


def predict(
    *,
    threads: int,
    resident: int,
    instructions: Counter[str],
    issued: float,
    waits: float,
    bytes: float,
) -> Times:
    """Predict the time of one launch.

    Args:
        threads: threads of the launch.
        resident: threads that a multiprocessor holds at once.
        instructions: instructions of one thread by pipe, as `weighted` counts them.
        issued: instructions of one thread.
        waits: waits for memory that one thread makes one after the other.
        bytes: bytes that the launch must read and write.
    """
    clocks, busiest = pipe_time(instructions)
    share = threads / MULTIPROCESSORS / CLOCK
    filled = max(1.0, threads / (MULTIPROCESSORS * resident))
    return Times(
        issue=issued * share / ISSUE,
        pipe=clocks * share,
        memory=bytes / BANDWIDTH,
        latency=waits * LATENCY * filled,
        busiest=busiest,
    )
