"""A run spread over the ranks of a process group, with the bits of one process.

With split="populations" every rank runs a share of the populations, and nothing is sent on the way. With
split="particles" every rank holds N/ranks particles of each population (see
`edmfast.smc.distributed.shared_population`). The state or the result of a run is the concatenation of what the
ranks hold, so a checkpoint does not depend on their number: it is that of one process, and a run may go on with
any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.rows import for_rows
from edmfast.ops import Weights
from edmfast.smc.checkpoint.file import load_state, save_state
from edmfast.smc.distributed.ranks import Ranks
from edmfast.smc.distributed.shared_population import SharedPopulations
from edmfast.smc.options import Distribution
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.local import Populations
from edmfast.smc.state import State, state_of, tensors_of

Axes = dict[str, int | None]
"""The dimension along which each tensor is split over ranks; None where every rank has the whole tensor."""
_TRACES: Axes = dict.fromkeys(("ess", "resampled", "log_weight_sd", "survivors"), None)
_PARTICLES: Axes = dict.fromkeys(("x", "energy", "score", "kernel", "memory"), 1)
_WEIGHTS: Axes = {f"weights.{name}": None for name in Weights._fields}
_WEIGHTS |= {f"weights.{name}": 1 for name in ("log_weights", "root", "ancestors")}
_RESULT: Axes = dict.fromkeys(("log_z", "unique_ancestors", "degenerate"), None)
# these are for split="particles"; for populations the dimension is that of P
_STATE_AXES: Axes = {**_PARTICLES, **_WEIGHTS, **_TRACES, "ancestors": 2}
_STATE_AXES |= dict.fromkeys(("tuning", "parents", "acceptance"), None)  # correctors are not split
_RESULT_AXES: Axes = {**_RESULT, **_TRACES, "x": 1, "log_weights": 1, "log_densities": 1}
_RESULT_AXES |= {"sigmas": None, "ancestors": 2, "acceptance": None}


class Share:
    """The share of one rank in a run of P populations of N particles.

    held: the populations as this rank holds them. populations, particles: how many of each this rank has.

    Raises ValueError for fewer populations than ranks, for particles that do not divide by the ranks, and for
    resampling or gathering that a split does not have.
    """

    def __init__(
        self,
        distribution: Distribution,
        populations: int,
        particles: int,
        device: torch.device,
        resampling: str,
    ) -> None:
        assert distribution.group is not None
        self.ranks, self.device = Ranks(distribution.group, device), device
        self.distribution, self.whole = distribution, (populations, particles)
        rank, size = self.ranks.rank, self.ranks.size
        first_population = distribution.first_population
        self.held: Populations
        self.by_particles = distribution.split == "particles"
        if self.by_particles:
            shared = SharedPopulations(self.ranks, particles, first_population)
            self.populations, self.particles = populations, shared.held
            self.before, self.sizes = shared.first_particle, [shared.held] * size
            self.held = shared
            return
        if populations < size:
            raise ValueError(
                f"split='populations' needs a population for each of the {size} ranks, got {populations}"
            )
        self.sizes = [populations // size + (r < populations % size) for r in range(size)]
        self.before = sum(self.sizes[:rank])
        self.populations, self.particles = self.sizes[rank], particles
        # A population keeps its number in the noise on whatever rank it runs.
        self.held = Populations(first_population + self.before, resampling)

    def check_options(self, resampling: str, *, compiled: bool, corrected: bool) -> None:
        """Raise ValueError for options that split="particles" does not have."""
        if not self.by_particles:
            return
        if corrected:
            raise ValueError(
                "split='particles' has no correctors: they go with split='populations'"
            )
        if resampling != "systematic":
            raise ValueError(f"split='particles' resamples systematically, got {resampling!r}")
        if compiled:
            raise ValueError(
                "split='particles' does not compile: compile=True goes with populations"
            )
        if not self.distribution.gather:
            raise ValueError(
                "gather=False goes with split='populations': a part of a population has no weights of its own"
            )

    @property
    def speaks(self) -> bool:
        """True on the rank that shows progress, warns and writes."""
        return self.ranks.rank == 0

    def cut(self, target: Any) -> Any:
        """Return the target with the conditions and exponents of this rank's particles.

        Raises ValueError for a condition of every particle where several populations are split.
        """
        populations, particles = self.whole
        if not self.by_particles:
            stop = self.before + self.populations
            try:
                return for_rows(target, self.before, stop, populations)
            except ValueError:  # a condition for every particle
                rows = populations * particles
                return for_rows(target, self.before * particles, stop * particles, rows)
        try:
            for_rows(target, 0, populations, populations)
        except ValueError as error:
            if populations > 1:
                raise ValueError(
                    "split='particles' takes one condition per population, or a single population"
                ) from error
            return for_rows(target, self.before, self.before + self.particles, particles)
        return target

    def agree(self, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError, on all ranks, where they were called with different arguments."""
        named = {**arguments, "split": self.distribution.split}
        # digests keep the exchange small, whatever the arguments are
        digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value in named.values()]
        # Seven bytes fit a signed 64-bit integer.
        numbers = [int.from_bytes(digest[:7], "little") for digest in digests]
        gathered = self.ranks.everywhere(torch.tensor(numbers, device=self.device))
        same = torch.stack(gathered).eq(gathered[0]).all(0).tolist()
        if not all(same):
            differing = [name for name, equal in zip(named, same, strict=True) if not equal]
            raise ValueError(f"the ranks of the group differ in {', '.join(differing)}")

    def save(self, path: str | os.PathLike[str], state: State, run: dict[str, Any]) -> None:
        """Write the whole state on rank 0; all ranks must call."""
        whole = self._joined(tensors_of(state), self._axes_of_state(state), to_all=False)
        if whole is not None:
            save_state(path, state_of(state.index, whole), run)

    def load(self, path: str | os.PathLike[str], run: dict[str, Any]) -> State:
        """Return this rank's part of the whole state, which every rank reads.

        Raises RuntimeError where another rank could not read it, or read another file.
        """
        # a rank that fails must still take part in the exchange, or the others would wait for it
        failure, index, state = None, -1, None
        try:
            state = load_state(path, run, torch.device("cpu"))
            index = state.index
        except (OSError, ValueError) as error:
            failure = error
        gathered = self.ranks.everywhere(torch.tensor([index], device=self.device))
        steps = torch.cat(gathered).tolist()
        if failure is not None:
            raise failure
        if min(steps) != max(steps):
            raise RuntimeError(f"not all ranks could read one {path}: they are at steps {steps}")
        assert state is not None
        axes, size = self._axes_of_state(state), self.sizes[self.ranks.rank]
        parts = {}
        for name, tensor in tensors_of(state).items():
            axis = axes[name]
            part = tensor if axis is None else tensor.narrow(axis, self.before, size)
            parts[name] = part.contiguous().to(self.device)
        return state_of(index, parts)

    def complete(self, result: Particles) -> Particles:
        """Return the result of all ranks, on every rank."""
        tensors = {name: value for name, value in vars(result).items() if isinstance(value, Tensor)}
        whole = self._joined(tensors, self._axes(_RESULT_AXES), to_all=True)
        assert whole is not None
        fields: dict[str, Any] = dict(whole)
        return replace(result, first_population=self.distribution.first_population, **fields)

    def _axes(self, table: Axes) -> Axes:
        if self.by_particles:
            return dict(table)
        by_level = (*_TRACES, "ancestors")
        axes: Axes = {name: int(name in by_level) for name in table}
        axes |= {name: 2 for name in ("tuning", "acceptance") if name in table}
        return axes | {"sigmas": None}

    def _axes_of_state(self, state: State) -> Axes:
        axes, particles = self._axes(_STATE_AXES), state.particles
        if particles.score.dim() > particles.x.dim():  # [M, P, N, *shape]
            axes["score"] = 2 if self.by_particles else 1
        if particles.kernel.dim() == 1:  # the next move needs no numbers
            axes["kernel"] = None
        if particles.parents.dim() == 1:  # no correctors, or none at this level
            axes["parents"] = None
        return axes

    def _joined(
        self, tensors: dict[str, Tensor], axes: Axes, *, to_all: bool
    ) -> dict[str, Tensor] | None:
        whole = {}
        for name, tensor in tensors.items():
            axis = axes[name]
            joined: Tensor | None = tensor
            if axis is not None:
                joined = self.ranks.joined(tensor, axis, self.sizes, to_all=to_all)
            if joined is not None:
                whole[name] = joined
        return whole if to_all or self.speaks else None
