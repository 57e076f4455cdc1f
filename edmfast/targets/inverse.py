"""Linear inverse problems y = H x_0 + n, n ~ N(0, noise² I): U = E + alpha(sigma) |y - H x|²/(2 noise²).

alpha is 1 at the end and may be anything before. That of `likelihood_schedule` grew out of measurements of the
variance of the weights: with v² = sigma² - full_below² (0 below it) and c = data_std²/(data_std² + v²),

  of the state x            alpha = c noise²/(noise² + 4 v²)
  of the denoised state D   alpha = noise²/(noise² + 4 c v²)

noise² + c v² is the variance of y about H D for Gaussian data; the factor of 4 turns the likelihood on later
than that, by half to a third of the variance. What the score gets is gradient_scale times its gradient.
Sources: Chung et al. 2023, arXiv 2209.14687; Song et al. 2023, "Pseudoinverse-guided diffusion models".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_float, check_level
from edmfast._internal.rows import for_rows, part_of, spread_rows
from edmfast.models.calling.foreign import call_operator
from edmfast.targets.measurements import as_measurement
from edmfast.targets.tilted import SLACK, Tilted

Schedule = Callable[[float | Tensor], float | Tensor]


class LogLikelihood(nn.Module):
    """-|y - H x|²/(2 noise²) [B] in nats; observation [*observation], or [K, *observation] for K runs of rows."""

    observation: Tensor
    noise: Tensor

    numbers_only = True

    def __init__(self, operator: Any, observation: Tensor, noise: float, many: bool) -> None:
        super().__init__()
        noise = as_float("noise", noise, positive=True)
        check_level("noise", noise, torch.float32)
        if not bool(observation.isfinite().all()):
            raise ValueError("the observation must be finite")
        self.operator, self.many = as_measurement(operator), many
        self.register_buffer("noise", torch.tensor(noise, dtype=torch.float64))
        self.register_buffer("observation", observation.detach())

    def forward(self, x: Tensor) -> Tensor:
        found = call_operator(self.operator, x)
        known = self.observation[None] if not self.many else self.observation
        if found.shape[1:] != known.shape[1:]:
            raise ValueError(
                f"one observation must be {[*found.shape[1:]]}, as H x is, given {[*known.shape[1:]]}"
            )
        known = known.to(found.dtype)
        if self.many:
            known = spread_rows("observation", known, 0, len(x), len(x))
        width = self.noise.to(found.dtype)
        return -0.5 * ((found - known) / width).square().flatten(1).sum(1)

    def for_rows(self, start: int, stop: int, batch: int) -> LogLikelihood:
        """For samples start..stop - 1 of a batch."""
        operator = for_rows(self.operator, start, stop, batch)
        if not self.many and operator is self.operator:
            return self
        part: LogLikelihood = part_of(self)
        part.operator = operator
        if self.many:
            part.observation = spread_rows("observation", self.observation, start, stop, batch)
        return part


class LinearInverse(Tilted):
    """The posterior of x_0 given y = H x_0 + n, with the model as the prior.

    operator: H as a matrix [M, D] on flattened states, a pair of functions (H, Hᵀ) on [B, *shape], or a
    differentiable module such as `inpainting`, `super_resolution` or `deblurring` of
    `edmfast.targets.measurements`. observation: y [*observation]; with per_population, [K, *observation], one for
    each of K runs of rows. noise: standard deviation of n, in units of y.
    of: "state" (default) or "denoised". schedule: alpha(sigma), 1 at the last noise level of a run; by default
    the one above, which is 1 from full_below (in units of x) on. gradient_scale: fraction of the likelihood's
    gradient that the proposal follows. Other arguments and errors as of `Tilted`.
    """

    def __init__(
        self,
        model: Any,
        operator: Any,
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
        self.full_below = None if schedule else full_below

    def check_levels(self, levels: Sequence[float]) -> None:
        """ValueError unless a run over these noise levels ends at the whole likelihood."""
        if self.full_below is not None and levels[-1] > self.full_below * SLACK:
            raise ValueError(
                f"the likelihood is whole below sigma = {self.full_below:g}, and the last weighted noise level "
                f"is {levels[-1]:g}: raise full_below to it"
            )


class LikelihoodSchedule:
    """alpha(sigma) as above, of numbers and of tensors. Unlike a closure it can be copied and pickled."""

    def __init__(self, noise: float, of: str, full_below: float, data_std: float) -> None:
        self.noise = as_float("noise", noise, positive=True)
        self.full_below = as_float("full_below", full_below, least=0)
        self.data_std = as_float("data_std", data_std, positive=True)
        self.of = of

    def __call__(self, sigma: float | Tensor) -> float | Tensor:
        if isinstance(sigma, Tensor):
            v: Any = (sigma.double().square() - self.full_below**2).clamp_min(0)
        else:
            v = max(sigma**2 - self.full_below**2, 0.0)
        c = self.data_std**2 / (self.data_std**2 + v)
        noise = self.noise**2
        if self.of == "state":
            return c * noise / (noise + 4 * v)
        return noise / (noise + 4 * c * v)


def likelihood_schedule(
    noise: float, of: str, full_below: float = 0.02, data_std: float = 0.5
) -> Schedule:
    """Return alpha(sigma) as above, which takes numbers and tensors."""
    return LikelihoodSchedule(noise, of, full_below, data_std)
