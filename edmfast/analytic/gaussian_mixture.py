"""GaussianMixture: a mixture of isotropic Gaussians, exact at every noise level, and the test case GMM-40.

p(x; sigma) = sum_k w_k N(x; mu_k, v_k I) with v_k = std_k² + sigma². With the responsibilities
r_k ∝ w_k v_k^(-D/2) exp(-|x - mu_k|²/(2 v_k)), which sum to 1,
  energy  = -log p(x; sigma), normalised, in nats,
  score   = sum_k (r_k/v_k) (mu_k - x),
  denoise = sum_k (r_k/v_k) (std_k² x + sigma² mu_k),
  tr dD/dx = D sum_k r_k std_k²/v_k + sigma²/(s² + sigma²)² (sum_k r_k |f_k|² - |sum_k r_k f_k|²),
with f_k = mu_k + (std_k² - s²)/v_k (x - mu_k) and the variance s² of the mixture per dimension; any s² is exact.
x is [B, *shape] with prod(shape) = D. A kernel density estimate is the case of equal weights and widths. The
formulas follow from Bayes' rule, in the notation of Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from edmfast._internal.batch_invariant import aligned, least_rows, padding
from edmfast._internal.derivatives import is_recorded
from edmfast._internal.generators import generator
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_numbers, as_seed
from edmfast._internal.rows import MIN_ROWS, pad_rows
from edmfast.analytic.component_weights import as_weights
from edmfast.models.preconditioning import expand_sigma

_OFFSETS_LIMIT = 128
"""Up to this many numbers in the means, all offsets x - mu are formed, which avoids cancellation."""
_SMALLEST_LOG_SHARE = -64.0
_BLOCK_ELEMENTS = 1 << 23
"""The largest number of rows times components that are handled at once."""

Numbers = torch.Tensor | Sequence[float] | Sequence[Sequence[float]]


class _Posterior(NamedTuple):
    log_density: torch.Tensor  # [B]
    score: torch.Tensor  # [B, D]
    denoised: torch.Tensor  # [B, D], relative to the centre


class _Block(NamedTuple):
    """The arguments of a block of rows, whose states and means are relative to the centre."""

    y: torch.Tensor  # [B, D]
    noise: torch.Tensor  # sigma², [B, 1]
    means: torch.Tensor  # [K, D]
    variances: torch.Tensor  # std_k², [K] or [1]
    log_weights: torch.Tensor  # [K]


class GaussianMixture(nn.Module):
    """A mixture of isotropic Gaussians, exact at every noise level.

    It is a target (`energy_and_score`, exponent 1, normalised energy) and a denoiser (`forward`), and is twice
    differentiable. Parameters are kept in float64 and used in the dtype of x, or in float32 for half types.

    Source: Bayes' rule, in the notation of Karras et al. 2022, arXiv 2206.00364.

    Args:
        means: [K, D].
        stds: [K], positive, in the units of x.
        weights: [K], not negative; they are normalised here, and equal by default.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, stds that are not positive, or weights that are
            negative or sum to 0.
    """

    means: torch.Tensor
    stds: torch.Tensor
    weights: torch.Tensor
    _centre: torch.Tensor
    _offsets: torch.Tensor
    _variances: torch.Tensor
    _scale: torch.Tensor
    exponent = 1.0
    normalised = True

    def __init__(self, means: Numbers, stds: Numbers, weights: Numbers | None = None) -> None:
        super().__init__()
        means = as_numbers("means", means)
        if means.dim() != 2 or means.numel() == 0:
            raise ValueError(f"means must be [K, D], not empty, given {[*means.shape]}")
        components = means.shape[0]
        stds = as_numbers("stds", stds).to(means.device)
        if stds.shape != (components,):
            raise ValueError(f"stds must be [K] = [{components}], given {[*stds.shape]}")
        weights = as_weights(weights, components, means.device)
        if (stds <= 0).any():
            raise ValueError(f"stds must be positive, given a smallest value of {stds.min():g}")
        for std in (float(stds.min()), float(stds.max())):
            check_level("stds", std)
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)
        self.register_buffer("weights", weights)
        self._derive()

    def _derive(self) -> None:
        """Compute all that follows from means, stds and weights."""
        means, stds, weights = self.means, self.stds, self.weights
        # distances and widths are squared in the dtype of the states
        self._fits_float32 = bool(
            (means.abs() < 1e18).all() and ((stds > 1e-18) & (stds < 1e18)).all()
        )
        # a few means are subtracted directly; matrix products with many means are centred first
        self._few = means.shape[1] == 1 or means.numel() <= _OFFSETS_LIMIT
        centre = torch.zeros_like(means[0]) if self._few else weights @ means
        self.register_buffer("_centre", centre, persistent=False)
        self.register_buffer("_offsets", means - centre, persistent=False)
        # one shared width needs no variances of shape [B, K]
        same = bool((stds == stds[0]).all())
        variances = stds[:1].square() if same else stds.square()
        self.register_buffer("_variances", variances, persistent=False)
        spread = (means - weights @ means).square().mean(1)
        self.register_buffer("_scale", weights @ (stds.square() + spread), persistent=False)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        # numbers derived from the mixture before would give a density that is neither of the two
        self._derive()

    def log_prob(self, x: torch.Tensor, sigma: float | torch.Tensor = 0.0) -> torch.Tensor:
        """Return log p(x; sigma), [B], in nats, normalised.

        Args:
            x: [B, *shape] with prod(shape) = D.
            sigma: a float, [] or [B], at least 0, in the units of x.
        """
        return self._evaluate(x, sigma).log_density

    def energy(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return -log p(x; sigma), [B], in nats; see `log_prob` for x and sigma."""
        return -self.log_prob(x, sigma)

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (energy [B] in nats, score like x); see `log_prob` for x and sigma.

        Both are differentiable where x or sigma requires grad, and detached otherwise.
        """
        with torch.set_grad_enabled(is_recorded(x, sigma)):
            posterior = self._evaluate(x, sigma)
            return -posterior.log_density, posterior.score.reshape(x.shape)

    def denoise(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return the posterior mean E[x_0 | x_sigma = x], like x; see `log_prob` for x and sigma."""
        posterior = self._evaluate(x, sigma)
        return (posterior.denoised + self._centre.to(x.dtype)).reshape(x.shape)

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return `denoise(x, sigma)`, so that the mixture is a denoiser for every sampler."""
        return self.denoise(x, sigma)

    def jacobian_trace(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Return the exact trace of the Jacobian dD/dx of the denoised states D, [B]; see `log_prob`.

        It is the trace of the posterior covariance of x_0 divided by sigma². With d dimensions, the trace of the
        Jacobian of the score is (tr dD/dx - d)/sigma².
        """
        traces = _traces_by_offsets if self._few else _traces_by_products
        return self._in_blocks(x, sigma, lambda block: (traces(block, self._scale.to(block.y)),))[0]

    def sample(self, n: int, sigma: float = 0.0, *, seed: int) -> torch.Tensor:
        """Return n independent draws from p(.; sigma), [n, D], float64.

        Args:
            n: number of draws.
            sigma: noise level, at least 0, in the units of x.
            seed: 64 bits that determine the draws.
        """
        n, sigma = as_int("n", n, least=0), as_float("sigma", sigma, least=0)
        if sigma > 0:
            check_level("sigma", sigma)
        means, device = self.means, self.means.device
        draws = generator(as_seed(seed), device)
        uniform = torch.rand(n, generator=draws, dtype=means.dtype, device=device)
        component = torch.searchsorted(self.weights.cumsum(0), uniform, right=True)
        # rounding of the cumulative sum may leave the last number below the uniform draw
        component = component.clamp(max=len(means) - 1)
        width = (self.stds[component].square() + sigma**2).sqrt()[:, None]
        noise = torch.randn(n, means.shape[1], generator=draws, dtype=means.dtype, device=device)
        return means[component] + width * noise

    def _evaluate(self, x: torch.Tensor, sigma: float | torch.Tensor) -> _Posterior:
        return _Posterior(*self._in_blocks(x, sigma, _by_offsets if self._few else _by_products))

    def _in_blocks(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        evaluate: Callable[[_Block], tuple[torch.Tensor, ...]],
    ) -> list[torch.Tensor]:
        levels = expand_sigma(sigma, x)
        dim = self.means.shape[1]
        if math.prod(x.shape[1:]) != dim:
            raise ValueError(f"x must be [B, *shape] with prod(shape) = {dim}, given {[*x.shape]}")
        # squares of distances in half types would overflow or lose their digits
        dtype = torch.promote_types(x.dtype, torch.float32)
        if dtype == torch.float32 and not self._fits_float32:
            raise ValueError(
                "x in float32 needs means below 1e18 and stds from 1e-18 to 1e18, whose squares float32 can hold: "
                "pass x in float64"
            )
        y = x.flatten(1).to(dtype) - self._centre.to(dtype)
        # blocks bound the memory of [rows, K] or [rows, K, D]
        rows = max(MIN_ROWS, _BLOCK_ELEMENTS // len(self.means))
        column = levels.flatten()[:, None].to(dtype)
        blocks = [
            self._block(*block, evaluate)
            for block in zip(torch.split(y, rows), torch.split(column, rows), strict=True)
        ]
        parts = blocks[0] if len(blocks) == 1 else map(torch.cat, zip(*blocks, strict=True))
        return [part.to(x.dtype) for part in parts]

    def _block(
        self,
        y: torch.Tensor,
        levels: torch.Tensor,
        evaluate: Callable[[_Block], tuple[torch.Tensor, ...]],
    ) -> list[torch.Tensor]:
        batch = len(y)
        y, levels, _ = pad_rows(y, levels, {}, least=max(MIN_ROWS, least_rows(y.dtype)))
        block = _Block(
            y,
            levels.square(),
            self._offsets.to(y.dtype),
            self._variances.to(y.dtype),
            self.weights.log().to(y.dtype),
        )
        return [part[:batch] for part in evaluate(block)]


def gmm40() -> GaussianMixture:
    """Return GMM-40: 40 modes of equal weight in [-40, 40]², each of standard deviation softplus(1) = 1.3133.

    The means are 80 (u - 1/2) with u uniform in float32 from torch's generator on the CPU at seed 0, as published.

    Source: Midgley et al. 2023, arXiv 2208.01893.
    """
    # float32 draws, because the published means were drawn in float32
    means = 80 * (torch.rand(40, 2, generator=generator(0)).double() - 0.5)
    return GaussianMixture(means, [math.log1p(math.e)] * 40)


def _by_products(block: _Block) -> _Posterior:
    """Return the posterior from distances |y|² - 2 y·mu + |mu|², by two matrix products without a [B, K, D]."""
    y, noise, variances = block.y, block.noise, block.variances
    wide, distances = _distances(block)
    log_density, pull = _responsibilities(block, distances)
    towards = (aligned(pull, wide.shape[0] - pull.shape[1]) @ wide)[:, : y.shape[1]]
    score = towards - y * pull.sum(1, keepdim=True)
    denoised = y * (pull * variances).sum(1, keepdim=True) + noise * towards
    return _Posterior(log_density, score, denoised)


def _by_offsets(block: _Block) -> _Posterior:
    """Return the posterior from the offsets mu - y themselves, [B, K, D]."""
    y, noise, variances = block.y, block.noise, block.variances
    offsets = block.means - y[:, None]
    log_density, pull = _responsibilities(block, offsets.square().sum(2))
    score = (pull[:, :, None] * offsets).sum(1)
    towards = (pull[:, :, None] * block.means).sum(1)
    denoised = y * (pull * variances).sum(1, keepdim=True) + noise * towards
    return _Posterior(log_density, score, denoised)


def _traces_by_products(block: _Block, scale: torch.Tensor) -> torch.Tensor:
    """Return tr dD/dx, [B], from distances."""
    y, noise, total = block.y, block.noise, block.variances + block.noise
    wide, distances = _distances(block)
    pull = _responsibilities(block, distances)[1]
    slope = (block.variances - scale) / total
    # |f|² of f = (1 - slope) mu + slope y
    squares = slope * y.square().sum(1, keepdim=True)
    squares = squares + (1 - slope) * (block.means.square().sum(1) - slope * distances)
    shares = pull * total
    weights = aligned(shares * (1 - slope), wide.shape[0] - pull.shape[1])
    mean = (weights @ wide)[:, : y.shape[1]] + (shares * slope).sum(1, keepdim=True) * y
    spread = (shares * squares).sum(1) - mean.square().sum(1)
    within = y.shape[1] * (pull * block.variances).sum(1)
    return within + (noise / (scale + noise).square())[:, 0] * spread


def _traces_by_offsets(block: _Block, scale: torch.Tensor) -> torch.Tensor:
    """Return tr dD/dx, [B], from the offsets y - mu themselves, [B, K, D]."""
    y, noise, total = block.y, block.noise, block.variances + block.noise
    offsets = y[:, None] - block.means
    pull = _responsibilities(block, offsets.square().sum(2))[1]
    means = block.means + ((block.variances - scale) / total)[:, :, None] * offsets
    shares = (pull * total)[:, :, None]
    # the squares of deviations from the mean cancel no digits
    spread = (shares * (means - (shares * means).sum(1, keepdim=True)).square()).sum((1, 2))
    within = y.shape[1] * (pull * block.variances).sum(1)
    return within + (noise / (scale + noise).square())[:, 0] * spread


def _distances(block: _Block) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (the means with rows and columns of zeros, squared distances to the means [B, K])."""
    y, means = block.y, block.means
    squares = y.square().sum(1, keepdim=True) + means.square().sum(1)
    columns, entries = padding(means.shape[1]), padding(len(means))
    wide = aligned(means, columns, entries)
    product = torch.addmm(aligned(squares, entries), aligned(y, columns), wide.T, alpha=-2)
    return wide, product[:, : len(means)]


def _responsibilities(block: _Block, distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (log density [B], r_k/v_k [B, K]) from squared distances [B, K]."""
    total = block.variances + block.noise
    precision = total.reciprocal()
    normaliser = block.log_weights - 0.5 * block.y.shape[1] * torch.log(2 * math.pi * total)
    logits = torch.addcmul(normaliser, distances, precision, value=-0.5)
    # the shift cancels in the result, so that it needs no derivative
    peak = logits.detach().amax(1, keepdim=True)
    # subnormal shares would make the exponential and the matrix products many times slower
    shares = (logits - peak).clamp_min(_SMALLEST_LOG_SHARE).exp()
    mass = shares.sum(1, keepdim=True)
    return (peak + mass.log()).squeeze(1), shares * (precision / mass)
