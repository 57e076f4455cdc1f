"""Budgets of the CUDA C++ kernels on sm_90, counted in their machine code, and the times that it predicts.

A budget is the largest number of instructions a thread may spend on an element, of waits for memory one after the
other, and of barriers, and the fewest blocks that a multiprocessor must hold. `python -m bench.gpu.compile_report`
prints what the present code needs; a test holds it to the budgets. Lower a budget when a kernel becomes cheaper.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu.cuda_kernels import SOURCES, compile_source
from bench.gpu.flow import Path as Way
from bench.gpu.flow import rounds
from bench.gpu.model import BANDWIDTH, Times, predict, resident_blocks, weighted
from bench.gpu.sass import Listing, disassemble
from bench.gpu.usage import Usage, usage_of


class Budget(NamedTuple):
    """Limits: instructions for an element, waits for memory in a thread, barriers, and blocks at least."""

    instructions: float
    waits: float
    barriers: int
    blocks: int


class Work(NamedTuple):
    """A kernel and one launch of it.

    `symbol` is a part of its name in the binary. A block has `block` threads, and a thread has `share` elements.
    `moved` is the bytes that an element must move. `unit` is the bytes that one element loads ("load") or stores
    ("store") in one turn of the main loop, from which follow the elements of a turn. Loops other than the main one
    turn `others` times. `most` and `avoided` choose the path (see flow.Path). One warp of a block runs what
    follows its last barrier, where `last_warp` says so. The compiler has put `peeled` turns before the main loop.
    """

    source: str
    symbol: str
    elements: int
    share: float
    moved: float
    unit: tuple[str, int]
    budget: Budget
    block: int = 256
    others: int = 1
    most: int = 1 << 20
    last_warp: bool = False
    peeled: int = 0
    avoided: str = ""


class Account(NamedTuple):
    """The numbers that the machine code of a kernel gives for one launch; counts are those of one thread."""

    name: str
    usage: Usage
    blocks: int
    per_turn: float
    instructions: float
    pipes: dict[str, float]
    waits: float
    in_flight: int
    before_store: int
    barriers: int
    times: Times
    floor: float


def _propagate(variant: str, rows: int, size: int, budget: Budget, models: int = 1) -> Work:
    moved = (models + 2) * size
    return Work(
        source="propagate",
        symbol=f"propagate_kernel{variant}",
        elements=rows * 12288,
        share=48,
        moved=moved,
        unit=("store", size),
        budget=budget,
        last_warp=True,
        peeled=1,
    )


_ROWS = 4096 * 12288
_PARTICLES = 2**26

WORKS = {
    "propagate float32 256x12288": _propagate("IfLi1ELi256ELi2E", 256, 4, Budget(55, 8, 1, 3)),
    "propagate float32 4096x12288": _propagate("IfLi1ELi256ELi2E", 4096, 4, Budget(55, 8, 1, 3)),
    "propagate bfloat16 256x12288": _propagate(
        "I13__nv_bfloat16Li1ELi256ELi4E", 256, 2, Budget(54, 7, 1, 3)
    ),
    "propagate bfloat16 4096x12288": _propagate(
        "I13__nv_bfloat16Li1ELi256ELi4E", 4096, 2, Budget(54, 7, 1, 3)
    ),
    "propagate 2 models 4096x12288": _propagate(
        "IfLi2ELi256ELi2E", 4096, 4, Budget(59, 8, 1, 2), models=2
    ),
    "propagate float32 2^22x2": Work(
        "propagate",
        "propagate_kernelIfLi1ELi1ELi1E",
        2**23,
        2,
        12,
        ("store", 4),
        Budget(220, 3, 0, 4),
    ),
    "noise float32 4096x12288": Work(
        "noise", "noise_kernelIfE", _ROWS, 4, 4, ("store", 4), Budget(78, 1, 0, 8)
    ),
    "reversal 2 models 4096x12288": Work(
        "reversal",
        "reversal_kernelIfLi2ELi256E",
        _ROWS,
        48,
        20,
        ("load", 12),
        Budget(90, 17, 6, 4),
        others=12,
    ),
    "score_gram 2 scores 4096x12288": Work(
        "score_gram",
        "score_gram_kernelIfLi2ELi256E",
        _ROWS,
        48,
        12,
        ("load", 12),
        Budget(34, 19, 1, 5),
    ),
    "weigh 2^26": Work(
        "weigh", "weigh_kernelIfE", _PARTICLES, 8, 24, ("store", 8), Budget(110, 8, 1, 4), most=280
    ),
    "resample maximum 2^26": Work(
        "resample", "maximum_kernelIdE", _PARTICLES, 128, 8, ("load", 8), Budget(11, 16, 2, 8)
    ),
    "resample sum 2^26": Work(
        "resample", "sum_kernelIdE", _PARTICLES, 32, 8, ("load", 8), Budget(66, 6, 11, 4), most=80
    ),
    # searches for the owner of a slot, and boundaries that need integers, are the loops that the path avoids
    "resample slots 2^26": Work(
        "resample",
        "slots_kernelILb1Ed",
        _PARTICLES,
        8,
        20,
        ("store", 8),
        Budget(130, 10, 7, 4),
        most=189,
        avoided="fp64",
    ),
}
"""The launches that the table shows, with their budgets."""


def account(name: str, work: Work, listing: Listing, usage: Usage) -> Account:
    """Count what a launch costs, and predict its time."""
    way = Way(listing, work.most, work.unit[0] == "store", work.avoided)
    turn, whole, kind = way.repeated, way.whole, work.unit[0]
    moved = sum(step.bytes for step in turn if (step.stores if kind == "store" else step.loads))
    at_once = moved / work.unit[1]
    turns = max(1.0, ceil(work.share / at_once) - work.peeled) if way.main else 1.0
    count, issued = weighted(whole), float(len(whole))
    extra = [(turn, turns - 1)] if way.main else []
    if work.last_warp:
        last = max(i for i, step in enumerate(whole) if step.name == "BAR")
        extra.append((whole[last + 1 :], 32 / work.block - 1))
    main = way.main.body if way.main else frozenset()
    for loop in way.loops:
        if loop.body.isdisjoint(main):
            extra.append((way.turn(loop), work.others - 1))
    for steps, more in extra:
        issued += more * len(steps)
        for pipe, number in weighted(steps).items():
            count[pipe] += int(more * number)
    first = next((i for i, step in enumerate(whole) if step.stores), len(whole))
    waits = len(rounds(whole)) + (turns - 1) * len(rounds(turn)) if way.main else len(rounds(whole))
    blocks = resident_blocks(work.block, usage.registers, usage.shared)
    times = predict(
        threads=int(work.elements / work.share),
        resident=blocks * work.block,
        instructions=Counter(count),
        issued=issued,
        waits=waits,
        bytes=work.elements * work.moved,
    )
    return Account(
        name=name,
        usage=usage,
        blocks=blocks,
        per_turn=len(turn) / at_once,
        instructions=issued / work.share,
        pipes={pipe: number / work.share for pipe, number in count.items()},
        waits=waits,
        in_flight=max(rounds(turn), default=0),
        before_store=len(rounds(whole[:first])),
        barriers=listing.barriers,
        times=times,
        floor=work.elements * work.moved / BANDWIDTH,
    )


def accounts(nvcc: str, tool: str) -> Iterator[Account]:
    """Compile the kernels for sm_90 and return what each launch of WORKS costs."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        binaries = dict(
            zip(SOURCES, pool.map(lambda s: compile_source(s, nvcc, folder), SOURCES), strict=True)
        )
        used = {row.kernel: row for binary in binaries.values() for row in usage_of(binary, tool)}
        listings = {
            one.name: one for binary in binaries.values() for one in disassemble(binary, tool)
        }
        for title, work in WORKS.items():
            (symbol,) = [key for key in listings if work.symbol in key]
            yield account(title, work, listings[symbol], used[symbol])


