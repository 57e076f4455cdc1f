"""The yardstick of control: measures of weighted samples against the known answer of a mixture.

Masses are measured by responsibilities: the mean over exact draws of the target of r_k(x), the posterior
probability of component k, is the exact mass of that component. No particle is assigned to a single component, so
this adds no bias. The total variation between two vectors of masses is half the sum of absolute differences. It
is measured for each population, which shows bias and spread, and for the mean over populations, which shows bias.

A run is measured in three lines:

    answer = power_answer(load_smooth_digits(), 2.0)
    run = smc.sample(Tempered(model, 2.0), (64,), levels, particles=256, populations=8)
    measures = measure_run(answer, run)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast import smc
from edmfast._internal.tables import Cell
from edmfast.demo.guided_answer import guided_draws
from edmfast.demo.known_answer import KnownAnswer, in_blocks, power_answer, systematic
from edmfast.diagnostics import frechet_distance, sliced_wasserstein
from edmfast.smc.particles.law_notes import OF_CORRECTOR, OF_REVERSALS
from edmfast.targets.gauges import OF_NORMALISED

HEADER = (
    "TV",
    "TV per run",
    "TV of classes",
    "log Z error",
    "Δ log-density",
    "Fréchet",
    "sliced W",
    "var log G",
    "ancestors %",
    "NFE",
)
"""The columns of `Measures.row`."""
NOTES = (
    "exact draws: as many independent draws of the answer as particles, which show the noise of the measures",
    "TV: total variation of the masses of components, which is the share of the mass in wrong components,",
    "    for the mean over populations; TV of classes: the same for the masses of classes",
    "TV per run: the mean of each population's own TV, which is larger because single populations scatter",
    "log Z error: log of the mean estimate of the integral of the target, less the exact log, in nats",
    "Δ log-density: mean log-density of the target less that of exact draws, in nats; 0 is right",
    "Fréchet: squared Fréchet distance to exact draws, in squared units of x",
    "sliced W: sliced Wasserstein distance to exact draws, in units of x",
    "var log G: variance of the log-weights, summed over the steps, in nats²",
    "ancestors %: share of the starting particles that have descendants at the end",
    "NFE: evaluations of models for one particle, with vector-Jacobian products; seconds: duration of the run",
    "-: a law has no such number: without weights there is neither log Z nor a variance, and draws need no model",
)


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of P populations against a known answer. Entries that do not apply are None."""

    masses: Tensor
    """The masses of components, float64 [P, K]."""
    total_variation: Tensor
    """Their total variation from the truth for each population, [P]."""
    total_variation_of_mean: float
    """The total variation of the mean over populations from the truth."""
    class_variation: Tensor | None
    """The total variation of the masses of classes, [P]."""
    class_variation_of_mean: float | None
    """The same of the mean over populations."""
    log_z_error: float | None
    """The log of the mean over populations of Z, less log Z, in nats."""
    log_density_gap: Tensor
    """The weighted mean of the target's log-density less that of exact draws, [P] in nats."""
    frechet: float
    """The squared Fréchet distance to exact draws, of as many draws of all populations as there are particles."""
    sliced: float
    """The sliced Wasserstein distance to exact draws, of the same draws, in the units of x."""
    log_weight_variance: Tensor | None
    """The variance of the log-weights, summed over the steps, [P] in nats²."""
    ancestors: Tensor | None
    """The share of starting particles that have descendants at the end, [P]."""
    evaluations: int | None
    """Evaluations of models for one particle, forward passes and vector-Jacobian products together."""

    def row(self) -> list[Cell]:
        """Return the cells of a table under `HEADER`, each a mean over populations."""
        variance, ancestors = self.log_weight_variance, self.ancestors
        return [
            self.total_variation_of_mean,
            float(self.total_variation.mean()),
            self.class_variation_of_mean,
            self.log_z_error,
            float(self.log_density_gap.mean()),
            self.frechet,
            self.sliced,
            None if variance is None else float(variance.mean()),
            None if ancestors is None else 100 * float(ancestors.mean()),
            self.evaluations,
        ]


