"""Populations whose particles are spread over ranks: their weights and ancestors have the bits of one process.

Rank r of W holds particles and slots r n to (r + 1) n - 1 of each population of N = W n. At each level the ranks
exchange the largest log-weight, sums of integer weights and of their squares, and counts, never the weights
themselves. These add up to the integers of one rank, so that ancestors, log-weights, log Z, effective sizes and
roots have its bits (see `edmfast.ops.systematic_resample.reference`). The uniform comes from the counter
(seed, step, population), which all ranks know. States move at the beginning of the next step, each once to every
rank where it has offspring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops import Weights
from edmfast.ops._shared.sums import population_mean, population_sum
from edmfast.ops.noise.reference import uniform
from edmfast.ops.systematic_resample import reference as integers
from edmfast.ops.weigh.reference import accumulate
from edmfast.smc.distributed.ranks import Ranks, pack, unpack
from edmfast.smc.populations.local import Increments, Populations
from edmfast.smc.populations.particle_state import ParticleState

_TRAVELLING = ("x", "energy", "score", "kernel", "memory")


class SharedPopulations(Populations):
    """P populations of `particles` particles in all, of which this rank holds an equal share.

    Raises ValueError where the particles do not divide by the ranks.
    """

    whole = False

    def __init__(self, ranks: Ranks, particles: int, first_population: int = 0) -> None:
        super().__init__(first_population)
        if particles % ranks.size:
            raise ValueError(
                f"split='particles' needs particles divisible by the {ranks.size} ranks, got {particles}"
            )
        self.ranks, self.all = ranks, particles
        self.held = particles // ranks.size
        self.first_particle = ranks.rank * self.held

    def mean(self, values: Tensor) -> Tensor:
        return population_mean(self._gathered(values))

    def any(self, flags: Tensor) -> Tensor:
        return self._gathered(flags).any(1)

    def _gathered(self, values: Tensor) -> Tensor:
        """Return values [P, N] of all ranks from those [P, n] of this rank.

        Sums whose bits depend on their order need them; 8 bytes a particle travel.
        """
        return torch.cat(self.ranks.everywhere(values), 1)

    def start(self, populations: int, particles: int, device: torch.device) -> Weights:
        # Roots are counted over all ranks.
        weights = super().start(populations, particles, device)
        survivors = torch.full_like(weights.survivors, self.all)
        return weights._replace(root=weights.root + self.first_particle, survivors=survivors)

    def weigh_and_resample(
        self,
        before: Weights,
        increments: Increments,
        rng: Tensor,
        *,
        weigh: bool,
        ess_threshold: float,
    ) -> Weights:
        """Return this rank's share of the weights, with ancestors and roots counted over all ranks.

        The ancestors of `before` must be on this rank, as `collect` leaves them. increment_sd may differ by
        rounding from that of one process. Reads on the host whether any population is resampled.
        """
        log_weights, gains = accumulate(
            before.log_weights,
            before.ancestors,
            before.resampled,
            increments.log_ratio,
            increments.energies,
            increments.energies_before,
            None,
            weigh,
        )
        maximum, nan, spread = self._summits(log_weights, gains)
        # Integers have one sum in any order, so the ranks get the bits of one process.
        q = integers.quantise(log_weights, maximum, integers.fraction_bits(self.all))
        totals, squares, increment_sd = self._sums(q, spread)
        total = totals.sum(0)
        ess = integers.effective_size(maximum, total, squares)
        log_mean = integers.log_mean_weight(maximum, total, self.all)
        # A population without any weight has no ancestors to choose from.
        resampled = (ess < ess_threshold * self.all) & (maximum != -torch.inf)
        identity = torch.arange(self.held, device=q.device) + self.first_particle
        ancestors, root, survivors = identity.expand_as(q), before.root.long(), before.survivors
        if ess_threshold > 0 and bool(resampled.any()):
            point = uniform(rng, len(q), self.first_population)
            # Slots are counted over all ranks, and the weights of the ranks before come first.
            prefix = integers.exclusive(q) + totals[: self.ranks.rank].sum(0)[:, None]
            slots = integers.first_slots(prefix, self.all, total[:, None], point)
            chosen = self._offspring(slots, resampled, root)
            ancestors, root = (
                torch.where(resampled[:, None], new, old)
                for new, old in zip(chosen, (ancestors, root), strict=True)
            )
            survivors = self._survivors(root.int())
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
            survivors=survivors,
        )

    def _summits(
        self, log_weights: Tensor, gains: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return the largest log-weight [P], whether any is NaN [P], and what the spread of increments needs.

        The last is (sum of squares of this rank's centred increments [P], number of finite ones of all ranks [P]).
        """
        finite = gains.isfinite()
        mine = [
            integers.top_weight(log_weights),
            log_weights.isnan().any(1).double(),
            population_sum(finite.double()),
            population_sum(torch.where(finite, gains, 0.0)),
        ]
        maximum, nan, count, sums = torch.stack(self.ranks.everywhere(torch.stack(mine)), 2)
        number = population_sum(count)
        mean = population_sum(sums) / number
        centred = torch.where(finite, gains - mean[:, None], 0.0)
        return maximum.amax(1), nan.amax(1) > 0, (population_sum(centred.square()), number)

    def _sums(self, q: Tensor, spread: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights [W, P] of the ranks, parts of the sum of squares [4, P], and sd of increments [P]."""
        # The bits of a float64 travel among the integers, which saves an exchange.
        mine = [q.sum(1)[None], integers.square_parts(q), spread[0].view(torch.int64)[None]]
        gathered = torch.stack(self.ranks.everywhere(torch.cat(mine)))
        centred = gathered[:, 5].T.contiguous().view(torch.float64)
        increment_sd = (population_sum(centred) / spread[1]).sqrt()
        return gathered[:, 0], gathered[:, 1:5].sum(0), increment_sd

    def _offspring(self, slots: Tensor, resampled: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ancestors and roots [P, n] of this rank's slots.

        slots [P, n + 1]: the first slot of each of this rank's particles, over all ranks. Every particle informs
        the ranks where it has offspring of the slot from which on it has them.
        """
        begin, end = slots[:, :-1], slots[:, 1:]
        lowest, highest = begin // self.held, (end - 1) // self.held
        has_offspring = resampled[:, None] & (end > begin)
        copies = torch.where(has_offspring, highest - lowest + 1, 0).flatten()
        row = torch.repeat_interleave(copies)
        nth = torch.arange(len(row), device=row.device) - (copies.cumsum(0) - copies)[row]
        rank = lowest.flatten()[row] + nth
        # The offspring of a particle may begin on an earlier rank.
        slot = torch.maximum(begin.flatten()[row] - rank * self.held, torch.zeros_like(rank))
        place = row // self.held * self.held + slot
        messages = torch.stack(
            [place, row % self.held + self.first_particle, root.flatten()[row]], 1
        )
        rank, order = rank.sort(stable=True)
        received, _ = self.ranks.exchange(messages[order], self._counts(rank))
        # a slot without a message takes what the slot before it takes: both numbers are sorted
        filled = received.new_zeros((2, root.numel()))
        filled[:, received[:, 0]] = received[:, 1:].T
        ancestors, roots = filled.view(2, *root.shape).cummax(2).values
        return ancestors, roots

    def collect(self, state: ParticleState) -> ParticleState:
        """Return the particles that this rank's slots take, in their order, so that ancestors are the identity.

        Reads on the host whether any population was resampled: if none was, nothing travels.
        """
        weights = state.weights
        local = weights.ancestors - self.first_particle
        if not bool(weights.resampled.any()):
            return state._replace(weights=weights._replace(ancestors=local))
        tensors = {
            name: value for name in _TRAVELLING if (value := getattr(state, name)).numel() > 0
        }
        by_model = state.score.dim() > state.x.dim()  # [M, P, n, *shape]
        if by_model:
            tensors["score"] = tensors["score"].movedim(0, 2)
        brought = self.bring(weights.ancestors, [*tensors.values()])
        collected = dict(zip(tensors, brought, strict=True))
        if by_model:
            collected["score"] = collected["score"].movedim(2, 0)
        identity = torch.arange(self.held, dtype=torch.int32, device=local.device).expand_as(local)
        weights = weights._replace(ancestors=identity.contiguous())
        return state._replace(weights=weights, **collected)

    def bring(self, ancestors: Tensor, tensors: list[Tensor]) -> list[Tensor]:
        """Return the rows of tensors [P, n, ...] that the slots of this rank take, in their order.

        ancestors: int32 [P, n], counted over all ranks. A row travels once to every rank that needs it.
        """
        index = ancestors.long()
        rows = index.numel()
        first = torch.arange(len(index), device=index.device)[:, None] * self.held
        place = first + index % self.held
        requests = (index // self.held * rows + place).flatten()
        needed, inverse = torch.unique(requests, return_inverse=True)
        counts = self._counts(needed // rows)
        requested, due = self.ranks.exchange(needed % rows, counts)
        sent = pack([tensor.flatten(0, 1)[requested] for tensor in tensors])
        received, _ = self.ranks.exchange(sent, due, counts)
        unpacked = unpack(received[inverse], [tensor.flatten(0, 1) for tensor in tensors])
        return [part.reshape(tensor.shape) for part, tensor in zip(unpacked, tensors, strict=True)]

    def _survivors(self, root: Tensor) -> Tensor:
        """Return the number of different roots of all ranks, int64 [P]; root: int32 [P, n], sorted."""
        changes = (root[:, 1:] != root[:, :-1]).sum(1).int()
        ends = torch.stack([root[:, 0], root[:, -1], changes])
        gathered = torch.stack(self.ranks.everywhere(ends))
        # A root may be the last on one rank and the first on the next.
        between = (gathered[1:, 0] != gathered[:-1, 1]).sum(0)
        return 1 + gathered[:, 2].sum(0) + between

    def _counts(self, sorted_ranks: Tensor) -> Tensor:
        bounds = torch.arange(self.ranks.size + 1, device=sorted_ranks.device)
        return torch.searchsorted(sorted_ranks, bounds).diff()
