"""Linear inverse problems y = H x_0 + n, n ~ N(0, noise² I): U = E + alpha(sigma) |y - H x|²/(2 noise²).

The factor alpha turns the likelihood on along a run. It must be 1 at the end and may be anything before. The
default of `likelihood_schedule` was chosen from measured variances of the weights: with v² = sigma² - full_below²
(0 below full_below) and c = data_std²/(data_std² + v²),

  for the state x            alpha = c noise²/(noise² + 4 v²)
  for the denoised state D   alpha = noise²/(noise² + 4 c v²)

For Gaussian data noise² + c v² is the variance of y about H D. The factor of 4 turns the likelihood on later than
this variance suggests, which lowered the measured variance of the weights. The score contains gradient_scale
times the gradient of the likelihood.
Sources: Chung et al. 2023, arXiv 2209.14687; Song et al. 2023, "Pseudoinverse-guided diffusion models".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from edmfast._internal.noise_levels import LEVEL_SLACK, check_level
from edmfast._internal.numbers import as_float
from edmfast._internal.rows import for_rows, part_of, spread_rows
from edmfast.models.calling.foreign import call_operator
from edmfast.targets.measurements import Operator, as_measurement
from edmfast.targets.protocols import Model
from edmfast.targets.tilted import Tilted

Schedule = Callable[[float | Tensor], float | Tensor]
N = TypeVar("N", float, Tensor)


class LogLikelihood(nn.Module):
    """The log-likelihood -|y - H x|²/(2 noise²) as a module, [B, *shape] -> [B] in nats.

    operator: H, see `LinearInverse`. observation: y [*observation], or [K, *observation] for K runs of rows where
    `many` is true. noise: the standard deviation of n, in units of y.
    Raises ValueError for a noise that is not positive, and for an observation that is not finite or has another
    shape than H x.
    """

    observation: Tensor
    noise: Tensor

    numbers_only = True

    def __init__(self, operator: Operator, observation: Tensor, noise: float, many: bool) -> None:
        super().__init__()
        noise = as_float("noise", noise, positive=True)
        # The likelihood divides by noise², which must not vanish or overflow in the dtype of
        # float32 states.
        check_level("noise", noise, torch.float32)
        if not bool(observation.isfinite().all()):
            raise ValueError("the observation must be finite")
        self.operator, self.many = as_measurement(operator), many
        self.register_buffer("noise", torch.tensor(noise, dtype=torch.float64))
        self.register_buffer("observation", observation.detach())

    def forward(self, x: Tensor) -> Tensor:
        predicted = call_operator(self.operator, x)
        # The leading dimension lets one comparison of shapes serve both cases.
        observed = self.observation[None] if not self.many else self.observation
        if predicted.shape[1:] != observed.shape[1:]:
            raise ValueError(
                f"one observation must be {[*predicted.shape[1:]]}, as H x is, given {[*observed.shape[1:]]}"
            )
        observed = observed.to(predicted.dtype)
        if self.many:
            observed = spread_rows("observation", observed, 0, len(x), len(x))
        noise = self.noise.to(predicted.dtype)
        return -0.5 * ((predicted - observed) / noise).square().flatten(1).sum(1)

    def for_rows(self, start: int, stop: int, batch: int) -> LogLikelihood:
        """Return this likelihood for the samples start to stop - 1 of a batch."""
        operator = for_rows(self.operator, start, stop, batch)
        # Without numbers for single rows no copy is needed.
        if not self.many and operator is self.operator:
            return self
        part: LogLikelihood = part_of(self)
        part.operator = operator
        if self.many:
            part.observation = spread_rows("observation", self.observation, start, stop, batch)
        return part


class LinearInverse(Tilted):
    """A target that is the posterior of x_0 given y = H x_0 + n, with a model as the prior.

    The energy is U = E + alpha(sigma) |y - H x_0|²/(2 noise²).
    Sources: Chung et al. 2023, arXiv 2209.14687; Song et al. 2023, "Pseudoinverse-guided diffusion models".

    Args:
        model: a target or a plain denoiser, the prior.
        operator: H as a matrix [M, D] on flattened states, as a pair of functions (H, Hᵀ) on [B, *shape], or as a
            differentiable module such as `inpainting`, `super_resolution` or `deblurring` of
            `edmfast.targets.measurements`.
        observation: y [*observation], or [K, *observation] with per_population.
        noise: the standard deviation of n, in units of y.
        per_population: the observation has one row for each of K runs of rows; in `smc.sample`, K = P.
        schedule: alpha(sigma), which must be 1 at the last noise level of a run. By default it is
            `likelihood_schedule`, which is 1 from full_below down.
        full_below: the noise level in units of x from which on the whole likelihood counts.
        of: "state" or "denoised": where the likelihood is evaluated, at x or at D.
        gradient: "none", "approximate" or "exact", as for `Tilted`.
        gradient_scale: the fraction of the likelihood's gradient that the proposal follows.
        data_std: the standard deviation of the data in units of x.

    Raises:
        TypeError: an operator that is neither a matrix, a pair of functions nor callable, and as for `Tilted`.
        ValueError: a noise that is not positive, an observation that is not finite or has another shape than H x,
            and as for `Tilted`.
    """

    def __init__(
        self,
        model: Model,
        operator: Operator,
        observation: Tensor,
        noise: float,
        *,
        per_population: bool = False,
        schedule: Schedule | None = None,
        full_below: float = 0.02,
        of: str = "state",
        gradient: str = "exact",
        gradient_scale: float = 1.0,
        data_std: float = 0.5,
    ) -> None:
        full_below = as_float("full_below", full_below, least=0)
        if full_below > 0:
            check_level("full_below", full_below)
        alpha = schedule or likelihood_schedule(noise, of, full_below, data_std)
        super().__init__(
            model,
            LogLikelihood(operator, torch.as_tensor(observation), noise, per_population),
            alpha,
            of=of,
            gradient=gradient,
            gradient_scale=gradient_scale,
            data_std=data_std,
        )
        # A schedule of the caller says by itself where the likelihood is whole, so check_levels
        # cannot judge it.
        self.full_below = None if schedule else full_below

    def check_levels(self, levels: Sequence[float]) -> None:
        """Raise ValueError unless a run over these noise levels ends at the whole likelihood."""
        if self.full_below is not None and levels[-1] > self.full_below * LEVEL_SLACK:
            raise ValueError(
                f"the likelihood is whole below sigma = {self.full_below:g}, and the last weighted noise level "
                f"is {levels[-1]:g}: raise full_below to that level"
            )


class LikelihoodSchedule:
    """The default schedule alpha(sigma) as a callable, which unlike a closure can be copied and pickled."""

    def __init__(self, noise: float, of: str, full_below: float, data_std: float) -> None:
        self.noise = as_float("noise", noise, positive=True)
        self.full_below = as_float("full_below", full_below, least=0)
        self.data_std = as_float("data_std", data_std, positive=True)
        self.of = of

    def __call__(self, sigma: float | Tensor) -> float | Tensor:
        if isinstance(sigma, Tensor):
            # In float64, so that a tensor and a float of one level give the same alpha.
            return self._alpha((sigma.double().square() - self.full_below**2).clamp_min(0))
        return self._alpha(max(sigma**2 - self.full_below**2, 0.0))

    def _alpha(self, excess: N) -> N:
        """Return alpha, given v², the part of sigma² above full_below²."""
        c = self.data_std**2 / (self.data_std**2 + excess)
        noise = self.noise**2
        # The variance of y about H x is noise² + sigma², and about H D it is smaller, so the two
        # cases need different schedules.
        if self.of == "state":
            return c * noise / (noise + 4 * excess)
        return noise / (noise + 4 * c * excess)


def likelihood_schedule(
    noise: float, of: str, full_below: float = 0.02, data_std: float = 0.5
) -> Schedule:
    """Return the default schedule alpha(sigma) of `LinearInverse`.

    Args:
        noise: the standard deviation of the observation's noise.
        of: "state" or "denoised", where the likelihood is evaluated.
        full_below: the noise level in units of x from which on alpha is 1.
        data_std: the standard deviation of the data in units of x.

    Returns:
        A function of a number or a tensor of noise levels.

    Raises:
        ValueError: a noise or data_std that is not positive, or a negative full_below.
    """
    return LikelihoodSchedule(noise, of, full_below, data_std)
