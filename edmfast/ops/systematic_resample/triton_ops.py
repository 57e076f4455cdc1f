"""Systematic resampling on a GPU by Triton, with the bits of `edmfast.ops.systematic_resample.reference`.

A population of at most 4096 particles takes one program, whose kernel is here. A larger one is cut into tiles and
takes several launches, see `triton_large`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops.systematic_resample.reference import fraction_bits
from edmfast.ops.systematic_resample.triton_fixed_point import (
    first_slots,
    integer_weights,
    owners,
    sums_of,
    threshold_of,
)
from edmfast.ops.systematic_resample.triton_large import resample_large
from edmfast.ops.systematic_resample.triton_population import conclude, load_log_weights, maximum_of

SMALL = 4096


@triton.jit(do_not_specialize=["particles", "bits"])
def small_kernel(
    log_weights,
    uniform,
    # without this type Triton would pass the threshold in float32, which may decide otherwise
    ess_threshold: tl.float64,
    slots,
    ancestors,
    outputs,
    particles,
    bits,
    LEVELS: tl.constexpr,
):
    """Resample a whole population in each program. log_weights, ancestors [P, N]; slots: scratch int32 [P, N]."""
    p = tl.program_id(0)
    lane = tl.arange(0, 1 << LEVELS)
    inside = lane < particles
    value = load_log_weights(log_weights, particles, p, lane)
    maximum, has_nan = maximum_of(value)
    q = integer_weights(value, maximum, bits, inside)
    sums = sums_of(q)
    start = p.to(tl.int64) * particles
    owner = lane
    if conclude(outputs, p, maximum, has_nan, sums, particles, bits, ess_threshold):
        threshold = threshold_of(tl.load(uniform + p), sums[0])
        first = first_slots(tl.cumsum(q) - q, particles, sums[0], threshold)
        tl.store(slots + start + lane, first, mask=inside)
        # the search reads slots that other threads of this program have stored
        tl.debug_barrier()
        owner = owners(slots + start, lane, particles, LEVELS)
    tl.store(ancestors + start + lane, owner, mask=inside)


def small_warps(levels: int) -> int:
    """Return the warps of a program: eight particles for each thread, at most 16 to leave enough registers."""
    return max(1, min(16, (1 << levels) // 256))


def systematic_resample(
    log_weights: Tensor, uniform: Tensor, ess_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `edmfast.ops.systematic_resample`; log_weights are float32 or float64, uniform is float64."""
    log_weights, uniform = log_weights.contiguous(), uniform.contiguous()
    populations, particles = log_weights.shape
    ancestors = torch.empty_like(log_weights, dtype=torch.int32)
    slots = torch.empty_like(ancestors)
    log_mean = log_weights.new_empty(populations, dtype=torch.float64)
    ess = torch.empty_like(log_mean)
    resampled = log_weights.new_empty(populations, dtype=torch.bool)
    degenerate = log_weights.new_empty(populations, dtype=torch.int32)
    outputs = log_mean, ess, resampled, degenerate
    bits, levels = fraction_bits(particles), (particles - 1).bit_length()
    with on_device_of(log_weights):
        if populations > 0 and particles <= SMALL:
            small_kernel[(populations,)](
                log_weights,
                uniform,
                ess_threshold,
                slots,
                ancestors,
                outputs,
                particles,
                bits,
                LEVELS=levels,
                num_warps=small_warps(levels),
                enable_fp_fusion=False,
            )
        elif populations > 0:
            resample_large(log_weights, uniform, ess_threshold, slots, ancestors, outputs, bits)
    return ancestors, log_mean, ess, resampled, degenerate
