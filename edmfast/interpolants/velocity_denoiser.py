"""A velocity network of a rectified flow or one-sided interpolant as a denoiser.

With the network's state x_t = b x and t from sigma = a/b, D(x; sigma) = (a v(x_t, t) - a' x_t)/(a b' - a' b); for
the linear path this is x_t + (1 - t) v. `edmfast.interpolants.one_sided` derives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.interpolants.one_sided import Convention, Point, path_named
from edmfast.models.calling.foreign import call_backbone
from edmfast.models.preconditioning import expand_sigma

Velocity = Callable[..., Tensor]
"""A velocity network, velocity(x [B, *shape], time [B], **conditions) -> like x."""


class VelocityDenoiser(nn.Module):
    """A velocity network as a denoiser; `from_velocity` makes it. model: the network."""

    def __init__(self, velocity: Velocity, convention: Convention) -> None:
        super().__init__()
        self.model = velocity
        self.convention = convention

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x0, like x. At sigma = 0 they are x, as in the limit.

        Args:
            x: [B, *shape], data + sigma noise.
            sigma: a float, [] or [B], in the units of x.
            condition: keyword arguments of the network.

        Raises:
            TypeError: an x that is not floating, or a network that returns no floating tensor.
            ValueError: other shapes, or a level that is negative or not finite.
        """
        path = path_named(self.convention.path)
        levels = expand_sigma(sigma, x)
        # a half precision would round 1 + sigma, and the time from 0 to 1000, to few digits
        at = path.at_level(levels.to(torch.promote_types(x.dtype, torch.float32)))
        times = self.convention.network_time(at.t).reshape(-1).to(x.dtype)
        at = Point(*(numbers.to(x.dtype) for numbers in at))
        state = at.b * x
        velocity = call_backbone(self.model, state, times, noun="the velocity network", **condition)
        sign = -1.0 if self.convention.reversed else 1.0
        share: Tensor = (sign / path.wronskian * at.a) * velocity.to(x.dtype)
        return torch.addcmul(share, at.a_dot * (-1 / path.wronskian), state)

    def extra_repr(self) -> str:
        """Return the convention for the printed form."""
        return repr(self.convention)
