"""PointSet: weighted points with Student-t or Gaussian noise, the exact reference of PFGM++ and of EDM.

With N elements, D degrees of freedom, r = sigma sqrt(D) and q_i = |x - y_i|² + r², the noised law is
  p(x; sigma) = sum_i p_i C_D(sigma) (1 + |x - y_i|²/r²)^(-(N + D)/2),
  C_D(sigma) = Gamma((N + D)/2) / (Gamma(D/2) (pi r²)^(N/2)).
With the responsibilities w_i ∝ p_i q_i^(-(N + D)/2), which sum to 1, and the pulls g_i = (N + D)/q_i,
  energy  = -ln p(x; sigma), normalised, in nats,
  score   = sum_i w_i g_i (y_i - x),
  denoise = sum_i w_i y_i,
  tr dD/dx = sum_i w_i g_i (y_i - D)·(y_i - x).
D = inf is the Gaussian law of EDM, with w_i ∝ p_i exp(-|x - y_i|²/(2 sigma²)) and g_i = 1/sigma². There
denoise = x + sigma² score. At finite D the denoised state is no gradient: see `edmfast.analytic.PointPotential`.

Source: Xu et al. 2023, "PFGM++: Unlocking the potential of physics-inspired generative models", arXiv 2302.04265.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edmfast._internal.derivatives import is_recorded
from edmfast._internal.generators import generator
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_numbers, as_seed
from edmfast._internal.rows import MIN_ROWS, pad_rows
from edmfast.analytic.component_weights import as_weights
from edmfast.models.preconditioning import expand_sigma, refuse_zero
from edmfast.models.student_t import as_dof, student_t_scale

_BLOCK_ELEMENTS = 1 << 23
"""The largest number of offsets, rows times points times elements, that are formed at once."""

Numbers = Tensor | Sequence[float] | Sequence[Sequence[float]]


class Offsets(NamedTuple):
    """The points as states see them: y_i - x [B, K, N], (distance/sigma)² [B, K], sigma [B, 1], ln p_i [K]."""

    towards: Tensor
    squares: Tensor
    sigma: Tensor
    log_weights: Tensor
    points: Tensor

    def log_kernel(self, power: float, dof: float) -> Tensor:
        """Return ln p_i - power ln(1 + |x - y_i|²/r²), [B, K], or its limit where power = dof/2 is infinite."""
        if dof == math.inf:
            return self.log_weights - 0.5 * self.squares
        # log1p keeps the digits of distances far below r, as all are where D is large
        return self.log_weights - power * torch.log1p(self.squares / dof)


class PointSet(nn.Module):
    """Weighted points with Student-t noise of D degrees of freedom, exact at every positive noise level.

    It is the reference for PFGM++, whose perfect denoiser for a finite data set this is, and for EDM at D = inf.
    It is a denoiser (`forward`) and a target (`energy_and_score`, exponent 1, normalised energy of the noised
    law), and is twice differentiable. At finite D these two belong together by the probability flow, which carries
    p(.; sigma) from level to level, and not by Tweedie's formula: x + sigma² score is another field than the
    denoiser. Parameters are kept in float64 and used in the dtype of x, or in float32 for half types.

    Source: Xu et al. 2023, arXiv 2302.04265.

    Args:
        points: [K, N], the clean states.
        weights: [K], not negative; they are normalised here, and equal by default.
        dof: D, the degrees of freedom of the noise, positive; math.inf for Gaussian noise.

    Raises:
        TypeError: an argument that is no number.
        ValueError: wrong shapes, numbers that are not finite, a dof that is not positive, or weights that are
            negative or sum to 0.
    """

    points: Tensor
    weights: Tensor
    exponent = 1.0
    normalised = True

    def __init__(
        self, points: Numbers, weights: Numbers | None = None, *, dof: float = math.inf
    ) -> None:
        super().__init__()
        points = as_numbers("points", points)
        if points.dim() != 2 or points.numel() == 0:
            raise ValueError(f"points must be [K, N], not empty, given {[*points.shape]}")
        self.dof = as_dof("dof", dof)
        self.register_buffer("points", points)
        self.register_buffer("weights", as_weights(weights, len(points), points.device))

    def log_prob(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return ln p(x; sigma), [B], in nats, normalised.

        Args:
            x: [B, *shape] with prod(shape) = N.
            sigma: a float, [] or [B], positive, in the units of x.
        """
        return self._in_blocks(x, sigma, lambda offsets: (self._log_prob(offsets)[0],))[0]

    def energy(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return -ln p(x; sigma), [B], in nats; see `log_prob` for x and sigma."""
        return -self.log_prob(x, sigma)

    def energy_and_score(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return (energy [B] in nats, score like x) of the noised law; see `log_prob` for x and sigma.

        Both are differentiable where x or sigma requires grad, and detached otherwise.
        """

        def evaluate(offsets: Offsets) -> tuple[Tensor, ...]:
            log_prob, shares = self._log_prob(offsets)
            pull = shares * self._pulls(offsets)
            return log_prob, (pull[:, :, None] * offsets.towards).sum(1)

        with torch.set_grad_enabled(is_recorded(x, sigma)):
            log_prob, score = self._in_blocks(x, sigma, evaluate)
            return -log_prob, score.reshape(x.shape)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the posterior mean E[x_0 | x_sigma = x], like x; see `log_prob` for x and sigma."""

        def evaluate(offsets: Offsets) -> tuple[Tensor]:
            shares = self._log_prob(offsets)[1]
            return ((shares[:, :, None] * offsets.points).sum(1),)

        return self._in_blocks(x, sigma, evaluate)[0].reshape(x.shape)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return `denoise(x, sigma)`, so that the points are a denoiser for every sampler."""
        return self.denoise(x, sigma)

    def jacobian_trace(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the exact trace of the Jacobian dD/dx of the denoised states D, [B]; see `log_prob`."""

        def evaluate(offsets: Offsets) -> tuple[Tensor]:
            shares = self._log_prob(offsets)[1][:, :, None]
            # deviations from the mean cancel no digits
            deviations = offsets.points - (shares * offsets.points).sum(1, keepdim=True)
            pulled = shares * self._pulls(offsets)[:, :, None] * offsets.towards
            return ((deviations * pulled).sum((1, 2)),)

        return self._in_blocks(x, sigma, evaluate)[0]

    def sample(self, n: int, sigma: float = 0.0, *, seed: int) -> Tensor:
        """Return n independent draws from p(.; sigma), [n, N], float64; the points themselves at sigma = 0.

        Args:
            n: number of draws.
            sigma: noise level, at least 0, in the units of x.
            seed: 64 bits that determine the draws.
        """
        n, sigma = as_int("n", n, least=0), as_float("sigma", sigma, least=0)
        if sigma > 0:
            check_level("sigma", sigma)
        points, device = self.points, self.points.device
        draws = generator(as_seed(seed), device)
        place, radius = torch.rand(2, n, generator=draws, dtype=points.dtype, device=device)
        index = torch.searchsorted(self.weights.cumsum(0), place, right=True)
        # rounding of the cumulative sum may leave the last number below the uniform draw
        clean = points[index.clamp(max=len(points) - 1)]
        normals = torch.randn(clean.shape, generator=draws, dtype=points.dtype, device=device)
        # a uniform of 0 would give an infinite state
        scale = student_t_scale(radius.clamp_min(2.0**-54), self.dof)
        return clean + sigma * scale[:, None] * normals

    def _log_prob(self, offsets: Offsets) -> tuple[Tensor, Tensor]:
        """Return (ln p [B], responsibilities w_i [B, K])."""
        elements = self.points.shape[1]
        logits = offsets.log_kernel((elements + self.dof) / 2, self.dof)
        total = torch.logsumexp(logits, 1)
        normaliser = _log_normaliser(elements, self.dof) - elements * offsets.sigma[:, 0].log()
        return total + normaliser, (logits - total[:, None]).exp()

    def _pulls(self, offsets: Offsets) -> Tensor:
        """Return (N + D)/(|x - y_i|² + r²), [B, K] or [B, 1]."""
        variance = offsets.sigma.square()
        if self.dof == math.inf:
            return 1 / variance
        return (1 + self.points.shape[1] / self.dof) / (variance * (1 + offsets.squares / self.dof))

    def _in_blocks(
        self,
        x: Tensor,
        sigma: float | Tensor,
        evaluate: Callable[[Offsets], tuple[Tensor, ...]],
    ) -> list[Tensor]:
        """Return what a function of the offsets gives for all rows, [B, ...], in blocks that bound the memory."""
        count, elements = self.points.shape
        levels = expand_sigma(sigma, x)
        refuse_zero(self, sigma)
        if math.prod(x.shape[1:]) != elements:
            raise ValueError(
                f"x must be [B, *shape] with prod(shape) = {elements}, given {[*x.shape]}"
            )
        # squares of distances in half types would overflow or lose their digits
        dtype = torch.promote_types(x.dtype, torch.float32)
        points, log_weights = self.points.to(dtype), self.weights.log().to(dtype)
        y, batch = x.flatten(1).to(dtype), len(x)
        y, levels, _ = pad_rows(y, levels.reshape(-1, 1).to(dtype), {})
        rows = max(MIN_ROWS, _BLOCK_ELEMENTS // (count * elements))
        blocks = []
        for part, level in zip(y.split(rows), levels.split(rows), strict=True):
            towards = points - part[:, None]
            # the quotient is squared, because the square of a small level may lose its digits
            squares = (towards / level[:, :, None]).square().sum(2)
            blocks.append(evaluate(Offsets(towards, squares, level, log_weights, points)))
        return [torch.cat(parts)[:batch].to(x.dtype) for parts in zip(*blocks, strict=True)]


def _log_normaliser(elements: int, dof: float) -> float:
    """Return ln C_D(1), the logarithm of the normaliser of the noise at sigma = 1."""
    if dof == math.inf:
        return -0.5 * elements * math.log(2 * math.pi)
    gammas = math.lgamma((elements + dof) / 2) - math.lgamma(dof / 2)
    return gammas - 0.5 * elements * math.log(math.pi * dof)
