"""The result that every law of controlled sampling returns, and that of a run of `smc.sample` in the same form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from edmfast import smc
from edmfast.demo.yardstick import log_z_of_run


class Outcome(NamedTuple):
    """Weighted particles, and the cost of one of them.

    x: [P, N, *shape] at the last level. log_weights: float64 [P, N], since the last resampling. variance:
    float64 [P], the variance of the log-weight increments over the particles, summed over the steps, in nats².
    log_z: float64 [P], the log of the integral of the target at the last level, in nats; None where
    nothing is weighed. ancestors:
    float64 [P], the share of the starting particles that have descendants. forwards, vjps: evaluations per
    particle over a run, of all models together.
    """

    x: Tensor
    log_weights: Tensor
    variance: Tensor
    log_z: Tensor | None
    ancestors: Tensor
    forwards: int
    vjps: int


def from_particles(run: smc.Particles, exponents: Sequence[float], *, traces: int = 0) -> Outcome:
    """Return the outcome of a run of `smc.sample` on normalised models or denoisers.

    exponents: those of the models. traces: exact traces of all models, which count as one vjp each. The variance
    leaves out the first level, whose weights belong to the start and not to a step.
    """
    evaluations = run.evaluations
    assert evaluations is not None, "every run of smc.sample counts its evaluations"
    return Outcome(
        run.x,
        run.log_weights.double(),
        run.log_weight_sd[1:].double().square().sum(0),
        log_z_of_run(run, tuple(exponents)),
        run.unique_ancestors.double() / run.x.shape[1],
        evaluations.forward,
        evaluations.backward + traces,
    )
