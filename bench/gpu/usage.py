"""The registers, spills and shared memory of compiled GPU kernels, as cuobjdump reports them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


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
