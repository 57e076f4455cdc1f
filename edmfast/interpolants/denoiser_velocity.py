"""A denoiser or an energy as the velocity of a rectified flow or one-sided interpolant.

With sigma = a/b and D = D(x_t/b; sigma), the velocity is v = b' D + a' (x_t - b D)/a; for the linear path this is
(D - x_t)/(1 - t). Near the data x_t - b D cancels. An energy has a score instead, whose product with -sigma is the
expected noise, so that v = b' D + a' (-sigma score) keeps its digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import row_factors
from edmfast.interpolants.arguments import any_at, expand_times
from edmfast.interpolants.one_sided import Convention, Point, path_named
from edmfast.models.calling.foreign import call_denoiser, call_energy
from edmfast.models.protocols import Denoiser, Target


def denoised_and_noise(
    model: Denoiser | Target,
    state: Tensor,
    at: Point,
    sigma_max: float | None,
    condition: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Return (E[data | x_t], E[noise | x_t]), like the states x_t [B, *shape], by one call of the model.

    at: the path at the times of the rows, each [B, 1, ...]. At the data the results are (x_t, 0), as they are in
    the limit. Above sigma_max the model is asked at that level.
    """
    level = at.a / at.b
    # the model is not defined at the level 0, so those rows ask it at another one
    clean = at.a == 0
    asked = torch.where(clean, 1.0, level)
    if sigma_max is not None:
        asked = asked.clamp(max=sigma_max)
    # where the level is cut, x_t/a keeps its meaning as the noise
    factor = torch.where(asked == level, 1 / at.b, asked / torch.where(clean, 1.0, at.a))
    point = torch.where(clean, 1.0, factor) * state
    sigma = asked.reshape(-1)
    if bool(getattr(model, "has_energy", hasattr(model, "energy_and_score"))):
        score = call_energy(model, point, sigma, **condition)[1].to(state.dtype)
        noise = -asked * score / row_factors(getattr(model, "exponent", 1.0), state)
        denoised = point - asked * noise
    else:
        denoised = call_denoiser(model, point, sigma, **condition)
        noise = (point - denoised) / asked
    return torch.where(clean, state, denoised), torch.where(clean, 0.0, noise)


class DenoiserVelocity(nn.Module):
    """A denoiser or an energy as a velocity network; `to_velocity` makes it. model: the denoiser."""

    def __init__(
        self, denoiser: Denoiser | Target, convention: Convention, sigma_max: float | None
    ) -> None:
        super().__init__()
        self.model: Any = denoiser
        self.convention = convention
        self.sigma_max = sigma_max

    def forward(self, x: Tensor, time: float | Tensor, **condition: Any) -> Tensor:
        """Return the velocity dx/dt in the network's own direction of time, like x.

        At the data the velocity is that of the path without noise, b' x, which is its limit there.

        Args:
            x: [B, *shape], the states a noise + b data.
            time: a float, [] or [B], from 0 to time_scale.
            condition: keyword arguments of the denoiser.

        Raises:
            TypeError: an x that is not floating, or a model that returns no floating tensor.
            ValueError: other shapes, a time outside of its range, or the time of pure noise without a sigma_max.
        """
        path, convention = path_named(self.convention.path), self.convention
        times = expand_times(time, x, name="time", most=convention.time_scale)
        at = path.at_time(convention.path_time(times))
        if self.sigma_max is None:
            self._refuse_noise(time)
        denoised, noise = denoised_and_noise(self.model, x, at, self.sigma_max, condition)
        velocity = at.b_dot * denoised + at.a_dot * noise
        return -velocity if convention.reversed else velocity

    def inverts(self, convention: Convention) -> bool:
        """Return whether the denoiser made of this velocity in a convention is the model itself."""
        return self.convention == convention and self.sigma_max is None

    def extra_repr(self) -> str:
        """Return the convention for the printed form."""
        return f"{self.convention!r}, sigma_max={self.sigma_max}"

    def _refuse_noise(self, time: float | Tensor) -> None:
        noise = self.convention.time_scale if self.convention.reversed else 0.0
        if any_at(time, noise):
            raise ValueError(
                f"time = {noise:g} is pure noise, an infinite noise level at which a denoiser is not defined: "
                "pass sigma_max, the largest level of the denoiser, or begin at another time"
            )
