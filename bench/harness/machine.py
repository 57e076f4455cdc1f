"""Where and with what a benchmark ran: device, cache, versions, commit."""

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
    """Size of the last cache before memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_USUAL_CACHE]
    for file in _CACHES.glob("index*/size"):
        parts = re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip())
        if parts:
            sizes.append(int(parts[1]) * _UNITS[parts[2]])
    return max(sizes[1:] or sizes)


def device_name(device: torch.device) -> str:
    """The product name of the device, of a CPU with the vectors that torch takes: machines under one name
    ("AMD EPYC") differ in them, and by half in speed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def slug(device: torch.device) -> str:
    """The folder of this machine's device: cpu-amd-epyc-avx512, cuda-nvidia-h200."""
    return folder(device.type, device_name(device))


def folder(device_type: str, name: str) -> str:
    """A device's name as a folder name, with its type in it."""
    return f"{device_type}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def versions() -> dict[str, str]:
    """Versions of what can change a timing, and of the rivals that are installed, none of them imported."""
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
    found = {}
    for name in _RIVALS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str:
    """The commit of the working tree, "-dirty" where it has changes, "unknown" outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    # by its hash whatever tags there are: it becomes a part of file names
    command += ["--exclude", "*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