def measure(
    answer: KnownAnswer,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    log_z: Tensor | None = None,
    log_weight_variance: Tensor | None = None,
    ancestors: Tensor | None = None,
    evaluations: int | None = None,
) -> Measures:
    """Return the measures of weighted particles at the noise level of the answer.

    Args:
        answer: see `power_answer` and `product_answer`.
        x: [P, N, *shape] with prod(shape) = D.
        weights: [P, N], not negative, with a positive sum in each population; equal by default.
        log_z: the estimate of log Z, [P] in nats, of normalised models.
        log_weight_variance: [P] in nats², see `Measures`.
        ancestors: [P], shares, see `Measures`.
        evaluations: of models, for one particle.

    Raises:
        ValueError: shapes that do not fit, or weights that are negative, not finite or sum to 0.
    """
    populations, particles = x.shape[:2]
    dim = answer.judge.means.shape[1]
    if x.dim() < 3 or math.prod(x.shape[2:]) != dim:
        raise ValueError(f"x must be [P, N, *shape] with prod(shape) = {dim}, given {[*x.shape]}")
    if weights is None:
        weights = torch.ones(populations, particles, dtype=torch.float64, device=x.device)
    if weights.shape != (populations, particles):
        raise ValueError(
            f"weights must be [P, N] = {[populations, particles]}, given {[*weights.shape]}"
        )
    weights = weights.double()
    total = weights.sum(1, keepdim=True)
    if not bool(((weights >= 0).all(1, keepdim=True) & (total > 0) & total.isfinite()).all()):
        raise ValueError(
            "weights must be finite and not negative, with a positive sum in each population"
        )
    weights = weights / total
    rows = x.detach().reshape(-1, dim).double()
    shares = in_blocks(answer.judge.responsibilities, rows).view(populations, particles, -1)
    masses = (weights[:, :, None] * shares).sum(1)
    log_targets = in_blocks(answer.log_target, rows).view(populations, particles)
    drawn = torch.cat(
        [
            states[systematic(share, particles)]
            for states, share in zip(rows.view(populations, particles, dim), weights, strict=True)
        ]
    )
    errors = masses - answer.masses
    by_class = None if answer.judge.classes is None else answer.judge.by_class(errors)
    return Measures(
        masses,
        _variation(errors),
        float(_variation(errors.mean(0))),
        None if by_class is None else _variation(by_class),
        None if by_class is None else float(_variation(by_class.mean(0))),
        None if log_z is None else _log_mean(log_z.double()) - answer.log_z,
        (weights * log_targets).sum(1) - answer.log_density,
        frechet_distance(drawn, answer.draws),
        sliced_wasserstein(drawn, answer.draws),
        log_weight_variance,
        ancestors,
        evaluations,
    )


def measure_run(answer: KnownAnswer, run: smc.Particles, *, extra_evaluations: int = 0) -> Measures:
    """Return the measures of a run of `smc.sample` that ends at the noise level of the answer.

    The variance of the log-weights leaves out the first level, whose weights belong to the start.
    extra_evaluations: what the run does not count, such as exact traces.

    Raises:
        ValueError: a run that ends at another noise level.
    """
    end = float(run.sigmas[-1])
    if not math.isclose(end, answer.sigma, rel_tol=1e-6, abs_tol=1e-12):
        raise ValueError(
            f"the run must end at the noise level of the answer, {answer.sigma:g}, given one that ends at {end:g}"
        )
    evaluations = run.evaluations
    count = run.nfe if evaluations is None else evaluations.forward + evaluations.backward
    return measure(
        answer,
        run.x,
        run.weights,
        log_z=log_z_of_run(run, answer.exponents),
        log_weight_variance=run.log_weight_sd[1:].double().square().sum(0),
        ancestors=run.unique_ancestors.double() / run.x.shape[1],
        evaluations=count + extra_evaluations,
    )


def log_z_of_run(run: smc.Particles, exponents: tuple[float, ...]) -> Tensor | None:
    """Return the run's log Z for normalised models, [P] in nats; None where its law estimates none.

    Runs with energies or reversal weights measure log Z relative to exp(-A |x|²/(2 sigma_max²)), whose integral is
    known. A run with corrector weights measures it relative to the start prod_i N(x; 0, sigma_max² I)^(a_i).
    """
    dim, total = math.prod(run.x.shape[2:]), sum(exponents)
    variance = 2 * math.pi * float(run.sigmas[0]) ** 2
    of_start = 0.5 * dim * math.log(variance / total)
    note = run.log_z_note
    if note.startswith((OF_NORMALISED, OF_REVERSALS)):
        return run.log_z + of_start
    if note.startswith(OF_CORRECTOR):
        return run.log_z + of_start - 0.5 * dim * total * math.log(variance)
    return None


def measures_of_draws(
    answer: KnownAnswer, n: int, *, populations: int = 8, seed: int = 1
) -> Measures:
    """Return the measures of exact draws, n for each population: what a perfect sampler has.

    seed: another one than that of the answer, whose own draws have a distance of 0 to themselves.
    """
    count = n * populations
    if len(answer.models) == 2 and answer.masses_error.any():
        x = guided_draws(answer, count, seed=seed)
    elif answer.masses_error.any():
        (gamma,) = answer.exponents
        other = power_answer(
            answer.models[0], gamma, answer.sigma, draws=count, importance=20 * count, seed=seed
        )
        x = other.draws
    elif len(answer.models) == 1:
        x = answer.judge.power(int(answer.exponents[0])).sample(count, seed=seed)
    else:
        x = answer.judge.sample(count, seed=seed)
    return measure(answer, x.view(populations, n, -1))


def _variation(errors: Tensor) -> Tensor:
    return 0.5 * errors.abs().sum(-1)


def _log_mean(log_z: Tensor) -> float:
    return float(log_z.logsumexp(0)) - math.log(len(log_z))