HEADER = (
    f"{'':32} {'ins/el':>6} {'fma':>4} {'imul':>4} {'alu':>4} {'fp64':>4} {'xu':>4} {'lsu':>4} {'waits':>5} "
    f"{'bytes':>5} {'bar':>3} {'regs':>4} {'spill':>5} {'shared':>6} {'blocks':>6} {'us':>8} {'floor':>8} bound by"
)


def line(row: Account) -> str:
    """Return a line of the table."""
    p = row.pipes
    shown = (
        p.get("fma", 0),
        p.get("imad", 0) + p.get("wide", 0),
        *(p.get(k, 0) for k in ("alu", "fp64", "xu", "lsu")),
    )
    predicted, floor = row.times.total * 1e6, row.floor * 1e6
    return (
        f"{row.name:32} {row.instructions:6.1f} "
        + " ".join(f"{n:4.1f}" for n in shown)
        + f" {row.waits:5.0f} {row.in_flight:5} {row.barriers:3} {row.usage.registers:4} {row.usage.spilled:5} "
        f"{row.usage.shared:6} {row.blocks:6} {predicted:8.1f} {floor:8.1f} {row.times.bound}"
    )


def record(row: Account) -> dict[str, Any]:
    """Return an account as JSON can hold it; times are in seconds."""
    times = row.times._asdict() | {"total": row.times.total, "bound": row.times.bound}
    return row._asdict() | {"usage": row.usage._asdict(), "times": times}
