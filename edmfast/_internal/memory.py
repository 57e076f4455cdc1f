"""The free memory of a device, so that a request that cannot fit is refused before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on the device, or None where that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    # A container may be allowed less than the machine has.
    known = [size for size in (_available(), _left_of_group()) if size is not None]
    return min(known, default=None)


def gibibytes(size: int) -> str:
    """Return a size as text, in GiB."""
    return f"{size / 2**30:.3g} GiB" if size < 2**100 else "more than any machine's memory"


def _available() -> int | None:
    """Return the bytes that the machine can allocate without swapping, or None where that is unknown."""
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _left_of_group() -> int | None:
    """Return the bytes left below a container's limit, or None without a limit. Cached files count as free."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # The kernel drops cached files before it refuses memory.
    return max(0, limit - used + int(stat.get("inactive_file", 0)))
