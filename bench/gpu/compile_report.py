"""Report registers, spills and shared memory of every GPU kernel.

Command: `python -m bench.gpu.compile_report [--json PATH]`.

It reads the built CUDA library and compiles the Triton kernels ahead of time. Exit status 1 where a kernel
spills or no CUDA library is there.
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
from bench.harness import machine

LIBRARY = Path(edmfast.__file__).parent / "_cuda.so"
CAPABILITIES = (80, 90)


class Usage(NamedTuple):
    """One kernel on one architecture: registers and spilled bytes per thread, shared bytes per block."""

    architecture: str
    kernel: str
    registers: int
    spilled: int
    shared: int


def cuobjdump() -> str | None:
    """Find the tool beside nvcc, or use the one that Triton brings."""
    places = [os.environ.get("PATH", "")]
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    compiler = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    if compiler:
        places.append(str(Path(compiler).resolve().parent))
    triton = importlib.util.find_spec("triton")
    if triton and triton.origin:
        places.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump", path=os.pathsep.join(places))


def usage_of(binary: Path, tool: str) -> Iterator[Usage]:
    """Return the usage of every kernel in a cubin or a library."""
    command = [tool, "-res-usage", str(binary)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    architecture = kernel = ""
    for line in text.splitlines():
        if parsed := re.search(r"arch = (sm_\d+)", line):
            architecture = parsed[1]
        elif parsed := re.search(r"Function (\S+):", line):
            kernel = parsed[1]
        elif parsed := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, parsed.groups())
            yield Usage(architecture, kernel, registers, stack + local, shared)


def usage_of_case(case: str, capability: int) -> tuple[Usage, int]:
    """Compile a Triton kernel anew and return (its usage, the warps of a block).

    All of its shared memory is dynamic, so that number comes from the compiler.
    """
    from bench.gpu.compile_cases import compiled

    tool = cuobjdump()
    assert tool is not None
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        result = compiled(case, capability)
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(result.asm["cubin"])
        (usage_read,) = usage_of(binary, tool)
    usage = usage_read._replace(
        architecture=f"sm_{capability}", kernel=f"triton {case}", shared=result.metadata.shared
    )
    return usage, result.metadata.num_warps


def compilers() -> ProcessPoolExecutor:
    """Start processes to compile in, one for each core."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context)


def triton_usage() -> Iterator[Usage]:
    """Return the usage of every Triton kernel on both architectures."""
    from bench.gpu.compile_cases import CASES

    jobs = [(case, capability) for capability in CAPABILITIES for case in CASES]
    with compilers() as pool:
        for usage, _ in pool.map(usage_of_case, *zip(*jobs, strict=True)):
            yield usage


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
    if importlib.util.find_spec("triton") is not None:
        usages += triton_usage()
    names = readable([row.kernel for row in usages])
    usages = [row._replace(kernel=name) for row, name in zip(usages, names, strict=True)]
    print(f"{'':7} {'registers':>9} {'spilled':>7} {'shared':>7}  kernel")
    for row in usages:
        print(
            f"{row.architecture:7} {row.registers:9} {row.spilled:7} {row.shared:7}  {row.kernel}",
        )
    if options.json:
        facts = {"commit": machine.commit(), "versions": machine.versions()}
        rows = [row._asdict() for row in usages]
        Path(options.json).write_text(json.dumps({**facts, "kernels": rows}, indent=1) + "\n")
    spilling = sum(row.spilled > 0 for row in usages)
    print(f"{len(usages)} kernels, {spilling} spill")
    return int(spilling > 0 or not LIBRARY.exists())


if __name__ == "__main__":
    sys.exit(main())
