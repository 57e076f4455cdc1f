"""The result of a run: weighted particles, the log normaliser, and traces of how the weights behaved."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.file_kinds import PARTICLES, PICTURE
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.json_text import shortened
from edmfast._internal.numbers import as_int, as_seed
from edmfast._internal.tensor_checks import FLOATS, TensorSpec, check_tensors
from edmfast.ops import rng_state
from edmfast.ops.noise.reference import uniform
from edmfast.plotting import particles_figure
from edmfast.smc.particles import estimates, genealogy, summary
from edmfast.smc.particles.data import ParticleData
from edmfast.smc.particles.equally_weighted import equally_weighted_index
from edmfast.smc.particles.estimates import Estimate
from edmfast.smc.verdict.judge import Verdict, judge

_DRAW_STREAM = 6
_METADATA = (
    "nfe",
    "seed",
    "law",
    "first_population",
    "evaluations",
    "one_target",
    "log_z_note",
)
_DOUBLE, _COUNTS = (torch.float64,), (torch.int64,)
_HELD = {
    "x": TensorSpec(FLOATS, "PN*"),
    "log_weights": TensorSpec(_DOUBLE, "PN"),
    "log_z": TensorSpec(_DOUBLE, "P"),
    "ess": TensorSpec(_DOUBLE, "TP"),
    "resampled": TensorSpec((torch.bool,), "TP"),
    "log_weight_sd": TensorSpec(_DOUBLE, "TP"),
    "unique_ancestors": TensorSpec(_COUNTS, "P", 0),
    "degenerate": TensorSpec((torch.int32,), "P", 0, 15),
    "sigmas": TensorSpec(_DOUBLE, "S"),
    "survivors": TensorSpec(_COUNTS, "TP", 0),
    "ancestors": TensorSpec((torch.int32,), "TPN", 0, "N"),
    "log_densities": TensorSpec(_DOUBLE, "PNM"),
    "acceptance": TensorSpec(_DOUBLE, "TCP"),
}
"""The checks by `load` of the tensors of a file."""


@dataclass(repr=False, eq=False)
class Particles(ParticleData):
    """The result of `edmfast.smc.sample`: P populations of N weighted particles, estimates and genealogies.

    The fields are those of `ParticleData`.
    """

    def __repr__(self) -> str:
        """One line; `summary` has more."""
        return summary.one_line(self)

    @property
    def verdict(self) -> Verdict:
        """A judgement of the weights, with reasons and advice: see `edmfast.smc.verdict.judge`."""
        return judge(self)

    def summary(self) -> str:
        """Return a text of a few lines: the law, log Z, effective sample sizes, ancestors, cost and verdict."""
        return summary.text(self)

    def draw(self, seed: int | None = None) -> Tensor:
        """One particle per population, drawn with its weights: [P, *shape]. Draws of different
        populations are independent."""
        index = self.draw_index(seed)
        return self.x[torch.arange(len(self.x), device=self.x.device), index]

    def draw_index(self, seed: int | None = None) -> Tensor:
        """int64 [P]: which particle of each population `draw` takes."""
        key = self.seed if seed is None else as_seed(seed)
        state = rng_state(key, 0, self.x.device)
        point = uniform(state, len(self.x), self.first_population, stream=_DRAW_STREAM)
        cumulative = self.weights.cumsum(1)
        index = torch.searchsorted(cumulative, (point * cumulative[:, -1])[:, None], right=True)
        return index.clamp(max=self.x.shape[1] - 1)[:, 0]

    def samples(self, n: int, seed: int | None = None) -> Tensor:
        """Return n equally weighted samples [n, *shape] of all populations together, in random order.

        Particles are taken by systematic resampling, so a particle comes up as often as its weight says, to within
        one. Where all populations have one target they count by their evidence Z, as in `expectation_estimate`;
        where each has a target of its own (or that is not known), they count alike. Copies of one particle are
        equal: n samples are worth fewer independent ones. seed: the run's by default.
        """
        n = as_int("n", n, least=0)
        key = self.seed if seed is None else as_seed(seed)
        index = equally_weighted_index(self, n, key, evidence=self.one_target is True)
        return self.x.flatten(0, 1)[index]

    def expectation(self, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """Weighted mean of fn, which maps x [P, N, *shape] to [P, N, ...]; returns [P, ...].
        Its values at particles of weight zero do not count: they may be infinite or NaN."""
        values = fn(
            self.x.clone()
        )  # a function that changes its input must not change the particles
        if values.shape[:2] != self.x.shape[:2]:
            raise ValueError(
                f"fn must return [P, N, ...] = [{self.x.shape[0]}, {self.x.shape[1]}, ...], "
                f"got {tuple(values.shape)}"
            )
        weights = self.weights.reshape(self.weights.shape + (1,) * (values.dim() - 2))
        # a particle without weight counts for nothing, where fn is not finite as well
        return (weights * torch.where(weights > 0, values.double(), 0.0)).sum(1)

    def log_z_estimate(self, *, bias_corrected: bool = False) -> Estimate:
        """log of the mean over populations of Z = exp(log_z), in nats, with its standard error.

        For populations of one target, as below: ValueError where each has a condition or an exponent of its own.
        `log_z_note` says what it is worth: an energy's gauge is in it. exp(value) is unbiased; collapsed
        populations count as Z = 0. The error is the jackknife's over
        populations: NaN for one population. bias_corrected: see `edmfast.smc.particles.estimates`.
        """
        self._needs_one_target("log_z_estimate", "look at log_z of each population")
        return estimates.log_mean_estimate(self.surviving_log_z(), bias_corrected=bias_corrected)

    def expectation_estimate(
        self, fn: Callable[[Tensor], Tensor], *, pooling: str = "evidence"
    ) -> Estimate:
        """Mean of fn (as in `expectation`) over all populations, [...], with its standard error.

        pooling: "evidence" weights each population by its Z, a ratio of two unbiased estimates, whose bias
        vanishes as populations are added; "equal" keeps the bias of one population (two modes at 16
        particles: -0.026 where evidence has -0.001, with a larger spread too), but needs no comparable Z.
        Collapsed populations count in neither. NaN errors for one population.
        Raises ValueError for "evidence" where populations have targets of their own, whose Z are not comparable.
        """
        if pooling == "evidence":
            self._needs_one_target("pooling='evidence'", "use pooling='equal', or `expectation`")
        means = self.expectation(fn)
        return estimates.pooled_estimate(means, self.surviving_log_z(), pooling=pooling)

    def lineage(self, population: int, particle: int) -> Tensor:
        """int64 [T]: the index at every level of the ancestor of one final particle."""
        population, particle = as_int("population", population), as_int("particle", particle)
        ancestors = self._recorded(population=population, particle=particle)
        return genealogy.lineage(ancestors, population, particle)

    def tree(self) -> Tensor:
        """int64 [T, P, N]: `lineage` of every final particle."""
        return genealogy.lineages(self._recorded())

    def descendants(self, level: int, population: int, particle: int) -> Tensor:
        """int64 [k]: the final particles that descend from one particle of a level, perhaps none."""
        level, population = as_int("level", level), as_int("population", population)
        particle = as_int("particle", particle)
        ancestors = self._recorded(level=level, population=population, particle=particle)
        return genealogy.descendants(ancestors, level, population, particle)

    def unique_trace(self) -> Tensor:
        """int64 [T, P]: how many particles of each level have a descendant among the final ones."""
        return genealogy.unique_trace(self._recorded())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write all of it to a safetensors file, whole or not at all.

        A file of particles is replaced, one of another kind only with overwrite=True: FileExistsError. Raises
        ValueError or OSError where the path names no regular file or cannot be written.
        """
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        numbers = {name: tensors.pop(name) for name in _METADATA}
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        metadata = {"kind": "particles", **numbers}
        write_tensors(path, tensors, metadata, kind=PARTICLES, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Particles:
        """Read what `save` wrote. ValueError for another kind of file or a corrupt one."""
        tensors, metadata = read_tensors(path)
        names = {f.name for f in fields(cls)} - {*_METADATA}
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        held: dict[str, Any] = {n: metadata[n] for n in _METADATA if n in metadata}
        whole = needed <= {*tensors, *held} and set(tensors) <= names
        if metadata.get("kind") != "particles" or not whole:
            raise ValueError(f"{Path(path)} does not hold particles")
        check_tensors(path, tensors, _HELD, {})
        levels, sigmas = len(tensors["ess"]), tensors["sigmas"]
        if len(sigmas) - levels not in (0, 1) or not bool(sigmas.isfinite().all()):
            raise ValueError(f"{path} is corrupt: it has {len(sigmas)} sigmas for {levels} levels")
        for name in ("law", "log_z_note"):
            if not isinstance(held.get(name, ""), str):
                raise ValueError(f"{path} is corrupt: its {name} is {shortened(held[name])}")
        try:
            fields_of: dict[str, Any] = {**tensors, **held}
            return cls(**fields_of)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold particles: {error}") from error

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """How the weights behaved against sigma, and the samples; returns the matplotlib figure, and saves
        it where asked. Needs the `demo` extra: ImportError without. See `edmfast.plotting`."""
        target = None if path is None else check_output(path, PICTURE)
        figure = particles_figure(self)
        if target is not None:
            kind = target.suffix.removeprefix(".") or "png"
            with replacing(target) as temporary:
                figure.savefig(temporary, dpi=120, format=kind)
        return figure

    def _needs_one_target(self, what: str, instead: str) -> None:
        if self.one_target is False:
            raise ValueError(
                f"{what} needs populations of one target, and those of this run have conditions, exponents or "
                f"observations of their own: {instead}"
            )

    def _recorded(self, **indices: int) -> Tensor:
        if self.ancestors is None:
            raise ValueError(
                "this run recorded no ancestors: pass genealogy=True to edmfast.smc.sample"
            )
        sizes = dict(zip(("level", "population", "particle"), self.ancestors.shape, strict=True))
        for name, given in indices.items():
            index = as_int(name, given)
            if not 0 <= index < sizes[name]:
                raise ValueError(f"{name} must be in 0..{sizes[name] - 1}, got {index}")
        return self.ancestors
