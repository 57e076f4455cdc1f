"""Measure the best that the machine can do: copy bandwidth and matrix-multiplication rate.

A case cannot run faster than max(bytes / bandwidth, flops / rate) unless its data sits in a cache. A fraction
of the floor above 1 means that it does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from bench.harness.machine import cache_bytes
from bench.harness.registry import Case
from bench.harness.timing import Effort, time_side_by_side

_MIB = 2**20


@dataclass(frozen=True)
class Floors:
    """bandwidth: bytes/s, counting reads and writes. gemm: flop/s for each dtype name."""

    bandwidth: float
    gemm: dict[str, float]

    def seconds(self, case: Case) -> float:
        """Return the least time of one call of a case."""
        arithmetic = case.flops / self.gemm[str(case.dtype)] if case.flops else 0.0
        return max(case.bytes / self.bandwidth, arithmetic)


def measure(device: torch.device, dtypes: Iterable[torch.dtype], effort: Effort) -> Floors:
    """Measure both floors on a device with the present number of threads."""
    gemm = {str(dtype): _gemm_rate(device, dtype, effort) for dtype in dict.fromkeys(dtypes)}
    return Floors(bandwidth=_copy_bandwidth(device, effort), gemm=gemm)


def _copy_bandwidth(device: torch.device, effort: Effort) -> float:
    # four times the cache, within limits that fit a small machine
    size = min(max(4 * cache_bytes(device), 64 * _MIB), 512 * _MIB)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    timings = time_side_by_side({"copy": target.copy_}, [(source,)], device, effort)
    # a copy reads and writes every byte
    return 2 * size / timings["copy"].median


def _gemm_rate(device: torch.device, dtype: torch.dtype, effort: Effort) -> float:
    n = 8192 if device.type == "cuda" else 768
    # A constant matrix flips few bits, so that a GPU draws less power and runs at a higher clock than real
    # data allow.
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(n, n, generator=generator, device=device).to(dtype)
    timings = time_side_by_side({"gemm": torch.mm}, [(a, a)], device, effort)
    return 2 * n**3 / timings["gemm"].median
