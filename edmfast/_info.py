"""What is installed and what is live: versions, devices, kernels, threads."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from edmfast import _extension
from edmfast._version import __version__

_PACKAGES = ("triton", "numpy", "safetensors", "tqdm", "typer", "scikit-learn", "matplotlib")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    names = [f"cpu: {platform.processor() or platform.machine()}, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            memory = found.total_memory / 2**30
            names.append(
                f"cuda:{index}: {found.name}, sm_{found.major}{found.minor}, {memory:.0f} GiB"
            )
    return names


def _built() -> str:
    marker = Path(__file__).with_name("_build_info.txt")
    return marker.read_text().strip() if marker.exists() else "not built"


def info() -> dict[str, Any]:
    """Versions, devices, and for each backend what is live or why nothing is.

    Keys: versions (name to version, None where absent), devices, kernels (cpu, cuda, triton), built (what
    the install compiled), threads (of torch), cpu_capability (the instruction set torch uses), and
    environment (the EDMFAST_ variables that are set). Every value is a str, int, dict or list.
    """
    versions = {
        "edmfast": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
    }
    return {
        "versions": versions | {name: _version(name) for name in _PACKAGES},
        "devices": _devices(),
        "kernels": _extension.kernel_status(),
        "built": _built(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("EDMFAST_")},
    }
