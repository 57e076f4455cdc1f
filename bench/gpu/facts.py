"""Print where a check runs as one line of JSON: `python -m bench.gpu.facts`.

The check reads it from another process, so that its own process imports no torch and takes no memory of a GPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import torch

from bench.harness import machine


def gpu() -> dict[str, Any] | None:
    """Return the first GPU that torch sees, None without one."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return None
    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "capability": f"{device.major}.{device.minor}",
        "memory": device.total_memory,
        "count": torch.cuda.device_count(),
    }


def tool_version(*command: str) -> str:
    """Return the last line that a program prints, or "absent"."""
    if shutil.which(command[0]) is None:
        return "absent"
    answer = subprocess.run(command, capture_output=True, text=True)
    lines = answer.stdout.strip().splitlines()
    return lines[-1] if lines else "unknown"


def facts() -> dict[str, Any]:
    """Return the GPU, its driver, the commit, and the versions of everything that can change a result."""
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "gpu": gpu(),
        "commit": machine.commit(),
        "driver": tool_version(*driver),
        "versions": {
            **machine.versions(),
            "nvcc": tool_version("nvcc", "--version"),
            "compute-sanitizer": tool_version("compute-sanitizer", "--version"),
        },
    }


def main() -> int:
    print(json.dumps(facts()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
