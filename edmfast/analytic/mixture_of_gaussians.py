"""MixtureOfGaussians: a mixture of Gaussians with full covariances, exact at every noise level.

p(x; sigma) = sum_k w_k N(x; mu_k, C_k + sigma² I). The eigenvalues e_ki and eigenvectors U_k of C_k are computed
once, and then every noise level costs two matrix products. Let c and s² denote the mean and the mean variance of
the mixture, v_k = e_k + sigma², z_k = U_kᵀ(x - mu_k), and r_k the posterior probability of component k. Then
  f_k = U_kᵀ(mu_k - c) + (e_k - s²)/v_k z_k,   F = sum_k r_k U_k f_k,
  score = (F - (x - c))/(s² + sigma²),
  denoised D = c + (s² (x - c) + sigma² F)/(s² + sigma²),
  tr dD/dx = sum_k r_k sum_i e_ki/v_ki + sigma²/(s² + sigma²)² (sum_k r_k |f_k|² - |F|²).
The formulas follow from Bayes' rule, in the notation of Karras et al. 2022, arXiv 2206.00364. The reference point
c + s²/(s² + sigma²) (x - c), to which f_k is relative, keeps float32 accuracy at small and at large noise levels.
x is [B, *shape] with prod(shape) = D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from edmfast._internal.batch_invariant import least_rows
from edmfast._internal.derivatives import is_recorded
from edmfast._internal.generators import generator
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_numbers, as_seed
from edmfast._internal.rows import MIN_ROWS, pad_rows
from edmfast.analytic.component_weights import as_weights
from edmfast.analytic.covariances import Covariances, as_covariances, eigen_of
from edmfast.analytic.labels import as_classes, as_labels, log_weights_by_class
from edmfast.analytic.posterior import Posterior, Table, table_of
from edmfast.analytic.products_of_gaussians import (
    Components,
    GaussianProducts,
    check_count,
    multiply,
    multisets,
)
from edmfast.models.preconditioning import noise_levels

_BLOCK_ELEMENTS = 1 << 19
"""The largest number of rows times components times dimensions that are handled at once."""

Numbers = torch.Tensor | Sequence[Any]


class MixtureOfGaussians(nn.Module):
    """A mixture of Gaussians with full covariances, exact at every noise level.

    It is a target (`energy_and_score`, exponent 1, normalised energy) and a denoiser (`forward`), and is twice
    differentiable. Powers of it, and products with other such mixtures, are such mixtures again. Parameters are
    kept in float64 and used in the dtype of x, or in float32 for half types.

    Where components have classes, every method that takes states also takes `class_label`, an int64 tensor [B]:
    row b then follows p(x | class_label[b]), and the label C = number of classes means no condition. An int or a
    tensor [P] is bound by `edmfast.Conditioned(mixture, class_label=...)`.

    Source: Bayes' rule, in the notation of Karras et al. 2022, arXiv 2206.00364.

    Args:
        means: [K, D].
        covariances: [K, D, D], positive definite, or a tuple (diagonal [K, D], factors [K, D, R]) for the
            covariances diag(diagonal_k) + factors_k factors_kᵀ. Both forms are kept as [K, D, D].
        weights: [K], not negative; they are normalised here, and equal by default.
        classes: the class of each component, integers [K] that hold every number from 0 to C - 1; None means that
            there are no classes.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, covariances that are not symmetric and positive
            definite, weights that are negative or sum to 0, or classes that are not as above.
    """

    means: torch.Tensor
    covariances: torch.Tensor
    weights: torch.Tensor
    classes: torch.Tensor | None
    _eigenvalues: torch.Tensor
    _eigenvectors: torch.Tensor
    _log_weights: torch.Tensor
    exponent = 1.0
    normalised = True

    def __init__(
        self,
        means: Numbers,
        covariances: Covariances,
        weights: Numbers | None = None,
        classes: Numbers | None = None,
    ) -> None:
        super().__init__()
        means = as_numbers("means", means)
        if means.dim() != 2 or means.numel() == 0:
            raise ValueError(f"means must be [K, D], not empty, given {[*means.shape]}")
        full = as_covariances(covariances, *means.shape).to(means.device)
        weights = as_weights(weights, len(means), means.device)
        self.register_buffer("means", means)
        self.register_buffer("covariances", full)
        self.register_buffer("weights", weights)
        self.register_buffer(
            "classes", None if classes is None else as_classes(classes, len(means)).to(means.device)
        )
        self._derive()

    def _derive(self) -> None:
        """Compute all that follows from means, covariances, weights and classes."""
        means, weights = self.means, self.weights
        values, vectors = eigen_of(self.covariances)
        self.register_buffer("_eigenvalues", values, persistent=False)
        self.register_buffer("_eigenvectors", vectors, persistent=False)
        # the last row is for states without a class
        self.register_buffer(
            "_log_weights", log_weights_by_class(weights, self.classes), persistent=False
        )
        table = table_of(means, values, vectors, weights)
        for name, part in table._asdict().items():
            self.register_buffer(f"_table_{name}", part, persistent=False)
        # distances and widths are squared in the dtype of the states
        self._fits_float32 = bool(
            (means.abs() < 1e18).all() and ((values > 1e-36) & (values < 1e36)).all()
        )
        self._factor_masses: tuple[torch.Tensor, ...] = ()
        self._log_normaliser = 0.0

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        # the tables of the mixture before would give a density that is neither of the two
        self._derive()

    @property
    def num_classes(self) -> int:
        """The number C of classes; 0 where components have no classes."""
        return len(self._log_weights) - 1

    @property
    def log_normaliser(self) -> float:
        """The log of the integral of the power or product that this mixture was made from, in nats, or 0."""
        return self._log_normaliser

    @property
    def factor_masses(self) -> tuple[torch.Tensor, ...]:
        """The masses of the factors' components in the power or product that this mixture was made from.

        There is one float64 [K_f] with sum 1 for each factor, and a power has one factor. For p², the mass of
        component i is the sum over j of the masses of the pairs (i, j). The mean of `p.responsibilities(x, sigma)`
        over draws x of this mixture is an unbiased estimate of it.
        """
        return self._factor_masses

    def accepted_conditions(self) -> set[str]:
        """Return the names of the conditions: class_label where components have classes."""
        return set() if self.classes is None else {"class_label"}

    def log_prob(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor = 0.0,
        class_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return log p(x; sigma), [B], in nats, normalised.

        Args:
            x: [B, *shape] with prod(shape) = D.
            sigma: a float, [] or [B], at least 0, in the units of x.
            class_label: int64 [B] or [1], each from 0 to C.
        """
        return self._evaluate(x, sigma, class_label, lambda p: (p.log_density,))[0]

    def energy(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        class_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return -log p(x; sigma), [B], in nats; see `log_prob` for the arguments."""
        return -self.log_prob(x, sigma, class_label)

    def energy_and_score(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        class_label: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (energy [B] in nats, score like x); see `log_prob` for the arguments.

        Both are differentiable where x or sigma requires grad, and detached otherwise.
        """
        with torch.set_grad_enabled(is_recorded(x, sigma)):
            log_density, score = self._evaluate(
                x, sigma, class_label, lambda p: (p.log_density, p.score())
            )
            return -log_density, score.reshape(x.shape)

    def denoise(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        class_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the posterior mean E[x_0 | x_sigma = x], like x; see `log_prob` for the arguments."""
        return self._evaluate(x, sigma, class_label, lambda p: (p.denoised(),))[0].reshape(x.shape)

    def forward(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        class_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return `denoise(x, sigma, class_label)`, so that the mixture is a denoiser for every sampler."""
        return self.denoise(x, sigma, class_label)

    def jacobian_trace(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        class_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the exact trace of the Jacobian dD/dx of the denoised states D, [B]; see `log_prob`.

        It is the trace of the posterior covariance of x_0 divided by sigma². With d dimensions, the trace of the
        Jacobian of the score is (tr dD/dx - d)/sigma².
        """
        return self._evaluate(x, sigma, class_label, lambda p: (p.jacobian_trace(),))[0]

    def responsibilities(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor = 0.0,
        class_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the posterior probabilities of the components, [B, K]; see `log_prob` for the arguments."""
        return self._evaluate(x, sigma, class_label, lambda p: (p.responsibilities,))[0]

    def by_class(self, values: torch.Tensor) -> torch.Tensor:
        """Return sums over the components of each class, [..., C], of numbers [..., K] such as masses.

        Raises ValueError where components have no classes, or where the last size is not K.
        """
        if self.classes is None:
            raise ValueError("this mixture has no classes: pass classes=[K] to MixtureOfGaussians")
        if values.shape[-1:] != self.weights.shape:
            raise ValueError(
                f"values must be [..., K] with K = {len(self.weights)}, given {[*values.shape]}"
            )
        sums = values.new_zeros(*values.shape[:-1], self.num_classes)
        return sums.index_add(-1, self.classes, values)

    def sample(self, n: int, sigma: float = 0.0, *, seed: int) -> torch.Tensor:
        """Return n independent draws from p(.; sigma), [n, D], float64.

        Args:
            n: number of draws.
            sigma: noise level, at least 0, in the units of x.
            seed: 64 bits that determine the draws.
        """
        n, sigma = as_int("n", n, least=0), _as_level(sigma)
        means, device = self.means, self.means.device
        draws = generator(as_seed(seed), device)
        uniform = torch.rand(n, generator=draws, dtype=means.dtype, device=device)
        component = torch.searchsorted(self.weights.cumsum(0), uniform, right=True)
        # rounding of the cumulative sum may leave the last number below the uniform draw
        component = component.clamp(max=len(means) - 1)
        x = torch.randn(n, means.shape[1], generator=draws, dtype=means.dtype, device=device)
        # a matrix for every draw would take D times the memory of the draws
        for k in component.unique().tolist():
            widths = (self._eigenvalues[k] + sigma**2).sqrt()
            rows = component == k
            x[rows] = means[k] + x[rows] * widths @ self._eigenvectors[k].T
        return x

    def at(self, sigma: float) -> MixtureOfGaussians:
        """Return p(.; sigma) as a mixture of its own, whose covariances are C_k + sigma² I.

        sigma: noise level, at least 0, in the units of x.
        """
        noise = _as_level(sigma) ** 2 * torch.eye(
            self.means.shape[1], dtype=self.means.dtype, device=self.means.device
        )
        return MixtureOfGaussians(self.means, self.covariances + noise, self.weights, self.classes)

    def conditional(self, label: int) -> MixtureOfGaussians:
        """Return p(x | label) as a mixture of the components of that class, without classes.

        Raises ValueError for a label that is not from 0 to C - 1, and where components have no classes.
        """
        if self.classes is None:
            raise ValueError("this mixture has no classes: pass classes=[K] to MixtureOfGaussians")
        rows = self.classes == as_int("label", label, least=0, most=self.num_classes - 1)
        return MixtureOfGaussians(self.means[rows], self.covariances[rows], self.weights[rows])

    def power(self, n: int, sigma: float = 0.0) -> MixtureOfGaussians:
        """Return the density proportional to p(x; sigma)^n, an exact mixture of products of n components.

        The result has log Z in `log_normaliser`: n log p(x; sigma) = result.log_prob(x) + log Z. It has the masses
        of the components of p in `factor_masses[0]`. Products that differ only in the order of their
        components are one component: p² has K (K + 1)/2.

        Args:
            n: the exponent, an integer of at least 1.
            sigma: noise level of p, at least 0, in the units of x.

        Raises:
            ValueError: more components than memory holds.
        """
        n, components = as_int("n", n, least=1), len(self.weights)
        check_count(math.comb(components + n - 1, n), self.means.shape[1])
        index, log_orders = multisets(components, n)
        factors = multiply([self._components(sigma)] * n, index.to(self.means.device))
        factors = factors._replace(log_masses=factors.log_masses + log_orders.to(self.means.device))
        result = _mixture_of(factors)
        counts = nn.functional.one_hot(index, components).sum(1).to(result.weights)
        result._factor_masses = (result.weights @ counts / n,)
        return result

    def product(self, other: MixtureOfGaussians, sigma: float = 0.0) -> MixtureOfGaussians:
        """Return the density proportional to p(x; sigma) q(x; sigma), an exact mixture of all pairs of components.

        Component i K_q + j is the pair (i, j). The result has log Z in `log_normaliser`, and the masses of the
        components of p and of q in `factor_masses`.

        Args:
            other: q, a mixture in as many dimensions.
            sigma: noise level of both, at least 0, in the units of x.

        Raises:
            TypeError: another kind of model.
            ValueError: another number of dimensions, or more components than memory holds.
        """
        if not isinstance(other, MixtureOfGaussians):
            raise TypeError(f"other must be a MixtureOfGaussians, given {type(other).__name__}")
        if other.means.shape[1] != self.means.shape[1]:
            raise ValueError(
                f"both mixtures must have one number of dimensions, given {self.means.shape[1]} and "
                f"{other.means.shape[1]}"
            )
        shape = (len(self.weights), len(other.weights))
        check_count(math.prod(shape), self.means.shape[1])
        index = torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, 2)
        factors = [self._components(sigma), other._components(sigma)]
        result = _mixture_of(multiply(factors, index.to(self.means.device)))
        masses = result.weights.view(shape)
        result._factor_masses = (masses.sum(1), masses.sum(0))
        return result

    def _components(self, sigma: float) -> Components:
        variances = self._eigenvalues + _as_level(sigma) ** 2
        return Components(self.means, variances, self._eigenvectors, self.weights.log())

    def _evaluate(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        class_label: torch.Tensor | None,
        parts_of: Callable[[Posterior], tuple[torch.Tensor, ...]],
    ) -> tuple[torch.Tensor, ...]:
        levels = noise_levels(x, sigma).reshape(-1, 1)
        components, dim = self.means.shape
        if math.prod(x.shape[1:]) != dim:
            raise ValueError(f"x must be [B, *shape] with prod(shape) = {dim}, given {[*x.shape]}")
        # squares in half types would overflow or lose their digits
        dtype = torch.promote_types(x.dtype, torch.float32)
        table = self._table_in(dtype)
        states, levels = x.flatten(1).to(dtype), levels.to(dtype)
        log_weights = self._log_weights.to(dtype)
        if class_label is None:
            log_weights = log_weights[-1:]
        else:
            log_weights = log_weights[as_labels(class_label, len(x), self.num_classes)]
        # blocks bound the memory of [rows, K, D]
        rows = max(MIN_ROWS, _BLOCK_ELEMENTS // (components * dim))
        blocks = [
            _padded(
                table,
                states[start : start + rows],
                _rows(levels, start, rows),
                _rows(log_weights, start, rows),
                parts_of,
            )
            for start in range(0, max(1, len(states)), rows)
        ]
        parts = blocks[0] if len(blocks) == 1 else map(torch.cat, zip(*blocks, strict=True))
        return tuple(part.to(x.dtype) for part in parts)

    def _table_in(self, dtype: torch.dtype) -> Table:
        if dtype == torch.float32 and not self._fits_float32:
            raise ValueError(
                "x in float32 needs means below 1e18 and eigenvalues of covariances from 1e-36 to 1e36, whose "
                "squares float32 can hold: pass x in float64"
            )
        parts = (getattr(self, f"_table_{name}") for name in Table._fields)
        return Table(*parts).to(dtype)


def _rows(values: torch.Tensor, start: int, rows: int) -> torch.Tensor:
    """Return the rows of a block, or the one row that all states share."""
    return values if len(values) == 1 else values[start : start + rows]


def _padded(
    table: Table,
    y: torch.Tensor,
    levels: torch.Tensor,
    log_weights: torch.Tensor,
    parts_of: Callable[[Posterior], tuple[torch.Tensor, ...]],
) -> list[torch.Tensor]:
    """Return parts of the posterior of rows y, whose bits do not depend on the number of rows."""
    batch = len(y)
    least = max(MIN_ROWS, least_rows(y.dtype))
    y, levels, rest = pad_rows(y, levels, {"log_weights": log_weights}, least=least)
    return [part[:batch] for part in parts_of(Posterior(table, y, levels, rest["log_weights"]))]


def _mixture_of(products: GaussianProducts) -> MixtureOfGaussians:
    """Return products of Gaussians as a mixture with the log of their total mass."""
    log_normaliser = torch.logsumexp(products.log_masses, 0)
    weights = (products.log_masses - log_normaliser).exp()
    result = MixtureOfGaussians(products.means, products.covariances, weights)
    result._log_normaliser = float(log_normaliser)
    return result


def _as_level(sigma: float) -> float:
    level = as_float("sigma", sigma, least=0)
    if level > 0:
        check_level("sigma", level)
    return level
