"""Report registers, spills and shared memory of every GPU kernel, and the times that machine code predicts.

Command: `python -m bench.gpu.compile_report [--json PATH]`.

It reads the built CUDA library and compiles the Triton kernels ahead of time. It also counts the machine code of
Triton kernels for sm_90. Where nvcc is there, it compiles the CUDA C++ kernels for sm_90 and predicts their times
on an H200 (see bench.gpu.model). Exit status 1 where a kernel spills or no CUDA library is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import edmfast
from bench.gpu.budgets import HEADER, Account, accounts, line, record
from bench.gpu.cuda_kernels import compiler
from bench.gpu.flow import Path as Way
from bench.gpu.flow import rounds
from bench.gpu.model import resident_blocks
from bench.gpu.sass import disassemble
from bench.gpu.usage import Usage, cuobjdump, usage_of
from bench.harness import machine

LIBRARY = Path(edmfast.__file__).parent / "_cuda.so"
CAPABILITIES = (80, 90)


class Shape(NamedTuple):
    """The machine code of a kernel for sm_90: what `budgets` counts, without a launch to predict."""

    usage: Usage
    blocks: int
    turn: int
    waits: int
    in_flight: int
    barriers: int


def usage_of_case(case: str, capability: int) -> tuple[Usage, int]:
    """Compile a Triton kernel anew and return (its usage, the warps of a block).

    All of its shared memory is dynamic, so that number comes from the compiler.
    """
    with tempfile.TemporaryDirectory() as folder:
        usage, warps, _ = _compiled(case, capability, Path(folder))
    return usage, warps


def shape_of_case(case: str, capability: int) -> Usage | Shape:
    """Compile a Triton kernel anew and return its usage, with its shape on sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        usage, warps, binary = _compiled(case, capability, Path(folder))
        tool = cuobjdump()
        if capability != 90 or tool is None:
            return usage
        (listing,) = disassemble(binary, tool)
    path = Way(listing)
    turns = rounds(path.repeated)
    return Shape(
        usage=usage,
        blocks=resident_blocks(32 * warps, usage.registers, usage.shared),
        turn=len(path.repeated),
        waits=len(turns),
        in_flight=max(turns, default=0),
        barriers=listing.barriers,
    )


def _compiled(case: str, capability: int, folder: Path) -> tuple[Usage, int, Path]:
    from bench.gpu.compile_cases import compiled

    tool = cuobjdump()
    assert tool is not None
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    result = compiled(case, capability)
    binary = folder / "kernel.cubin"
    binary.write_bytes(result.asm["cubin"])
    (usage_read,) = usage_of(binary, tool)
    usage = usage_read._replace(
        architecture=f"sm_{capability}", kernel=f"triton {case}", shared=result.metadata.shared
    )
    return usage, result.metadata.num_warps, binary


def compilers() -> ProcessPoolExecutor:
    """Start processes to compile in, one for each core."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context)


def triton_shapes() -> Iterator[Usage | Shape]:
    """Return the usage of every Triton kernel on both architectures, as its shape on sm_90."""
    from bench.gpu.compile_cases import CASES

    jobs = [(case, capability) for capability in CAPABILITIES for case in CASES]
    with compilers() as pool:
        yield from pool.map(shape_of_case, *zip(*jobs, strict=True))


def print_shapes(shapes: Sequence[Shape]) -> None:
    """Print what the machine code of Triton kernels says."""
    print(f"\n{'blocks':>7} {'turn':>6} {'waits':>5} {'bytes':>5} {'barriers':>8}  kernel on sm_90")
    for shape in shapes:
        row = f"{shape.blocks:7} {shape.turn:6} {shape.waits:5} {shape.in_flight:5} {shape.barriers:8}"
        print(f"{row}  {shape.usage.kernel}")
    print(
        "blocks: held by a multiprocessor; turn: instructions of a thread in one turn of the main loop, with its "
        "waits for memory and the most bytes on their way at once"
    )


def print_accounts(rows: Sequence[Account]) -> None:
    """Print what the machine code of the CUDA C++ kernels predicts."""
    print("\n" + HEADER)
    for row in rows:
        print(line(row))
    print(
        "ins/el: instructions of a thread for an element, then by pipe; waits: for memory, one after the other; "
        "bytes: on their way at once; us: predicted for an H200, not measured; floor: at the speed of a copy"
    )


def readable(names: Sequence[str]) -> list[str]:
    """Return C++ names without their parameters, where c++filt is installed."""
    if shutil.which("c++filt") is None:
        return list(names)
    answer = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    noise = re.compile(r"^void |edmfast::|\(anonymous namespace\)::|\(.*$")
    return [noise.sub("", name) for name in answer.stdout.splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.compile_report", description=__doc__)
    parser.add_argument("--json", metavar="PATH", help="where to write the table")
    options = parser.parse_args(arguments)
    tool = cuobjdump()
    if tool is None:
        print("compile_report: no cuobjdump, neither beside nvcc nor from Triton", file=sys.stderr)
        return 2
    usages = list(usage_of(LIBRARY, tool)) if LIBRARY.exists() else []
    if not usages:
        print("compile_report: no CUDA library was built", file=sys.stderr)
    shapes: list[Shape] = []
    if importlib.util.find_spec("triton") is not None:
        for row in triton_shapes():
            usages.append(row.usage if isinstance(row, Shape) else row)
            shapes += [row] if isinstance(row, Shape) else []
    nvcc = compiler()
    predicted = list(accounts(nvcc, tool)) if nvcc else []
    names = readable([row.kernel for row in usages])
    usages = [row._replace(kernel=name) for row, name in zip(usages, names, strict=True)]
    print(f"{'':7} {'registers':>9} {'spilled':>7} {'shared':>7}  kernel")
    for row in usages:
        print(
            f"{row.architecture:7} {row.registers:9} {row.spilled:7} {row.shared:7}  {row.kernel}",
        )
    print_shapes(shapes)
    print_accounts(predicted)
    if options.json:
        facts = {"commit": machine.commit(), "versions": machine.versions()}
        content = {
            "kernels": [row._asdict() for row in usages],
            "shapes": [row._asdict() | {"usage": row.usage.kernel} for row in shapes],
            "predicted": [record(row) for row in predicted],
        }
        Path(options.json).write_text(json.dumps(facts | content, indent=1) + "\n")
    spilling = sum(row.spilled > 0 for row in usages)
    print(f"{len(usages)} kernels, {spilling} spill")
    return int(spilling > 0 or not LIBRARY.exists())


if __name__ == "__main__":
    sys.exit(main())
