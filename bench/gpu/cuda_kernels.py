"""The CUDA C++ kernels alone, compiled in seconds: their headers need no torch.

Each source below includes the header of a kernel and instantiates it for the numbers that the budgets are about.
The options are those of setup.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ("-O3", "-std=c++20", "--fmad=false")

_BF16 = "__nv_bfloat16"


def _propagate(state: str, models: int, team: int, width: int) -> str:
    variant = f"propagate_kernel<{state}, {models}, {team}, {width}>"
    return f"template __global__ void {variant}(PropagateJob<{state}>);"


SOURCES = {
    "propagate": [
        "propagate_kernel.h",
        _propagate("float", 1, 256, 2),
        _propagate(_BF16, 1, 256, 4),
        _propagate("float", 2, 256, 2),
        _propagate("float", 1, 1, 1),
    ],
    "noise": ["noise_kernel.h", "template __global__ void noise_kernel<float>(NoiseJob<float>);"],
    "reversal": [
        "reversal_kernel.h",
        "template __global__ void reversal_kernel<float, 2, 256>(ReversalJob<float>);",
    ],
    "score_gram": [
        "score_gram_kernel.h",
        "template __global__ void score_gram_kernel<float, 2, 256>(GramJob<float>);",
    ],
    "weigh": [
        "weigh_increments.h",
        "template __global__ void weigh_kernel<float>(LargeJob<double>, Increments<float>);",
    ],
    "resample": [
        "resample_slots.h",
        "template __global__ void maximum_kernel<double>(LargeJob<double>, unsigned);",
        "template __global__ void sum_kernel<double>(LargeJob<double>);",
        "template __global__ void slots_kernel<true, double>(LargeJob<double>);",
    ],
}
"""The header in csrc/cuda and the kernels that each source instantiates."""


def compiler() -> str | None:
    """Find nvcc in CUDA_HOME or on PATH."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    beside = shutil.which("nvcc", path=f"{home}/bin") if home else None
    return beside or shutil.which("nvcc")


def compile_source(name: str, nvcc: str, folder: Path, capability: int = 90) -> Path:
    """Compile one of SOURCES in a folder and return its cubin."""
    header, *kernels = SOURCES[name]
    source, binary = folder / f"{name}.cu", folder / f"{name}.{capability}.cubin"
    lines = ["cuda_bf16.h", "cuda_fp16.h"]
    text = "".join(f"#include <{line}>\n" for line in lines) + f'#include "cuda/{header}"\n'
    source.write_text(text + "namespace edmfast {\n" + "\n".join(kernels) + "\n}\n")
    architecture = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    command = [nvcc, *FLAGS, architecture, f"-I{CSRC}", "-cubin", str(source), "-o", str(binary)]
    subprocess.run(command, check=True)
    return binary
