"""Describe where a benchmark ran: device, cache, versions, commit."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_RIVALS = ("particles", "blackjax", "cuthbertlib", "k-diffusion", "diffusers")
_USUAL_CACHE = 32 * 2**20


def cache_bytes(device: torch.device) -> int:
    """Return the size of the last cache before memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_USUAL_CACHE]
    for file in _CACHES.glob("index*/size"):
        parts = re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip())
        if parts:
            sizes.append(int(parts[1]) * _UNITS[parts[2]])
    # the usual size counts only where the system names none
    return max(sizes[1:] or sizes)


def device_name(device: torch.device) -> str:
    """Return the product name of the device; for a CPU, with the vector instructions that torch uses.

    Machines that share a name ("AMD EPYC") differ in these, and by half in speed.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        line = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        line = None
    return line[1].strip() if line else platform.processor() or platform.machine()


def slug(device: torch.device) -> str:
    """Return the folder name of this machine's device, such as cpu-amd-epyc-avx512 or cuda-nvidia-h200."""
    return folder(device.type, device_name(device))


def folder(device_type: str, name: str) -> str:
    """Return the name of a device as a folder name that begins with its type."""
    return f"{device_type}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def versions() -> dict[str, str]:
    """Return the versions of everything that can change a timing, and of the installed rivals, without
    importing them."""
    try:
        from edmfast._version import __version__ as ours
    except ImportError:
        ours = "unknown"
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "absent"
    return {
        "edmfast": ours,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton,
        "cuda": torch.version.cuda or "absent",
        **_rivals(),
    }


def _rivals() -> dict[str, str]:
    installed = {}
    for name in _RIVALS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def commit() -> str:
    """Return the commit of the working tree, with "-dirty" where it has changes; "unknown" outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    # always the hash, even at a tag: it becomes a part of file names
    command += ["--exclude", "*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
