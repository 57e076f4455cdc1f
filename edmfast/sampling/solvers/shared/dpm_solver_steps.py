"""The singlestep updates of DPM-Solver of orders 1 to 3.

With t = -ln sigma, eps = (x - D) / sigma, a step of length h from t and em(z) = exp(z) - 1, the states at the
share r of the step are u_r = x - sigma_r em(r h) eps to first order, where sigma_r = exp(-t - r h). The ends are

    order 2:  x' = x - sigma' em(h) eps - sigma' / (2 r) em(h) (eps_r1 - eps)
    order 3:  u2 = x - sigma_2 em(r2 h) eps - sigma_2 (r2 / r1) (em(r2 h) / (r2 h) - 1) (eps_r1 - eps),
              x' = x - sigma' em(h) eps - sigma' / r2 (em(h) / h - 1) (eps_r2 - eps)

with r1 = 1/3 and r2 = 2/3 by default. The factors are computed in the dtype of t, each by itself, as k-diffusion
does in torch's default dtype, so that both agree to all digits. Source: Lu et al. 2022, "DPM-Solver", arXiv
2206.00927, algorithms 1 and 2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edmfast.sampling.engine import Expression, register

X, EPS, EPS_R1, EPS_R2 = (register(name) for name in ("x", "eps", "eps_r1", "eps_r2"))
R1, R2 = 1 / 3, 2 / 3


@dataclass(frozen=True)
class SingleStep:
    """A step from t to t_next, tensors without dimensions, in the registers "x", "eps", "eps_r1" and "eps_r2"."""

    t: Tensor
    t_next: Tensor
    _levels: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def h(self) -> Tensor:
        """The length of the step."""
        return self.t_next - self.t

    def place(self, r: float) -> Tensor:
        """Return t at the share r of the step."""
        # The end is t_next itself, from which t + h may differ in the last digit.
        return self.t_next if r == 1 else self.t + r * self.h

    def sigma(self, r: float) -> Tensor:
        """Return the level at the share r of the step."""
        if r not in self._levels:
            self._levels[r] = self.place(r).neg().exp()
        return self._levels[r]

    def first(self, r: float = 1.0) -> Expression:
        """Return the states at the share r, of order 1."""
        return X - float(self.sigma(r) * (r * self.h).expm1()) * EPS

    def second(self, r1: float = 0.5) -> Expression:
        """Return the end of order 2, with an evaluation at the share r1."""
        factor = self.sigma(1.0) / (2 * r1) * self.h.expm1()
        return self.first() - float(factor) * (EPS_R1 - EPS)

    def third_stage(self, r1: float = R1, r2: float = R2) -> Expression:
        """Return the states at the share r2, after an evaluation at the share r1."""
        length = r2 * self.h
        factor = self.sigma(r2) * (r2 / r1) * (length.expm1() / length - 1)
        return self.first(r2) - float(factor) * (EPS_R1 - EPS)

    def third(self, r2: float = R2) -> Expression:
        """Return the end of order 3, with an evaluation at the share r2."""
        factor = self.sigma(1.0) / r2 * (self.h.expm1() / self.h - 1)
        return self.first() - float(factor) * (EPS_R2 - EPS)


def ancestral_move(t: Tensor, t_next: Tensor, t_end: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Return (the t where the deterministic move of a step ends, the standard deviation of the noise after it).

    The move goes beyond t_next, but not beyond t_end, and the noise brings the states back.
    """
    if not eta:
        return t_next, torch.zeros_like(t)
    sigma, sigma_next = t.neg().exp(), t_next.neg().exp()
    up = eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    down = (sigma_next**2 - up.minimum(sigma_next) ** 2) ** 0.5
    end = down.log().neg().minimum(t_end)
    return end, (sigma_next**2 - end.neg().exp() ** 2) ** 0.5
