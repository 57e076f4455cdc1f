"""ManyWell: independent double wells at every noise level, with a normaliser that is known to machine precision.

Each pair of numbers (x_1, x_2) has the energy x_1⁴ - 6 x_1² - x_1/2 + x_2²/2 without noise, in nats and not
normalised: Z = 11784.50927 per pair, and log Z = 164.6957 for 32 numbers. There are 2^(dim/2) modes of unequal
mass. At noise level sigma, exp(-E(., sigma)) is the convolution of exp(-E) with N(0, sigma² I). So Z is the same
at every sigma. The energies of the two numbers are added:
  x_2: E = x_2²/(2 (1 + sigma²)) + log(1 + sigma²)/2;
  x_1: exp(-E) = ∫ exp(-E_1(x_1 + sigma u)) N(u; 0, 1) du by the trapezoidal rule, which converges faster than any
       power of its step for such functions.
For large sigma the nodes are fixed, and the sum is a mixture of Gaussians. For small sigma the nodes move with
x_1. The sum is then exact at sigma = 0 too, so that sigma has no lower limit. The score is the gradient of the
sum. The energy is correct to rounding where |x_1| <= 2.5 + 5 sigma. Farther out the density is negligible, and the
error of the energy grows slowly.

Sources: Noé et al. 2019, arXiv 1812.01729 (the double well); Midgley et al. 2023, arXiv 2208.01893 (ManyWell).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edmfast._internal.derivatives import is_recorded
from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.models.preconditioning import expand_sigma

_NODES = 64
"""The number of nodes on each side of the middle."""
_STEP = 1 / 16
"""The spacing of fixed nodes. The outermost nodes are at ±4, where exp(-E_1) is about 1e-68."""
_MOVING_STEP = 0.5
"""The spacing of nodes that move with x_1, in units of sigma."""
_LOWEST_SHARE = -64.0
"""The smallest log of the share of a node, relative to the largest share. It keeps exponentials from underflow."""
_LOWEST_ENERGY = -9.9
"""The approximate minimum of E_1, which keeps exponentials within range."""
_BLOCK_ELEMENTS = 1 << 16
"""The number of wells times nodes that are handled at once, which fit into the cache."""


def _well(x: torch.Tensor) -> torch.Tensor:
    square = x.square()
    return square * (square - 6) - 0.5 * x


def _well_slope(x: torch.Tensor) -> torch.Tensor:
    return x * (4 * x.square() - 12) - 0.5


class ManyWell(nn.Module):
    """A density of dim/2 independent double wells in the pairs (x_1, x_2), (x_3, x_4), ..., exact at every level.

    The density is a target (`energy_and_score`, exponent 1) and a denoiser (`forward`), and is twice
    differentiable. Computations run in the dtype of x, or in float32 for half types.

    Sources: Noé et al. 2019, arXiv 1812.01729; Midgley et al. 2023, arXiv 2208.01893.

    Args:
        dim: numbers per sample, even and positive.

    Raises:
        ValueError: a dim that is odd or not positive.
    """

    exponent = 1.0
    _nodes: torch.Tensor

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        dim = as_int("dim", dim)
        if dim < 2 or dim % 2:
            raise ValueError(f"dim must be even and positive, given {dim}")
        self.dim = dim
        nodes = torch.arange(-_NODES, _NODES + 1, dtype=torch.float64)
        self.register_buffer("_nodes", nodes, persistent=False)

    @property
    def log_z(self) -> float:
        """The log of the integral of exp(-E(., sigma)), in nats, equal at every sigma: 164.6957 for dim = 32."""
        log_mass = torch.logsumexp(-_well(self._nodes * _STEP), 0).item() + math.log(_STEP)
        return self.dim // 2 * (log_mass + 0.5 * math.log(2 * math.pi))

    def left_mass(self, sigma: float = 0.0) -> float:
        """Return the probability of x_1 < 0 in each well at noise level sigma: 0.1557 without noise."""
        y = torch.linspace(-4, 4, 32769, dtype=torch.float64)
        density = (_LOWEST_ENERGY - _well(y)).exp()
        # half of the mass of the node at 0 is on each side
        left = (y < 0).double() + 0.5 * (y == 0) if sigma == 0 else torch.special.ndtr(-y / sigma)
        return float((density * left).sum() / density.sum())

    def energy(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return E(x, sigma), [B], in nats, not normalised.

        Args:
            x: [B, *shape] with prod(shape) = dim.
            sigma: a float, [] or [B], at least 0, in the units of x.
        """
        return self._evaluate(x, sigma)[0]

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (energy [B] in nats, score like x); see `energy` for x and sigma.

        Both are differentiable where x or sigma requires grad, and detached otherwise.
        """
        with torch.set_grad_enabled(is_recorded(x, sigma)):
            return self._evaluate(x, sigma)[:2]

    def denoise(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return the posterior mean E[x_0 | x_sigma = x] = x + sigma² score, like x; see `energy`."""
        return x + expand_sigma(sigma, x).square() * self._evaluate(x, sigma)[1]

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return `denoise(x, sigma)`, so that the density is a denoiser for every sampler."""
        return self.denoise(x, sigma)

    def jacobian_trace(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return the exact trace of the Jacobian dD/dx of the denoised states D, [B]; see `energy`."""
        return self._evaluate(x, sigma, slopes=True)[2]

    def sample(self, n: int, sigma: float = 0.0, *, seed: int) -> torch.Tensor:
        """Return n independent draws at noise level sigma, [n, dim], float64.

        The density of x_1 is interpolated linearly between 2^16 + 1 nodes on [-4, 4]. That makes it a mixture of
        triangles, one around each node, with an error of 1e-7 in total variation.

        Args:
            n: number of draws.
            sigma: noise level, at least 0, in the units of x.
            seed: 64 bits that determine the draws.
        """
        n, sigma = as_int("n", n, least=0), as_float("sigma", sigma, least=0)
        device = self._nodes.device
        draws = generator(as_seed(seed), device)
        nodes = torch.linspace(-4, 4, 65537, dtype=torch.float64, device=device)
        cumulative = (_LOWEST_ENERGY - _well(nodes)).exp().cumsum(0)
        shape = (n, self.dim // 2)
        point, left, right = torch.rand(
            3, *shape, generator=draws, dtype=torch.float64, device=device
        )
        node = torch.searchsorted(cumulative, point * cumulative[-1], right=True)
        # the difference of two uniform draws has a triangular density
        first = nodes[node.clamp(max=len(nodes) - 1)] + (right - left) * (nodes[1] - nodes[0])
        second = torch.randn(shape, generator=draws, dtype=torch.float64, device=device)
        x = torch.stack([first, second], 2).flatten(1)
        if sigma == 0:
            return x
        return x + sigma * torch.randn(x.shape, generator=draws, dtype=torch.float64, device=device)

    def _evaluate(
        self, x: torch.Tensor, sigma: float | torch.Tensor, slopes: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (E [B], the score like x, tr dD/dx [B]); the last is computed only if `slopes`."""
        levels = expand_sigma(sigma, x)
        if math.prod(x.shape[1:]) != self.dim:
            raise ValueError(
                f"x must be [B, *shape] with prod(shape) = {self.dim}, given {[*x.shape]}"
            )
        dtype = torch.promote_types(x.dtype, torch.float32)
        wells = x.reshape(len(x), self.dim // 2, 2).to(dtype)
        level = levels.reshape(-1, 1).to(dtype)
        # small blocks stay in the cache
        rows = max(1, _BLOCK_ELEMENTS // (self.dim // 2 * len(self._nodes)))
        nodes = self._nodes.to(dtype)
        parts = [
            _convolved(first, noise, nodes, slopes)
            for first, noise in zip(
                torch.split(wells[..., 0], rows), torch.split(level, rows), strict=True
            )
        ]
        log_density, first_score, first_slope = map(torch.cat, zip(*parts, strict=True))
        variance = 1 + level.square()
        second_score = -wells[..., 1] / variance
        second = 0.5 * (variance.log() - wells[..., 1] * second_score)
        # the wells are independent, so their energies add up
        energy = (second - log_density).sum(1)
        score = torch.stack([first_score, second_score], 2).reshape(x.shape)
        trace = (first_slope + 1 / variance).sum(1)
        return energy.to(x.dtype), score.to(x.dtype), trace.to(x.dtype)


def _well_curvature(x: torch.Tensor) -> torch.Tensor:
    return 12 * x.square() - 12


def _convolved(
    x: torch.Tensor, sigma: torch.Tensor, nodes: torch.Tensor, slopes: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (log of the convolution, its derivative, the slope of the denoised number), each [B, W].

    x: [B, W]. sigma: [B, 1]. nodes: [K]. The slope is dD/dx_1 = 1 + sigma² (second derivative of the
    log). It is computed only if `slopes`, and is 0 otherwise.
    """
    x, sigma = x[:, :, None], sigma[:, :, None]
    moving = sigma * _MOVING_STEP < _STEP
    # the branch that is not selected must not divide by zero, or the derivative would be NaN
    width = sigma.clamp_min(_STEP / _MOVING_STEP)
    u = torch.where(moving, _MOVING_STEP * nodes, (_STEP * nodes - x) / width)
    y = torch.where(moving, x + sigma * (_MOVING_STEP * nodes), _STEP * nodes)
    logits = -0.5 * u.square() - _well(y)
    # the shift cancels in the result, so that it needs no derivative
    peak = logits.detach().amax(2, keepdim=True)
    shares = (logits - peak).clamp_min(_LOWEST_SHARE).exp()
    mass = shares.sum(2)
    # moving nodes differentiate the well, and fixed nodes the Gaussian
    slope = torch.where(moving, -_well_slope(y), u / width)
    spacing = torch.where(moving[..., 0], _MOVING_STEP, _STEP / width[..., 0])
    log_density = peak[..., 0] + mass.log() + (spacing / math.sqrt(2 * math.pi)).log()
    score = (shares * slope).sum(2) / mass
    if not slopes:
        return log_density, score, torch.zeros_like(score)
    # 1 + sigma² (variance of the slope + mean of its derivative), where fixed nodes have the derivative -1/sigma²
    variance = (shares * (slope - score[..., None]).square()).sum(2) / mass
    curvature = (shares * _well_curvature(y)).sum(2) / mass
    constant = torch.where(moving[..., 0], 1 - sigma[..., 0].square() * curvature, 0.0)
    return log_density, score, constant + sigma[..., 0].square() * variance
