"""Reversal-matched proposals and log-weights on a GPU by Triton, kernel and host side.

All arithmetic is float64 as in `edmfast.ops.reversal.reference`, with sums in another order.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# tuples grow by one entry at a time, which mypy does not follow
# mypy: disable-error-code="assignment, misc"
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_tiling import tiling
from edmfast.ops.reversal.reference import LARGEST


@triton.jit
def _zeros(shape: tl.constexpr, MODELS: tl.constexpr):
    """Return a tuple of MODELS float64 zeros of a shape."""
    zeros = ()
    for _ in tl.static_range(MODELS):
        zeros += (tl.zeros(shape, tl.float64),)
    return zeros


@triton.jit
def _curvature(trace, slope, least, most: tl.constexpr):
    """Return κ of a trace within its bounds, and NaN for NaN."""
    kappa = 1.0 + slope * trace
    # both comparisons are false for NaN
    return tl.where(kappa < least, least, tl.where(kappa > most, most, kappa))


@triton.jit
def reversal_kernel(
    scores,
    exponents,
    levels,
    traces,
    products,
    probes,
    coefficients,
    log_weights,
    populations,
    particles,
    elements,
    count,
    LARGEST: tl.constexpr,
    MODELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Weigh ROWS particles of one population in each program, COLUMNS elements at a time.

    scores: a tuple of MODELS pointers to [P, N, d]; exponents float64 [P, MODELS]; levels float64 [2]; traces
    float64 [MODELS, P, N] or None; products: a tuple of pointers to [P, N, K, d], empty beside traces; probes
    [P, N, K, d] or None; coefficients float64 [P, N, MODELS + 2]; log_weights float64 [P, N]; count: K.
    """
    row_tiles = tl.cdiv(particles, ROWS)
    population = (tl.program_id(0) // row_tiles).to(tl.int64)
    particle = (tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    exists = particle < particles
    row = population * particles + particle
    s, u = tl.load(levels), tl.load(levels + 1)
    variance = (s - u) * (s + u)
    slope = variance / tl.maximum(tl.cast(elements, tl.float64), 1.0)
    least = 0.5 * ((u / s) * (u / s))
    exponents += MODELS * population

    if traces is not None:
        loaded = ()
        for i in tl.static_range(MODELS):
            at = i * tl.cast(populations, tl.int64) * particles + row
            loaded += (tl.load(traces + at, mask=exists, other=0.0),)
        trace = loaded
    else:
        length = tl.cast(elements, tl.int64) * count
        sums = _zeros([ROWS, COLUMNS], MODELS)
        for begin in range(0, length, COLUMNS):
            element = begin + tl.arange(0, COLUMNS)[None, :]
            inside = (element < length) & exists[:, None]
            place = row[:, None] * length + element
            probe = tl.load(probes + place, mask=inside, other=0.0).to(tl.float64)
            added = ()
            for i in tl.static_range(MODELS):
                product = tl.load(products[i] + place, mask=inside, other=0.0).to(tl.float64)
                added += (sums[i] + probe * product,)
            sums = added
        means = ()
        for i in tl.static_range(MODELS):
            means += (tl.sum(sums[i], axis=1) / tl.cast(count, tl.float64),)
        trace = means

    total = 0.0
    size = 0.0
    for i in tl.static_range(MODELS):
        a = tl.load(exponents + i)
        total += a
        size += tl.abs(a)
    mean_trace = tl.zeros([ROWS], tl.float64)
    precision = tl.zeros([ROWS], tl.float64)
    volume = tl.zeros([ROWS], tl.float64)
    for i in tl.static_range(MODELS):
        a = tl.load(exponents + i)
        kappa = _curvature(trace[i], slope, least, LARGEST)
        mean_trace += tl.abs(a) * trace[i]
        precision += a / kappa
        volume += a * tl.log(kappa)
    # where the product of the reversals would be more than twice as wide as the step, one curvature serves all
    mean_trace = trace[0] if MODELS == 1 else mean_trace / size
    common = _curvature(mean_trace, slope, least, LARGEST)
    shared = (precision < 0.5 * total) | (MODELS == 1)
    volume = tl.where(shared, (total - 1.0) * tl.log(common), volume + tl.log(precision / total))
    precision = tl.where(shared, total / common, precision)
    weights = ()
    shares = ()
    for i in tl.static_range(MODELS):
        kappa = _curvature(trace[i], slope, least, LARGEST)
        weight = tl.load(exponents + i) / tl.where(shared, common, kappa)
        weights += (weight,)
        shares += (weight / precision,)

    # sum_i b_i |s_i - m|² is sum_i b_i |s_i|² - P |m|² without its cancellation
    spread = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        element = begin + tl.arange(0, COLUMNS)[None, :]
        inside = (element < elements) & exists[:, None]
        place = row[:, None] * elements + element
        values = ()
        mean = tl.zeros([ROWS, COLUMNS], tl.float64)
        for i in tl.static_range(MODELS):
            score = tl.load(scores[i] + place, mask=inside, other=0.0).to(tl.float64)
            mean += shares[i][:, None] * score
            values += (score,)
        for i in tl.static_range(MODELS):
            gap = values[i] - mean
            spread += weights[i][:, None] * (gap * gap)
    gain = -0.5 * variance * tl.sum(spread, axis=1)
    # the bound of MOST_GAIN in the reference
    gain = tl.where(gain > 0, gain / (1.0 + gain / 3.0), gain)
    value = -0.5 * tl.cast(elements, tl.float64) * volume + gain
    tl.store(log_weights + row, value, mask=exists)
    table = coefficients + (MODELS + 2) * row
    for i in tl.static_range(MODELS):
        tl.store(table + i, variance * shares[i], mask=exists)
    tl.store(table + MODELS, variance / precision, mask=exists)
    tl.store(table + MODELS + 1, tl.zeros([ROWS], tl.float64) + variance / total, mask=exists)


def reversal(
    scores: Sequence[Tensor],
    exponents: Tensor,
    levels: Tensor,
    traces: Tensor | None,
    products: Sequence[Tensor],
    probes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `edmfast.ops.reversal.reference.reversal`."""
    populations, particles, elements = scores[0].shape
    models, count = len(scores), 1 if probes is None else probes.shape[2]
    shape = (populations, particles)
    coefficients = scores[0].new_empty((*shape, models + 2), dtype=torch.float64)
    log_weights = scores[0].new_empty(shape, dtype=torch.float64)
    if log_weights.numel() == 0:
        return coefficients, log_weights
    rows, columns, warps = tiling(particles, max(1, elements * count))
    with on_device_of(scores[0]):
        reversal_kernel[(populations * triton.cdiv(particles, rows),)](
            tuple(score.contiguous() for score in scores),
            exponents.contiguous(),
            levels.contiguous(),
            None if traces is None else traces.contiguous(),
            tuple(product.contiguous() for product in products),
            None if probes is None else probes.contiguous(),
            coefficients,
            log_weights,
            populations,
            particles,
            elements,
            count,
            LARGEST=LARGEST,
            MODELS=models,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    return coefficients, log_weights
