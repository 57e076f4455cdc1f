"""The result of a run: weighted particles, with draws, estimates, genealogies, a summary and a verdict."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.file_kinds import PICTURE
from edmfast._internal.numbers import as_int, as_seed
from edmfast.ops import rng_state
from edmfast.ops.noise.reference import uniform
from edmfast.plotting import particles_figure
from edmfast.smc.particles import estimates, genealogy, summary
from edmfast.smc.particles.data import ParticleData
from edmfast.smc.particles.equally_weighted import equally_weighted_index
from edmfast.smc.particles.estimates import Estimate
from edmfast.smc.particles.file import read_fields, write_particles
from edmfast.smc.verdict.judge import judge
from edmfast.smc.verdict.verdict import Verdict

_DRAW_STREAM = 6


@dataclass(repr=False, eq=False)
class Particles(ParticleData):
    """The result of `edmfast.smc.sample`: P populations of N weighted particles after T noise levels.

    The fields are those of `ParticleData`. The most important ones are x [P, N, *shape], log_weights float64
    [P, N], log_z float64 [P] in nats, and the traces ess and resampled [T, P].
    """

    def __repr__(self) -> str:
        """Return one line; `summary` has more."""
        return summary.one_line(self)

    @property
    def verdict(self) -> Verdict:
        """A judgement of the weights, with reasons and advice: see `edmfast.smc.verdict.judge`."""
        return judge(self)

    def summary(self) -> str:
        """Return a text of a few lines: the law, log Z, effective sample sizes, ancestors, cost and verdict."""
        return summary.text(self)

    def draw(self, seed: int | None = None) -> Tensor:
        """Return one particle of each population, drawn with its weights: [P, *shape].

        Draws of different populations are independent. seed: by default that of the run.
        """
        index = self.draw_index(seed)
        return self.x[torch.arange(len(self.x), device=self.x.device), index]

    def draw_index(self, seed: int | None = None) -> Tensor:
        """Return the index of the particle of each population that `draw` takes, int64 [P]."""
        key = self.seed if seed is None else as_seed(seed)
        state = rng_state(key, 0, self.x.device)
        # The stream keeps these numbers apart from those that made the run.
        point = uniform(state, len(self.x), self.first_population, stream=_DRAW_STREAM)
        cumulative = self.weights.cumsum(1)
        # the last sum may differ from 1 by rounding, so the point is scaled by it
        index = torch.searchsorted(cumulative, (point * cumulative[:, -1])[:, None], right=True)
        # a point that rounds up to the last sum lies behind all particles
        return index.clamp(max=self.x.shape[1] - 1)[:, 0]

    def samples(self, n: int, seed: int | None = None) -> Tensor:
        """Return n equally weighted samples [n, *shape] of all populations together, in random order.

        Particles are taken by systematic resampling: the number of copies of a particle differs from n times
        its weight by less than one. Populations of one target count by their evidence Z, as in
        `expectation_estimate`. They count alike where each has its own target, or where that is not known.
        Copies of one particle are equal, so n samples are worth fewer independent ones. seed: by default that
        of the run.

        Raises TypeError or ValueError where n is no integer of at least 0.
        """
        n = as_int("n", n, least=0)
        key = self.seed if seed is None else as_seed(seed)
        index = equally_weighted_index(self, n, key, evidence=self.one_target is True)
        return self.x.flatten(0, 1)[index]

    def expectation(self, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the weighted mean of fn in each population, float64 [P, ...].

        fn maps x [P, N, *shape] to [P, N, ...]. Its values at particles of weight zero do not count, so they
        may be infinite or NaN. Raises ValueError where fn returns another shape.
        """
        # fn gets a copy, so that it cannot change the particles
        values = fn(self.x.clone())
        if values.shape[:2] != self.x.shape[:2]:
            raise ValueError(
                f"fn must return [P, N, ...] = [{self.x.shape[0]}, {self.x.shape[1]}, ...], "
                f"got {tuple(values.shape)}"
            )
        weights = unsqueeze_like(self.weights, values)
        # zero times a value that is not finite would be NaN
        return (weights * torch.where(weights > 0, values.double(), 0.0)).sum(1)

    def log_z_estimate(self, *, bias_corrected: bool = False) -> Estimate:
        """Return the log of the mean over populations of Z = exp(log_z), in nats, with its standard error.

        exp(value) is an unbiased estimate, in which collapsed populations count as Z = 0. `log_z_note` says
        what it may be compared with, since the gauge of the energy is in it. The error is the jackknife's over
        populations, and NaN for a single population. bias_corrected: see
        `edmfast.smc.particles.estimates.log_mean_estimate`.

        Raises ValueError where each population has its own condition, exponent or observation.
        """
        self._check_one_target("log_z_estimate", "look at log_z of each population")
        return estimates.log_mean_estimate(self.surviving_log_z(), bias_corrected=bias_corrected)

    def expectation_estimate(
        self, fn: Callable[[Tensor], Tensor], *, pooling: str = "evidence"
    ) -> Estimate:
        """Return the mean of fn over all populations, float64 [...], with its standard error.

        fn: as in `expectation`. pooling: "evidence" weights each population by its Z. That is a ratio of two
        unbiased estimates, whose bias vanishes as populations are added. "equal" keeps the bias of one
        population, but needs no comparable Z. For two modes and 16 particles, "equal" had a bias of -0.026 and
        "evidence" one of -0.001, with a smaller spread too. Collapsed populations count in neither. The
        errors are NaN for a single population.

        Raises ValueError for another pooling, and for "evidence" where each population has its own target, since
        their Z cannot be compared.
        """
        if pooling == "evidence":
            self._check_one_target("pooling='evidence'", "use pooling='equal', or `expectation`")
        means = self.expectation(fn)
        return estimates.pooled_estimate(means, self.surviving_log_z(), pooling=pooling)

    def lineage(self, population: int, particle: int) -> Tensor:
        """Return the index at every level of the ancestor of one final particle, int64 [T].

        This and the next three methods raise ValueError where the run recorded no genealogy, or for an index
        out of range.
        """
        population, particle = as_int("population", population), as_int("particle", particle)
        ancestors = self._recorded_ancestors(population=population, particle=particle)
        return genealogy.lineage(ancestors, population, particle)

    def tree(self) -> Tensor:
        """Return the `lineage` of every final particle, int64 [T, P, N]."""
        return genealogy.lineages(self._recorded_ancestors())

    def descendants(self, level: int, population: int, particle: int) -> Tensor:
        """Return the indices of the final particles that descend from one particle of a level, int64 [k]."""
        level, population = as_int("level", level), as_int("population", population)
        particle = as_int("particle", particle)
        ancestors = self._recorded_ancestors(level=level, population=population, particle=particle)
        return genealogy.descendants(ancestors, level, population, particle)

    def unique_trace(self) -> Tensor:
        """Return how many particles of each level have a descendant among the final ones, int64 [T, P]."""
        return genealogy.unique_trace(self._recorded_ancestors())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write all fields to a safetensors file, whole or not at all.

        A file of particles is replaced. A file of another kind is replaced only with overwrite=True, and raises
        FileExistsError otherwise. Raises ValueError or OSError where the path names no regular file or cannot be
        written.
        """
        write_particles(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Particles:
        """Return the particles that `save` wrote.

        Raises FileNotFoundError without a file, and ValueError for another kind of file or a corrupt one.
        """
        values = read_fields(path)
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold particles: {error}") from error

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Return a matplotlib figure of how the weights behaved against sigma, and of the samples.

        path: a file to save the figure to, in the format of its suffix. Raises ImportError without matplotlib,
        which the `demo` extra installs, and as `save` does for a bad path. See `edmfast.plotting`.
        """
        # a bad path raises before the figure is drawn
        target = None if path is None else check_output(path, PICTURE, overwrite=None)
        figure = particles_figure(self)
        if target is not None:
            # matplotlib would take the suffix of the temporary file for the format.
            kind = target.suffix.removeprefix(".") or "png"
            with replacing(target) as temporary:
                figure.savefig(temporary, dpi=120, format=kind)
        return figure

    def _check_one_target(self, what: str, instead: str) -> None:
        if self.one_target is False:
            raise ValueError(
                f"{what} needs populations of one target, but each population of this run has its own condition, "
                f"exponent or observation: {instead}"
            )

    def _recorded_ancestors(self, **indices: int) -> Tensor:
        """Return the recorded ancestors. Raises ValueError without them, or for an index out of range."""
        if self.ancestors is None:
            raise ValueError(
                "this run recorded no ancestors: pass options=smc.RunOptions(genealogy=True) to smc.sample"
            )
        sizes = dict(zip(("level", "population", "particle"), self.ancestors.shape, strict=True))
        for name, index in indices.items():
            if not 0 <= index < sizes[name]:
                raise ValueError(f"{name} must be in 0..{sizes[name] - 1}, got {index}")
        return self.ancestors
