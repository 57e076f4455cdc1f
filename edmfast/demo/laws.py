"""The laws that the demonstration compares, and runs of them on a target made of denoisers.

- reversal: matched reversals weigh the samples, with the trace of the Jacobian from probes.
- hybrid: energies weigh the samples at high noise, and matched reversals below.
- energies: differences of energies weigh the samples at all levels.
- Feynman–Kac: the weights of the Feynman–Kac corrector, from scores alone.
- scaled scores: the same scores without weights, see `edmfast.demo.score_scaling`.
"""

from __future__ import annotations

import dataclasses
import time

import torch
from torch import Tensor, nn

from edmfast import smc
from edmfast._internal.rows import for_rows
from edmfast.demo.known_answer import KnownAnswer
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.demo.smooth_digits import SIGMA_MAX, SIGMA_MIN
from edmfast.demo.yardstick import Measures, log_z_of_run, measure
from edmfast.sampling import get_sigmas_karras
from edmfast.targets.protocols import Model

THRESHOLD = 0.4
"""The share of particles below which the effective sample size leads to resampling."""
DIM = 64


@dataclasses.dataclass(frozen=True)
class Law:
    """A way to weigh samples, with its name and its colour in pictures."""

    name: str
    colour: str
    """A colour of Okabe and Ito, which colour-blind readers can tell apart."""
    weights: str | smc.Reversal | None
    """The argument `weights` of `smc.sample`; None for scaled scores."""


REVERSAL = Law("reversal weights", "#0072B2", "reversal")
CORRECTOR = Law("Feynman–Kac weights", "#CC79A7", "score")
SCALED = Law("scaled scores", "#E69F00", None)
HYBRID = Law("hybrid weights", "#009E73", "hybrid")
ENERGIES = Law("energies alone", "#D55E00", "energy")
OF_DENOISERS = (REVERSAL, CORRECTOR, SCALED)
"""The laws that need no energy."""


class PlainDenoiser(nn.Module):
    """A denoiser that hides the energy and the exact traces of the model it calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, sigma: float | Tensor, class_label: Tensor | None = None
    ) -> Tensor:
        """Return the denoised states, like x."""
        condition = {} if class_label is None else {"class_label": class_label}
        denoised: Tensor = self.model(x, sigma, **condition)
        return denoised


@dataclasses.dataclass(frozen=True, eq=False)
class Populations:
    """Weighted particles at the lowest noise level, of one target for each population or of one for all."""

    x: Tensor
    """States, [P, N, 64]."""
    weights: Tensor
    """Their normalised weights, float64 [P, N]."""
    evaluations: int
    """Evaluations of models for one particle, forward passes and vector-Jacobian products together."""
    seconds: float
    """Duration of the run."""
    log_z: Tensor | None = None
    """The estimate of log Z for normalised models, [P] in nats."""
    log_weight_variance: Tensor | None = None
    """The variance of the log-weights, summed over the steps, [P] in nats²."""
    ancestors: Tensor | None = None
    """The share of starting particles that have descendants at the end, [P]."""

    def part(self, start: int, stop: int) -> Populations:
        """Return the populations start to stop - 1."""
        rows = slice(start, stop)
        cut = [None if t is None else t[rows] for t in (self.log_z, self.log_weight_variance)]
        ancestors = None if self.ancestors is None else self.ancestors[rows]
        return dataclasses.replace(
            self,
            x=self.x[rows],
            weights=self.weights[rows],
            log_z=cut[0],
            log_weight_variance=cut[1],
            ancestors=ancestors,
        )

    def measures(self, answer: KnownAnswer) -> Measures:
        """Return the measures of these populations against the known answer of their target."""
        return measure(
            answer,
            self.x,
            self.weights,
            log_z=self.log_z,
            log_weight_variance=self.log_weight_variance,
            ancestors=self.ancestors,
            evaluations=self.evaluations,
        )


def noise_levels(steps: int) -> Tensor:
    """Return the noise levels of Karras et al. of a run, positive and decreasing, [steps]."""
    return get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX)[:-1]


def run_law(
    law: Law,
    target: Model,
    exponents: tuple[float, ...],
    *,
    steps: int,
    particles: int,
    populations: int,
    seed: int,
    calibration: smc.Calibration | None = None,
) -> Populations:
    """Return the populations that a law makes of a target prod_i p_i^(a_i) with the exponents a_i.

    calibration: levels and probes of weighted runs, in place of `noise_levels`.
    """
    started = time.perf_counter()
    levels = noise_levels(steps)
    if law.weights is None:
        batch = populations * particles
        like = torch.empty(populations, particles, DIM)
        x = score_scaled_samples(for_rows(target, 0, batch, batch), 1.0, like, levels, seed=seed)
        equal = torch.full(x.shape[:2], 1 / particles, dtype=torch.float64)
        # the last level is reached and not evaluated
        evaluations = (steps - 1) * len(exponents)
        return Populations(x, equal, evaluations, time.perf_counter() - started)
    run = smc.sample(
        target,
        (DIM,),
        levels if calibration is None else calibration,
        particles=particles,
        populations=populations,
        weights=law.weights,
        ess_threshold=THRESHOLD,
        # the comparison is meant to show bad weights too
        options=smc.RunOptions(dtype=torch.float32, on_degenerate="ignore"),
        seed=seed,
    )
    seconds = time.perf_counter() - started
    counted = run.evaluations
    return Populations(
        run.x,
        run.weights / run.weights.sum(1, keepdim=True),
        run.nfe if counted is None else counted.forward + counted.backward,
        seconds,
        log_z_of_run(run, exponents),
        # the weights of the first level belong to the start
        run.log_weight_sd[1:].double().square().sum(0),
        run.unique_ancestors.double() / particles,
    )
