"""Populations whose particles are spread over ranks: the weights and the offspring of one population, exactly.

Rank r of W holds particles and slots r n to (r + 1) n - 1 of each population of N = W n. What is said of a level
are its largest log-weight, sums of integer weights and of their squares, and counts, never the weights; they add
up to the integers of one rank, so that ancestors, log-weights, log Z, effective sizes and roots are its bits (see
`edmfast.ops.systematic_resample.reference`).
The uniform comes from the counter (seed, step, population): all ranks know it.
States move at the beginning of the next step, each once to every rank where it has offspring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops import Weights
from edmfast.ops._shared.sums import population_sum
from edmfast.ops.noise.reference import uniform
from edmfast.ops.systematic_resample import reference as integers
from edmfast.ops.weigh.reference import accumulate
from edmfast.smc.distributed.ranks import Ranks, pack, unpack
from edmfast.smc.step import Moving

_OF_PARTICLES = ("x", "energy", "score", "curvature", "memory")


class SharedPopulations:
    """P populations of `particles` particles in all, of which this rank holds an equal share."""

    def __init__(self, ranks: Ranks, particles: int) -> None:
        if particles % ranks.size:
            raise ValueError(
                f"split='particles' needs particles divisible by the {ranks.size} ranks, got {particles}"
            )
        self.ranks, self.all = ranks, particles
        self.held = particles // ranks.size
        self.first_particle = ranks.rank * self.held

    def everywhere(self, values: Tensor) -> Tensor:
        """[P, n] of this rank -> [P, N], for sums whose bits depend on their order (8 bytes a particle)."""
        return torch.cat(self.ranks.everywhere(values), 1)

    def numbered(self, weights: Weights) -> Weights:
        """Equal weights at the start, with roots counted over all ranks."""
        return weights._replace(root=weights.root + self.first_particle)

    def decide(
        self,
        before: Weights,
        ratio: Tensor,
        energies: list[Tensor],
        energies_before: list[Tensor],
        rng: Tensor,
        *,
        weigh: bool,
        ess_threshold: float,
        first_population: int,
    ) -> Weights:
        """As `edmfast.ops.weigh_and_resample` by the systematic scheme, of which this is a share; ancestors
        and roots are counted over all ranks, but those of `before` must be on this rank. increment_sd may
        differ from one rank's by rounding. Reads on the host whether there is anything to resample.
        """
        log_weights, gains = accumulate(
            before.log_weights,
            before.ancestors,
            before.resampled,
            ratio,
            energies,
            energies_before,
            None,
            weigh,
        )
        maximum, nan, spread = self._summits(log_weights, gains)
        q = integers.quantise(log_weights, maximum, integers.fraction_bits(self.all))
        totals, squares, increment_sd = self._sums(q, spread)
        total = totals.sum(0)
        ess = integers.effective_size(maximum, total, squares)
        log_mean = integers.log_mean_weight(maximum, total, self.all)
        resampled = (ess < ess_threshold * self.all) & (maximum != -torch.inf)
        own = torch.arange(self.held, device=q.device) + self.first_particle
        ancestors, root = own.expand_as(q), before.root.long()
        if ess_threshold > 0 and bool(resampled.any()):
            point = uniform(rng, len(q), first_population)
            prefix = integers.exclusive(q) + totals[: self.ranks.rank].sum(0)[:, None]
            slots = integers.first_slots(prefix, self.all, total[:, None], point)
            chosen = self._offspring(slots, resampled, root)
            ancestors, root = (
                torch.where(resampled[:, None], new, old)
                for new, old in zip(chosen, (ancestors, root), strict=True)
            )
        return Weights(
            log_weights=log_weights,
            log_z=before.log_z + torch.where(resampled, log_mean, 0.0),
            ancestors=ancestors.int(),
            root=root.int(),
            ess=ess,
            log_mean=log_mean,
            resampled=resampled,
            degenerate=before.degenerate | integers.flags(nan, maximum),
            increment_sd=increment_sd,
        )

    def _summits(
        self, log_weights: Tensor, gains: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Largest log-weight [P], whether there is a NaN [P], (squares of centred increments [P] of this
        rank, number of finite ones [P] of all)."""
        finite = gains.isfinite()
        told = [
            integers.top_weight(log_weights),
            log_weights.isnan().any(1).double(),
            population_sum(finite.double()),
            population_sum(torch.where(finite, gains, 0.0)),
        ]
        maximum, nan, count, sums = torch.stack(self.ranks.everywhere(torch.stack(told)), 2)
        number = population_sum(count)
        mean = population_sum(sums) / number
        centred = torch.where(finite, gains - mean[:, None], 0.0)
        return maximum.amax(1), nan.amax(1) > 0, (population_sum(centred.square()), number)

    def _sums(self, q: Tensor, spread: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [W, P] of the ranks, parts of the sum of squares [4, P], sd of increments [P]."""
        mine = [q.sum(1)[None], integers.square_parts(q), spread[0].view(torch.int64)[None]]
        told = torch.stack(self.ranks.everywhere(torch.cat(mine)))
        centred = told[:, 5].T.contiguous().view(torch.float64)
        return told[:, 0], told[:, 1:5].sum(0), (population_sum(centred) / spread[1]).sqrt()

    def _offspring(self, slots: Tensor, resampled: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Ancestors and roots [P, n] of this rank's slots from the first slots [P, n + 1] of its particles: each
        tells the ranks where it has offspring from which slot on."""
        begin, end = slots[:, :-1], slots[:, 1:]
        lowest, highest = begin // self.held, (end - 1) // self.held
        here = resampled[:, None] & (end > begin)
        copies = torch.where(here, highest - lowest + 1, 0).flatten()
        row = torch.repeat_interleave(copies)
        nth = torch.arange(len(row), device=row.device) - (copies.cumsum(0) - copies)[row]
        rank = lowest.flatten()[row] + nth
        slot = torch.maximum(begin.flatten()[row] - rank * self.held, torch.zeros_like(rank))
        place = row // self.held * self.held + slot
        told = torch.stack([place, row % self.held + self.first_particle, root.flatten()[row]], 1)
        rank, order = rank.sort(stable=True)
        found, _ = self.ranks.exchange(told[order], self._counts(rank))
        # a slot that was not told of takes what the one before it takes: both numbers are sorted
        filled = found.new_zeros((2, root.numel()))
        filled[:, found[:, 0]] = found[:, 1:].T
        ancestors, roots = filled.view(2, *root.shape).cummax(2).values
        return ancestors, roots

    def arrive(self, moving: Moving) -> Moving:
        """The particles that this rank's slots take, in their order, so that ancestors are the identity. Reads
        on the host whether any population was resampled: else nothing moves."""
        weights = moving.weights
        local = weights.ancestors - self.first_particle
        if not bool(weights.resampled.any()):
            return moving._replace(weights=weights._replace(ancestors=local))
        tensors = {
            name: value for name in _OF_PARTICLES if (value := getattr(moving, name)).numel() > 0
        }
        by_model = moving.score.dim() > moving.x.dim()  # [M, P, n, *shape]
        if by_model:
            tensors["score"] = tensors["score"].movedim(0, 2)
        found = dict(zip(tensors, self.bring(weights.ancestors, [*tensors.values()]), strict=True))
        if by_model:
            found["score"] = found["score"].movedim(2, 0)
        identity = torch.arange(self.held, dtype=torch.int32, device=local.device).expand_as(local)
        return moving._replace(weights=weights._replace(ancestors=identity.contiguous()), **found)

    def bring(self, ancestors: Tensor, tensors: list[Tensor]) -> list[Tensor]:
        """The rows of tensors [P, n, ...] that the slots of this rank take, in their order; ancestors
        int32 [P, n], counted over all ranks. A row travels once to every rank that asks for it.
        """
        index = ancestors.long()
        rows = index.numel()
        first = torch.arange(len(index), device=index.device)[:, None] * self.held
        place = first + index % self.held
        wanted, inverse = (index // self.held * rows + place).flatten().unique(return_inverse=True)
        counts = self._counts(wanted // rows)
        asked, due = self.ranks.exchange(wanted % rows, counts)
        sent = pack([tensor.flatten(0, 1)[asked] for tensor in tensors])
        received, _ = self.ranks.exchange(sent, due, counts)
        found = unpack(received[inverse], [tensor.flatten(0, 1) for tensor in tensors])
        return [one.reshape(tensor.shape) for one, tensor in zip(found, tensors, strict=True)]

    def survivors(self, root: Tensor) -> Tensor:
        """Number of different roots [P] of all ranks; root int32 [P, n], sorted."""
        changes = (root[:, 1:] != root[:, :-1]).sum(1).int()
        told = torch.stack(self.ranks.everywhere(torch.stack([root[:, 0], root[:, -1], changes])))
        between = (told[1:, 0] != told[:-1, 1]).sum(0)
        return 1 + told[:, 2].sum(0) + between

    def _counts(self, sorted_ranks: Tensor) -> Tensor:
        bounds = torch.arange(self.ranks.size + 1, device=sorted_ranks.device)
        return torch.searchsorted(sorted_ranks, bounds).diff()
