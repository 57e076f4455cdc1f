"""A run spread over the ranks of a process group, with the bits of one process.

split="populations": every rank runs a share of the populations and nothing is sent on the way. split="particles":
every rank holds N/ranks particles of each population (see `edmfast.smc.distributed.shared_population`).
What is in a state
or a result is the concatenation of what the ranks hold, so that a checkpoint says nothing of their number: it is
that of one process, and a run may go on with any.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edmfast._internal.rows import for_rows
from edmfast.ops import Weights
from edmfast.smc.distributed.ranks import Ranks
from edmfast.smc.distributed.shared_population import SharedPopulations
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.local import Populations
from edmfast.smc.state import State, load_state, save_state, state_of, tensors_of

SPLITS = ("populations", "particles")
Axes = dict[
    str, int | None
]  # along which a tensor is a part of the whole; None where every rank has it
_TRACES: Axes = dict.fromkeys(("ess", "resampled", "log_weight_sd", "survivors"), None)
_PARTICLES: Axes = dict.fromkeys(("x", "energy", "score", "curvature", "memory"), 1)
_WEIGHTS: Axes = {f"weights.{name}": None for name in Weights._fields}
_WEIGHTS |= {f"weights.{name}": 1 for name in ("log_weights", "root", "ancestors")}
_RESULT: Axes = dict.fromkeys(("log_z", "unique_ancestors", "degenerate"), None)
# split="particles"; for populations it is the dimension of P
_STATE_AXES: Axes = {**_PARTICLES, **_WEIGHTS, **_TRACES, "ancestors": 2}
_STATE_AXES |= dict.fromkeys(("tuning", "parents", "acceptance"), None)  # of correctors: not split
_RESULT_AXES: Axes = {**_RESULT, **_TRACES, "x": 1, "log_weights": 1, "log_densities": 1}
_RESULT_AXES |= {"sigmas": None, "ancestors": 2, "acceptance": None}


class Share:
    """What one rank does of a run of P populations of N particles; all of it without a group."""

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        split: str,
        populations: int,
        particles: int,
        device: torch.device,
        first_population: int = 0,
        resampling: str = "systematic",
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        self.ranks = None if group is None else Ranks(group, device)
        self.split, self.of, self.device = split, (populations, particles), device
        self.populations, self.particles, self.before = populations, particles, 0
        self.shared: SharedPopulations | None = None
        self.sizes: list[int] = []
        self.held = Populations(first_population, resampling)
        if self.ranks is None:
            return
        rank, size = self.ranks.rank, self.ranks.size
        if split == "particles":
            self.held = self.shared = SharedPopulations(self.ranks, particles, first_population)
            self.particles, self.before = self.shared.held, self.shared.first_particle
            self.sizes = [self.particles] * size
            return
        if populations < size:
            raise ValueError(
                f"split='populations' needs a population for each of the {size} ranks, got {populations}"
            )
        self.sizes = [populations // size + (r < populations % size) for r in range(size)]
        self.populations, self.before = self.sizes[rank], sum(self.sizes[:rank])
        self.held = Populations(first_population + self.before, resampling)

    @property
    def speaks(self) -> bool:
        """Whether this rank shows progress, warns and writes."""
        return self.ranks is None or self.ranks.rank == 0

    @property
    def first_population(self) -> int:
        """Of the run's, this rank's first."""
        return self.before if self.shared is None else 0

    def cut(self, target: Any) -> Any:
        """The target with the conditions and exponents of this rank's particles.

        Raises ValueError for a condition of every particle where several populations are split."""
        populations, particles = self.of
        if self.ranks is None or target is None:
            return target
        if self.shared is None:
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

    def agree(self, run: dict[str, Any]) -> None:
        """ValueError, on all ranks, where they were called with different arguments."""
        if self.ranks is None:
            return
        run = {**run, "split": self.split}
        digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value in run.values()]
        numbers = [int.from_bytes(digest[:7], "little") for digest in digests]
        told = self.ranks.everywhere(torch.tensor(numbers, device=self.device))
        same = torch.stack(told).eq(told[0]).all(0).tolist()
        if not all(same):
            differing = [name for name, one in zip(run, same, strict=True) if not one]
            raise ValueError(f"the ranks of the group differ in {', '.join(differing)}")

    def save(self, path: str | os.PathLike[str], state: State, run: dict[str, Any]) -> None:
        """Rank 0 writes the whole state; all ranks must call."""
        if self.ranks is None:
            save_state(path, state, run)
            return
        whole = self._joined(tensors_of(state), self._axes_of_state(state), to_all=False)
        if whole is not None:
            save_state(path, state_of(state.index, whole), run)

    def load(self, path: str | os.PathLike[str], run: dict[str, Any]) -> State:
        """This rank's part of the whole state, which every rank reads. RuntimeError where another rank could
        not, or read another file."""
        if self.ranks is None:
            return load_state(path, run, self.device)
        failure, index, state = None, -1, None
        try:
            state = load_state(path, run, torch.device("cpu"))
            index = state.index
        except (OSError, ValueError) as error:
            failure = error
        told = self.ranks.everywhere(torch.tensor([index], device=self.device))
        found = torch.cat(told).tolist()
        if failure is not None:
            raise failure
        if min(found) != max(found):
            raise RuntimeError(f"not all ranks could read one {path}: they are at steps {found}")
        assert state is not None
        axes, size = self._axes_of_state(state), self.sizes[self.ranks.rank]
        parts = {}
        for name, tensor in tensors_of(state).items():
            axis = axes[name]
            part = tensor if axis is None else tensor.narrow(axis, self.before, size)
            parts[name] = part.contiguous().to(self.device)
        return state_of(index, parts)

    def complete(self, result: Particles) -> Particles:
        """The result of all ranks, on every rank."""
        if self.ranks is None:
            return result
        tensors = {name: value for name, value in vars(result).items() if isinstance(value, Tensor)}
        axes = self._axes(_RESULT_AXES)
        whole = self._joined(tensors, axes, to_all=True)
        assert whole is not None
        fields: dict[str, Any] = dict(whole)
        first = result.first_population - self.first_population
        return replace(result, first_population=first, **fields)

    def _axes(self, table: Axes) -> Axes:
        if self.shared is not None:
            return dict(table)
        by_level = (*_TRACES, "ancestors")
        axes: Axes = {name: int(name in by_level) for name in table}
        axes |= {name: 2 for name in ("tuning", "acceptance") if name in table}
        return axes | {"sigmas": None}

    def _axes_of_state(self, state: State) -> Axes:
        axes, particles = self._axes(_STATE_AXES), state.particles
        if particles.score.dim() > particles.x.dim():  # [M, P, N, *shape]
            axes["score"] = 2 if self.shared is not None else 1
        if particles.curvature.dim() == 1:  # no curvature
            axes["curvature"] = None
        if particles.parents.dim() == 1:  # no correctors, or none at this level
            axes["parents"] = None
        return axes

    def _joined(
        self, tensors: dict[str, Tensor], axes: Axes, *, to_all: bool
    ) -> dict[str, Tensor] | None:
        assert self.ranks is not None
        whole = {}
        for name, tensor in tensors.items():
            axis = axes[name]
            joined: Tensor | None = tensor
            if axis is not None:
                joined = self.ranks.joined(tensor, axis, self.sizes, to_all=to_all)
            if joined is not None:
                whole[name] = joined
        return whole if to_all or self.speaks else None
