"""Resampling schemes in exact integers in plain torch, with the bits of the compiled kernels.

The weights are the integers q of `edmfast.ops.systematic_resample.reference` with exclusive prefix sums c and
total W; M slots are filled. The uniforms of slot k come from the counter (0, step, k, stream 3 | population):
words a, b make u_k, and words c, d make v_k, both 64-bit fractions of 53 random bits.

systematic   first slot of particle i = ceil(c_i M/W - u_0)
stratified   the same, with the u_k of the slot k that it falls into
multinomial  slot k takes the particle that holds t_k = floor(U_(k) W); the sorted uniforms U_(k) = S_k/S_M are
             ratios of sums of exponentials, which are integers too (50 bits of U)
residual     floor(M q_i/W) offspring each, the rest multinomial on the remainders
killing      particle i survives where u_i q_max < q_i; else one draw, by v_i, replaces it
ssp          pairs of remainders move towards 0 and W until none is left (Srinivasan's sampling process)

Sources: see `edmfast.ops.resample`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops.noise.reference import negative_log, philox
from edmfast.ops.systematic_resample.reference import (
    divide,
    exclusive,
    from_first_slots,
    high_product,
    weigh,
)

SCHEMES = ("systematic", "stratified", "multinomial", "residual", "killing", "ssp")
_STREAM = 3
_UNIFORM_BITS = 50


def _words(rng: Tensor, populations: int, slots: int, first_population: int) -> tuple[Tensor, ...]:
    """Return the four 32-bit words of each slot, [P, slots] each, in int64."""
    population = torch.arange(first_population, first_population + populations, device=rng.device)
    word = ((_STREAM << 28) | population)[:, None] & 0xFFFFFFFF
    slot = torch.arange(slots, device=rng.device)
    zero = torch.zeros_like(word + slot)
    return philox((zero, zero + (rng[1] & 0xFFFFFFFF), zero + slot, zero + word), rng[0])


def _fraction(high: Tensor, low: Tensor) -> Tensor:
    """Return two words as a 64-bit fraction of 53 bits, the pattern of an unsigned number."""
    return ((high << 32) | low) & ~0x7FF


def _sorted_points(bits: Tensor, draws: Tensor, total: Tensor) -> Tensor:
    """Return sorted floor(U_(k) W), [P, slots - 1]; those from number draws [P, 1] on have no meaning."""
    size = bits.shape[1]
    exponential = negative_log((bits >> 1).float() * 4.656612873e-10 + 2.328306437e-10)
    # the sums of so many exponentials must stay below 2^62
    length = (size - 1).bit_length()
    sums = (exponential.double() * 2.0 ** (56 - length)).long().cumsum(1)
    whole = sums.gather(1, draws)
    # sums beyond the last draw have no meaning, but they must not overflow the division
    share, _ = divide(torch.minimum(sums[:, :-1], whole), 1 << _UNIFORM_BITS, whole)
    # a share of exactly 1 would lie beyond the last particle
    share = share.clamp(max=(1 << _UNIFORM_BITS) - 1)
    return high_product(share << (64 - _UNIFORM_BITS), total)


def _counts(q: Tensor, points: Tensor, draws: Tensor) -> Tensor:
    """Return how many of the first `draws` points fall to each particle, [P, N]."""
    holder = torch.searchsorted(q.cumsum(1), points, right=True).clamp(max=q.shape[1] - 1)
    meant = (torch.arange(points.shape[1], device=q.device) < draws).long()
    return torch.zeros_like(q).scatter_add_(1, holder, meant)


def _ssp(q: list[int], total: int, count: int, fractions: list[int]) -> list[int]:
    """Return the offspring of each particle of one population."""
    # Python integers do not overflow, while count · weight may exceed 64 bits
    offspring = [count * weight // total for weight in q]
    rest = [count * weight % total for weight in q]
    open_ = 0
    for other in range(1, len(q)):
        p, r = rest[open_], rest[other]
        if p == 0:
            open_ = other
            continue
        up, down = min(total - p, r), min(p, total - r)
        if (fractions[other] * (up + down)) >> 64 < down:
            p, r = p + up, r - up
        else:
            p, r = p - down, r + down
        offspring[other] += r == total
        if p in (0, total):
            offspring[open_] += p == total
            rest[other] = r % total
            open_ = other
        else:
            rest[open_] = p
    return offspring


def _ssp_ancestors(q: Tensor, total: Tensor, count: int, fraction: Tensor) -> Tensor:
    """Return the ancestors [P, count] of the ssp scheme."""
    rows = [
        # the fractions are unsigned patterns, which tolist() reads as signed
        _ssp(weights, whole, count, [value % 2**64 for value in fractions])
        for weights, (whole,), fractions in zip(
            q.tolist(), total.tolist(), fraction.tolist(), strict=True
        )
    ]
    offspring = torch.tensor(rows, dtype=torch.int64, device=q.device).reshape(q.shape)
    return from_first_slots(exclusive(offspring)[:, :-1], count)


def _ancestors(scheme: str, q: Tensor, rng: Tensor, count: int, first_population: int) -> Tensor:
    """Return the ancestors [P, count] of a scheme, for integer weights q [P, N]."""
    populations, particles = q.shape
    prefix = exclusive(q)
    total = prefix[:, -1:]
    # one slot more than offspring: sorted uniforms need the sum of all exponentials, and the last
    # prefix sum falls into slot number `count`
    slots = {"killing": particles, "ssp": particles}.get(scheme, count + 1)
    a, b, c, d = _words(rng, populations, slots, first_population)
    if scheme in ("systematic", "stratified"):
        slot, remainder = divide(prefix, count, total)
        threshold = high_product(_fraction(a, b), total)
        chosen = slot if scheme == "stratified" else torch.zeros_like(slot)
        first = slot + (remainder > threshold.gather(1, chosen)).long()
        return from_first_slots(first[:, :-1], count)
    if scheme == "killing":
        survives = high_product(_fraction(a, b), q.amax(1, keepdim=True)) < q
        points = high_product(_fraction(c, d), total)
        drawn = torch.searchsorted(prefix[:, 1:].contiguous(), points, right=True)
        return torch.where(survives, torch.arange(particles, device=q.device), drawn)
    if scheme == "ssp":
        return _ssp_ancestors(q, total, count, _fraction(a, b))
    draws = torch.full_like(total, count)
    offspring = torch.zeros_like(q)
    if scheme == "residual":
        offspring, rest = divide(q, count, total)
        draws = count - offspring.sum(1, keepdim=True)
        # the remainders sum to draws·W, which stays below 2^62 without their last bits
        q = rest >> torch.frexp(draws.double()).exponent.long()
        total = q.sum(1, keepdim=True)
    points = _sorted_points(a, draws, total)
    offspring = offspring + _counts(q, points, draws)
    return from_first_slots(exclusive(offspring)[:, :-1], count)


def resample(
    log_weights: Tensor,
    rng: Tensor,
    count: int,
    ess_threshold: float,
    scheme: int,
    first_population: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `edmfast.ops.resample`; `scheme` is an index into SCHEMES."""
    particles = log_weights.shape[1]
    weights = weigh(log_weights)
    small = weights.ess < ess_threshold * particles
    resampled = (small | (count != particles)) & ~weights.collapsed
    # where all weights are zero, offspring are spread evenly
    spread = torch.arange(count, device=log_weights.device) * particles // count
    chosen = _ancestors(SCHEMES[scheme], weights.q, rng, count, first_population)
    ancestors = torch.where(resampled[:, None], chosen, spread).int()
    return ancestors, weights.log_mean, weights.ess, resampled, weights.degenerate
