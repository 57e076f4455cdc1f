"""Device side: the functions of kernels for small and for large populations: read log-weights, write decisions."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from edmfast.ops.systematic_resample.triton_fixed_point import decide


@triton.jit
def load_log_weights(log_weights, particles, population, lane):
    """Return float64 log-weights of the particles `lane`, -inf beyond the last."""
    start = population.to(tl.int64) * particles
    value = tl.load(log_weights + start + lane, mask=lane < particles, other=float("-inf"))
    return value.to(tl.float64)


@triton.jit
def maximum_of(value):
    """Return (the maximum of all that is not NaN, 1 if there is a NaN else 0), float64 and int32."""
    nan = value != value
    return tl.max(tl.where(nan, float("-inf"), value)), tl.max(nan.to(tl.int32))


@triton.jit
def conclude(outputs, p, maximum, has_nan, sums, particles, bits, ess_threshold):
    """Write log_mean, ess, resampled and degenerate (`outputs`) of population p; return resampled."""
    total, high, middle, low = sums
    ess, log_mean, resampled, collapsed = decide(
        maximum, total, high, middle, low, particles, bits, ess_threshold
    )
    infinite = (maximum == float("inf")).to(tl.int32)
    tl.store(outputs[0] + p, log_mean)
    tl.store(outputs[1] + p, ess)
    tl.store(outputs[2] + p, resampled)
    tl.store(outputs[3] + p, has_nan + 2 * collapsed.to(tl.int32) + 4 * infinite)
    return resampled
