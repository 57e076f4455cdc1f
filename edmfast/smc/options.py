"""Options of `smc.sample` that belong together, each a small frozen dataclass that checks its own fields."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import torch.distributed as dist

from edmfast._internal.numbers import as_bool, as_float, as_int, as_range
from edmfast.smc.arguments import (
    as_batch_size,
    check_device,
    check_dtype,
    check_on_degenerate,
    check_path,
)
from edmfast.smc.correctors import Corrector, as_correctors

SPLITS = ("populations", "particles")


@dataclass(frozen=True)
class Correction:
    """Markov chain moves at the noise levels of a run.

    correctors: one or several of `ULA`, `MALA`, `HMC` and `Underdamped`, each applied in turn after the resampling
        decision of a level. The adjusted kinds leave weights and log Z exact.
    sigma_range: (lo, hi), the noise levels at which they are applied, in units of x.
    waste_free: L, or None. Of N = M L particles, M are resampled and moved L - 1 times by the correctors, and all
        states are particles (Dau and Chopin 2022). Populations that are not resampled stay as they are, so use it
        with ess_threshold=1. Nothing moves at levels where resampling is not allowed.

    Raises TypeError for anything but correctors, and ValueError for a range or a length out of bounds.
    """

    correctors: Corrector | Sequence[Corrector] = ()
    sigma_range: tuple[float, float] = (0.0, math.inf)
    waste_free: int | None = None

    def __post_init__(self) -> None:
        # A tuple does not change when the caller's list does.
        correctors = as_correctors(self.correctors)
        _replace(self, "correctors", correctors)
        _replace(self, "sigma_range", as_range("Correction.sigma_range", self.sigma_range))
        if self.waste_free is not None:
            _replace(self, "waste_free", as_int("Correction.waste_free", self.waste_free, least=2))
            if not correctors:
                raise ValueError("waste_free needs correctors, which move the ancestors")


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoints of a run: the file it writes, and the file it resumes from.

    path: the file that is written every `every` steps, and on Ctrl-C or any other exception after the last whole
        step. Where it cannot be written the run goes on and warns. If an error ends such a run, its last whole
        step is written to the folder for temporary files. None writes no checkpoint.
    every: the number of steps between two checkpoints.
    resume_from: a checkpoint to go on from; the run ends in the same bits as an uninterrupted one.
    overwrite: replace the file at `path` even where it is the checkpoint of an earlier run (even if the earlier
        call was the same) or no checkpoint at all. Without it such a file raises FileExistsError, unless the run
        resumes from it.
    """

    path: str | os.PathLike[str] | None = None
    _: KW_ONLY
    every: int = 8
    resume_from: str | os.PathLike[str] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_path("Checkpoint.path", self.path)
        check_path("Checkpoint.resume_from", self.resume_from)
        _replace(self, "every", as_int("Checkpoint.every", self.every, least=1))
        _replace(self, "overwrite", as_bool("Checkpoint.overwrite", self.overwrite))


@dataclass(frozen=True)
class Distribution:
    """The distribution of a run over the ranks of a process group, or over several calls.

    group: a process group of torch.distributed, or None for one process. All ranks call with the same arguments,
        each with the target on its own device. Particles have the bits of one process, unless the target rounds
        differently in batches of another size; log_weight_sd may differ by rounding.
    split: "populations" (each rank runs some of them), or "particles" (each rank holds N/ranks of every
        population; systematic resampling only, not compiled, without correctors). A callback sees what its rank
        holds. Rank 0 writes a checkpoint, which is that of one process, and all ranks read it; a run goes on with
        any number of ranks. No checkpoint is written on Ctrl-C or another exception. Where a rank dies, the others
        raise an error, at the latest after the group's timeout.
    gather: give every rank the whole result. False, for populations only, returns what the rank ran.
    first_population: the index of the first population in the noise, to split a run over calls.
    """

    group: dist.ProcessGroup | None = None
    split: str = "populations"
    gather: bool = True
    first_population: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}; known: {', '.join(SPLITS)}")
        if self.group is not None and not isinstance(self.group, dist.ProcessGroup):
            raise TypeError(
                "Distribution.group must be a process group of torch.distributed, such as "
                f"torch.distributed.group.WORLD, or None, got {self.group!r}"
            )
        _replace(self, "gather", as_bool("Distribution.gather", self.gather))
        first = as_int("Distribution.first_population", self.first_population, least=0)
        _replace(self, "first_population", first)


