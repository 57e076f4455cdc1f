"""A report on the installation: versions, devices, kernels and threads."""

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
            device = torch.cuda.get_device_properties(index)
            memory = device.total_memory / 2**30
            names.append(
                f"cuda:{index}: {device.name}, sm_{device.major}{device.minor}, {memory:.0f} GiB"
            )
    return names


def _built() -> str:
    marker = Path(__file__).with_name("_build_info.txt")
    return marker.read_text().strip() if marker.exists() else "not built"


def info() -> dict[str, Any]:
    """Return versions, devices, and for each backend whether its kernels work or why they do not.

    Returns:
        A dictionary whose values are strings, integers, dictionaries or lists: versions (names to versions, None
            where a package is absent), devices, kernels (cpu, cuda and triton), built (the parts that the
            installation compiled), threads (of torch), cpu_capability (the instruction set that torch uses), and
            environment (the EDMFAST_ variables that are set).
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
