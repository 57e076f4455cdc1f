"""PointPotential: the conservative field of PFGM++ for weighted points, as an energy -ln phi at every noise level.

The charges p_i at the points y_i, seen from N + D dimensions at the distance r = sigma sqrt(D), have the potential
  phi(x, sigma) = sum_i p_i (|x - y_i|² + r²)^(-m/2),  m = N + D - 2.
Its field points along the probability flow of PFGM++. With the denoised state D(x; sigma) of `PointSet`,
  x - D(x; sigma) = (dof sigma) grad phi / (d phi/d sigma).
The factor beside grad phi depends on x. So D - x is no gradient at finite D, while grad ln phi is one. The energy
is
  U = -ln phi - m ln r,
whose last term is a constant at each level. U stays finite as D grows, and tends to the energy of the Gaussian law
up to a constant. In terms of U,
  D(x; sigma) = x - sigma² grad U · dof/(m + sigma dU/dsigma).

Source: Xu et al. 2023, arXiv 2302.04265, for the field; its form as a quotient follows by differentiation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edmfast._internal.derivatives import is_recorded
from edmfast.analytic.point_set import Numbers, Offsets, PointSet


class PointPotential(nn.Module):
    """The energy -ln phi of the potential phi of weighted points, whose field drives PFGM++ with D = dof.

    It is a target (`energy_and_score`, exponent 1) and a denoiser (`forward`, that of `PointSet`). Its score
    grad ln phi is a gradient at every D, which the field (D - x)/sigma² of the denoiser is not. It is not the
    energy of the noised law, which `PointSet.energy` is, and x + sigma² score is not the denoised state:
    `edmfast.models.PotentialDenoiser` gives it from the energy and its slope in sigma. It is twice differentiable.

    Source: Xu et al. 2023, arXiv 2302.04265.

    Args:
        points: [K, N], the clean states.
        weights: [K], not negative; they are normalised here, and equal by default.
        dof: D, the degrees of freedom of the noise, positive, with N + D > 2; math.inf for the Gaussian limit.

    Raises:
        TypeError: an argument that is no number.
        ValueError: as `PointSet`, or N + D of at most 2, where the potential does not fall with distance.
    """

    exponent = 1.0

    def __init__(
        self, points: Numbers, weights: Numbers | None = None, *, dof: float = math.inf
    ) -> None:
        super().__init__()
        self.point_set = PointSet(points, weights, dof=dof)
        if not self._power > 0:
            raise ValueError(
                f"N + dof must be above 2, given N = {self.point_set.points.shape[1]} and dof = {self.dof:g}"
            )

    @property
    def dof(self) -> float:
        """D, the degrees of freedom of the noise."""
        return self.point_set.dof

    @property
    def _power(self) -> float:
        return self.point_set.points.shape[1] + self.dof - 2

    def energy(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return U = -ln phi - m ln r, [B]; see `energy_and_score` for x and sigma."""
        return self.energy_and_score(x, sigma)[0]

    def energy_and_score(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return (U = -ln phi - m ln r [B], its score grad ln phi like x).

        Both are differentiable where x or sigma requires grad, and detached otherwise.

        Args:
            x: [B, *shape] with prod(shape) = N.
            sigma: a float, [] or [B], positive, in the units of x.
        """

        def evaluate(offsets: Offsets) -> tuple[Tensor, Tensor]:
            log_sum, shares, ratio = self._shares(offsets)
            pulls = shares * self._ratio() / (offsets.sigma.square() * ratio)
            return -log_sum, (pulls[:, :, None] * offsets.towards).sum(1)

        with torch.set_grad_enabled(is_recorded(x, sigma)):
            energy, score = self.point_set._in_blocks(x, sigma, evaluate)
            return energy, score.reshape(x.shape)

    def energy_slope(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the exact derivative dU/dsigma of the energy, [B]; see `energy_and_score` for x and sigma.

        The derivative of -ln phi itself is dU/dsigma + (N + D - 2)/sigma.
        """

        def evaluate(offsets: Offsets) -> tuple[Tensor]:
            _, shares, ratio = self._shares(offsets)
            slope = -self._ratio() * (shares * offsets.squares / ratio).sum(1)
            return (slope / offsets.sigma[:, 0],)

        return self.point_set._in_blocks(x, sigma, evaluate)[0]

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the posterior mean E[x_0 | x_sigma = x] of PFGM++, like x; see `energy_and_score`."""
        return self.point_set.denoise(x, sigma)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return `denoise(x, sigma)`, so that the potential is a denoiser for every sampler."""
        return self.denoise(x, sigma)

    def _ratio(self) -> float:
        """Return m/D, which tends to 1."""
        return 1.0 if self.dof == math.inf else self._power / self.dof

    def _shares(self, offsets: Offsets) -> tuple[Tensor, Tensor, Tensor]:
        """Return (ln(phi r^m) [B], the shares of the points in phi [B, K], (|x - y_i|² + r²)/r² [B, K])."""
        logits = offsets.log_kernel(self._power / 2, self.dof)
        log_sum = torch.logsumexp(logits, 1)
        ratio = 1 + offsets.squares / self.dof
        return log_sum, (logits - log_sum[:, None]).exp(), ratio