@dataclass(frozen=True)
class RunOptions:
    """Options that do not change the law of a run.

    device, dtype: the device and the dtype (float32 or float64) of the states. The default is the target's.
    batch_size: the largest number of rows in one call of the target; it changes results by rounding only.
    genealogy: record the ancestors of every level, int32 [T, P, N].
    on_degenerate: the reaction to weights that were NaN, infinite or all zero. "warn" issues a
        `DegenerateWeightsWarning`, "raise" raises RuntimeError; both also warn where the result's `verdict` is
        doubtful. "ignore" does nothing.
    """

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    batch_size: int | None = None
    genealogy: bool = False
    on_degenerate: str = "warn"

    def __post_init__(self) -> None:
        _replace(self, "batch_size", as_batch_size(self.batch_size, "RunOptions.batch_size"))
        check_device("RunOptions.device", self.device)
        if self.dtype is not None:
            check_dtype("RunOptions.dtype", self.dtype)
        _replace(self, "genealogy", as_bool("RunOptions.genealogy", self.genealogy))
        check_on_degenerate(self.on_degenerate)


@dataclass(frozen=True)
class Reversal:
    """Weights from matched reversals, which need no energy: weights="reversal" with more choices.

    probes: the number of Hutchinson probes of each particle, for all steps or for each of them. None takes exact
    traces where all models have the method `jacobian_trace`, and else the numbers of a `Calibration`, or 1.

    Raises TypeError or ValueError for numbers that are no integers of at least 0.
    """

    probes: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = f"{type(self).__name__}.probes"
        probes: Any = self.probes
        # a range, an array and a tensor of integers are sequences of numbers too
        many = hasattr(probes, "__len__") and getattr(probes, "ndim", 1) > 0
        if many and not isinstance(probes, str):
            numbers = tuple(as_int(f"{name}[{i}]", p, least=0) for i, p in enumerate(probes))
            _replace(self, "probes", numbers)
        elif probes is not None:
            _replace(self, "probes", as_int(name, probes, least=0))

    @property
    def counts(self) -> int | tuple[int, ...] | None:
        """The probes as an int, a tuple of ints or None."""
        probes = self.probes
        return tuple(probes) if isinstance(probes, Sequence) else probes


@dataclass(frozen=True)
class Hybrid(Reversal):
    """Weights from energies at high noise and from matched reversals below it: weights="hybrid" with more choices.

    probes: as for `Reversal`. above: the noise level in units of x; steps that end at this level or above it are
    weighed by differences of energies. None takes the sigma_lo of a `Calibration`, or else 0.6 sigma_data.

    Raises TypeError or ValueError for a level that is no positive number, and for probes as `Reversal` does.
    """

    above: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.above is not None:
            _replace(self, "above", as_float("Hybrid.above", self.above, positive=True))


WEIGHTS = ("auto", "energy", "score", "reversal", "hybrid")


def as_weights(value: Any) -> str | Reversal:
    """Return the argument `weights` of `smc.sample`, with "reversal" and "hybrid" as objects.

    Raises ValueError for an unknown name and TypeError for anything else.
    """
    if isinstance(value, Reversal):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"weights must be a name, smc.Reversal or smc.Hybrid, got {type(value).__name__}"
        )
    if value not in WEIGHTS:
        raise ValueError(f"unknown weights {value!r}; known: {', '.join(WEIGHTS)}")
    return {"reversal": Reversal(), "hybrid": Hybrid()}.get(value, value)


def as_correction(value: Any) -> Correction:
    """Return the argument `correction` of `smc.sample` as a `Correction`."""
    if isinstance(value, Correction):
        return value
    if value is None:
        return Correction()
    return Correction(as_correctors(value, "correction", " or an smc.Correction"))


def as_checkpoint(value: Any) -> Checkpoint:
    """Return the argument `checkpoint` of `smc.sample` as a `Checkpoint`."""
    if isinstance(value, Checkpoint):
        return value
    check_path("checkpoint", value, " or an smc.Checkpoint")
    return Checkpoint(value)


def as_distribution(value: Any) -> Distribution:
    """Return the argument `distribution` of `smc.sample` as a `Distribution`."""
    if value is None:
        return Distribution()
    if not isinstance(value, Distribution):
        raise TypeError(f"distribution must be smc.Distribution, got {type(value).__name__}")
    return value


def as_options(value: Any) -> RunOptions:
    """Return the argument `options` of `smc.sample`. Raises TypeError for anything but `RunOptions`."""
    if not isinstance(value, RunOptions):
        raise TypeError(
            "options must be smc.RunOptions, for example smc.RunOptions(batch_size=4), got "
            f"{type(value).__name__}"
        )
    return value


def _replace(frozen: Any, name: str, value: Any) -> None:
    # The dataclasses are frozen, so that options may be shared by runs, and convert their own
    # fields.
    object.__setattr__(frozen, name, value)
