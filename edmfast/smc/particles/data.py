"""The fields of the result of a run: what its summary, its verdict and its estimates are computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.numbers import as_int, as_seed
from edmfast.ops.systematic_resample.operator import COLLAPSED
from edmfast.smc.particles.evaluations import Evaluations
from edmfast.smc.particles.law_notes import NO_LOG_Z

NOT_FINITE = 8
"""The bit of `degenerate` for populations in which a state with a weight is NaN or infinite."""


@dataclass(repr=False, eq=False)
class ParticleData:
    """P populations of N weighted particles after a run over T noise levels.

    Raises TypeError or ValueError for counts that are not whole numbers, or a one_target that is no bool.
    """

    x: Tensor
    """States [P, N, *shape], in the units of the data."""
    log_weights: Tensor
    """Log-weights, float64 [P, N] in nats, not normalised."""
    log_z: Tensor
    """Log normaliser, float64 [P] in nats: the log of the integral of exp(-U(x, sigma_end)) over that of
    exp(-A |x|²/(2 sigma_max²)), which is (2 pi sigma_max²/A)^(d/2). It depends on the gauge of the energy;
    `log_z_note` says what it may be compared with."""
    ess: Tensor
    """Effective sample size at each level before resampling, float64 [T, P] in particles."""
    resampled: Tensor
    """Levels at which a population was resampled, bool [T, P]."""
    log_weight_sd: Tensor
    """Standard deviation of the incremental log-weight that led to each level, float64 [T, P] in nats."""
    unique_ancestors: Tensor
    """Number of starting particles that have descendants at the end, int64 [P]."""
    degenerate: Tensor
    """Faults of each population, int32 [P]: the sum of 1 (NaN weights), 2 (all weights zero), 4 (infinite weights)
    and 8 (final states that are not finite)."""
    sigmas: Tensor
    """Noise levels, float64 [T], or [T + 1] with a last 0, in the units of the data."""
    nfe: int
    """Evaluations of the target for one particle, whatever each of them costs."""
    seed: int
    """Seed of the run, 64-bit."""
    law: str = ""
    """A sentence on the law that the weighted particles follow."""
    first_population: int = 0
    """Index of population 0 in the counters of the noise."""
    survivors: Tensor | None = None
    """Number of starting particles that have descendants after the decision at each level, int64 [T, P]."""
    ancestors: Tensor | None = None
    """Index of the particle of each level that every slot takes on, int32 [T, P, N], which is its own index
    without resampling. None unless `RunOptions(genealogy=True)` recorded it."""
    log_densities: Tensor | None = None
    """Log-densities of each of M models along the paths, float64 [P, N, M] in nats; None where the law follows no
    densities."""
    acceptance: Tensor | None = None
    """Mean probability that each of C correctors moves a particle, float64 [T, C, P]; NaN at levels without
    correctors. None where the run had no correctors."""
    evaluations: Evaluations | None = None
    """Cost for one particle in forward passes of models and vector-Jacobian products. None in files of earlier
    versions."""
    one_target: bool | None = None
    """True where all populations have the same target, so that their log Z may be compared and averaged. None
    where that is not known."""
    log_z_note: str = ""
    """A sentence on what log Z may be compared with."""

    def __post_init__(self) -> None:
        self.nfe = as_int("nfe", self.nfe, least=0)
        self.seed = as_seed(self.seed)
        self.first_population = as_int("first_population", self.first_population, least=0)
        if self.evaluations is not None:
            # A file gives back the named tuple as a list.
            counts = (as_int("evaluations", count, least=0) for count in self.evaluations)
            self.evaluations = Evaluations(*counts)
        if self.one_target not in (None, True, False):
            raise ValueError(f"one_target must be a bool or None, got {self.one_target!r}")

    @property
    def says_no_log_z(self) -> bool:
        """True where the run used no weights; log Z is then always 0."""
        return self.log_z_note == NO_LOG_Z

    @property
    def weights(self) -> Tensor:
        """Normalised weights, float64 [P, N]; the particles of a collapsed population have equal weights."""
        # a NaN weight counts as zero, as it does in the resampling of a run
        log_weights = self.log_weights.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        top = log_weights.amax(1, keepdim=True)
        # all weights of a collapsed population are -inf, where a plain difference would be NaN
        shifted = torch.where(log_weights == top, 0.0, log_weights - top)
        return torch.softmax(shifted, dim=1)

    def surviving_log_z(self) -> Tensor:
        """Return log Z, float64 [P] in nats, with -inf for populations that collapsed."""
        return torch.where((self.degenerate & COLLAPSED) != 0, -torch.inf, self.log_z)
