"""The exact fields of an interpolant between two mixtures of Gaussians.

Given the components i of the base and j of the data, x_t is Gaussian with

    mean m_ij = a mu_i + b nu_j,    covariance C_ij = a² A_i + b² B_j + gamma² I,    weight p_i q_j.

With the responsibilities r_ij of x and u_ij = C_ij^-1 (x - m_ij), where ' is d/dt,

    b   = sum_ij r_ij (m_ij' + C_ij'/2 u_ij),    C_ij'/2 = a a' A_i + b b' B_j + gamma gamma' I,
    s   = -sum_ij r_ij u_ij,    eta = -gamma s,    v = b + gamma gamma' s.

On a one-sided path a is 0 and the base is z. Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797, the
section on bridges between Gaussian mixtures.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.interpolants.arguments import expand_times
from edmfast.interpolants.interpolant import Coefficients, Interpolant
from edmfast.models.calling.origin import name_of


class _Components(NamedTuple):
    """All pairs of components at one time or at the times of the rows, with a leading [1] or [B]."""

    means: Tensor  # [*, K, D]
    mean_dots: Tensor  # [*, K, D]
    precisions: Tensor  # C^-1, [*, K, D, D]
    half_dots: Tensor  # C'/2, [*, K, D, D]
    log_factors: Tensor  # log weight - log det(2 pi C)/2, [*, K]


class GaussianMixtureInterpolant(nn.Module):
    """An interpolant between mixtures of Gaussians, whose drift, score and log-density are known exactly.

    It is a model for `solve_ode`, `solve_sde` and `log_likelihood`, and the reference for trained ones. All is
    computed in float64 and returned in the dtype of x. The time a batch takes grows with the number of pairs of
    components.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        base: the mixture of x_0, such as `edmfast.analytic.GaussianMixture` or `MixtureOfGaussians`: an object
            with means [I, D], weights [I] and either stds [I] or covariances [I, D, D]. None on a one-sided path,
            whose base is N(0, I).
        data: the mixture of x_1, with J components.
        interpolant: the path and gamma.

    Raises:
        TypeError: a base or data without these attributes, or an interpolant of another type.
        ValueError: mixtures of different dimensions, no base for a path that needs one, or a base for one that has
            its own.
    """

    base_means: Tensor
    base_covariances: Tensor
    data_means: Tensor
    data_covariances: Tensor
    weights: Tensor

    def __init__(self, base: Any, data: Any, interpolant: Interpolant | None = None) -> None:
        super().__init__()
        interpolant = Interpolant() if interpolant is None else interpolant
        if not isinstance(interpolant, Interpolant):
            raise TypeError(
                f"interpolant must be an Interpolant, given {type(interpolant).__name__}"
            )
        self.interpolant = interpolant
        means, covariances, weights = _parts_of("data", data)
        if interpolant.one_sided:
            if base is not None:
                raise ValueError(
                    f"base must be None for the path {interpolant.path!r}, whose base is N(0, I), given "
                    f"{name_of(base)}"
                )
            start = means.new_zeros(1, means.shape[1])
            base_parts = start, torch.diag_embed(start), means.new_ones(1)
        elif base is None:
            raise ValueError(
                f"base must be a mixture for the path {interpolant.path!r}, given None"
            )
        else:
            base_parts = _parts_of("base", base)
        if base_parts[0].shape[1] != means.shape[1]:
            raise ValueError(
                f"base and data must have one dimension D, given {base_parts[0].shape[1]} and {means.shape[1]}"
            )
        self.register_buffer("base_means", base_parts[0])
        self.register_buffer("base_covariances", base_parts[1])
        self.register_buffer("data_means", means)
        self.register_buffer("data_covariances", covariances)
        pairs = base_parts[2].to(weights.device)[:, None] * weights
        self.register_buffer("weights", pairs.flatten())

    def drift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return b(x, t) = E[dx_t/dt | x_t = x], like x, the velocity of the probability flow.

        Args:
            x: [B, *shape] with prod(shape) = D.
            t: a float, [] or [B], within [0, 1].

        Raises:
            TypeError: an x that is not floating.
            ValueError: other shapes, a Python number outside of [0, 1], or a time at which a component has no
                width.
        """
        return self._fields(x, t)[0]

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return s(x, t), like x, the gradient of `log_prob`; see `drift` for the arguments."""
        return self._fields(x, t)[1]

    def drift_and_score(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return (b, s), each like x; see `drift` for the arguments."""
        drift, score, _ = self._fields(x, t)
        return drift, score

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return eta(x, t) = E[z | x_t = x], like x; see `drift` for the arguments."""
        return -self._factor(x, t, "gamma") * self.score(x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return v(x, t) = E[a' x_0 + b' x_1 | x_t = x], like x; see `drift` for the arguments."""
        drift, score, _ = self._fields(x, t)
        return drift + self._factor(x, t, "gamma_gamma_dot") * score

    def log_prob(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the log-density of x_t, [B], in nats, normalised; see `drift` for the arguments."""
        return self._fields(x, t)[2]

    def sample(self, n: int, t: float = 1.0, *, seed: int) -> Tensor:
        """Return n independent draws of x_t, [n, D], float64.

        Args:
            n: number of draws.
            t: a time within [0, 1]; 0 gives the base, and 1 the data.
            seed: 64 bits that determine the draws.
        """
        n, t = as_int("n", n, least=0), as_float("t", t, least=0, most=1)
        means, device = self.data_means, self.data_means.device
        draws = generator(as_seed(seed), device)
        at = self.interpolant.coefficients(t)
        pair = torch.multinomial(self.weights, max(n, 1), replacement=True, generator=draws)[:n]
        i, j = pair // len(means), pair % len(means)

        def normal() -> Tensor:
            return torch.randn(n, means.shape[1], generator=draws, dtype=means.dtype, device=device)

        x = at.gamma * normal()
        for factor, centres, covariances, index in (
            (at.a, self.base_means, self.base_covariances, i),
            (at.b, means, self.data_covariances, j),
        ):
            # the base of a one-sided path is z, and its covariance here is 0
            if float(factor) != 0:
                root = torch.linalg.cholesky(covariances)
                spread = (root[index] @ normal()[:, :, None])[:, :, 0]
                x = x + factor * (centres[index] + spread)
        return x

    def _factor(self, x: Tensor, t: float | Tensor, name: str) -> Tensor:
        at = self.interpolant.coefficients(expand_times(t, x))
        return cast(Tensor, getattr(at, name)).to(x.dtype)

    def _fields(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (b, s) like x, and the log-density [B]."""
        times = expand_times(t, x)
        dim = self.data_means.shape[1]
        if math.prod(x.shape[1:]) != dim:
            raise ValueError(f"x must be [B, *shape] with prod(shape) = {dim}, given {[*x.shape]}")
        # one time needs the matrices of one time only
        rows = times.reshape(-1) if isinstance(t, Tensor) and t.dim() else times.reshape(-1)[:1]
        if not isinstance(t, Tensor):
            # the float itself has more digits than the dtype of x
            rows = torch.full_like(rows, float(t), dtype=torch.float64)
        held = self._components(self.interpolant.coefficients(rows.double()))
        offsets = x.flatten(1).double()[:, None] - held.means
        pulled = (held.precisions @ offsets[..., None])[..., 0]
        logits = held.log_factors - 0.5 * (offsets * pulled).sum(-1)
        shares = logits.softmax(1)[..., None]
        motion = held.mean_dots + (held.half_dots @ pulled[..., None])[..., 0]
        drift = (shares * motion).sum(1).reshape(x.shape).to(x.dtype)
        score = -(shares * pulled).sum(1).reshape(x.shape).to(x.dtype)
        return drift, score, logits.logsumexp(1).to(x.dtype)

    def _components(self, at: Coefficients) -> _Components:
        a, a_dot, b, b_dot = (c[:, None, None, None] for c in at[:4])
        gamma, product = (c[:, None, None, None] for c in (at.gamma, at.gamma_gamma_dot))
        mu, nu = self.base_means[:, None], self.data_means[None]
        base, data = self.base_covariances[:, None], self.data_covariances[None]
        dim = nu.shape[-1]
        eye = torch.eye(dim, dtype=nu.dtype, device=nu.device)

        def means(p: Tensor, q: Tensor) -> Tensor:
            return (p * mu + q * nu).flatten(1, 2)

        def covariances(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
            p, q, r = (factor[..., None] for factor in (p, q, r))
            return (p * base + q * data + r * eye).flatten(1, 2)

        # one-sided paths have a = 0 whose derivative is 0, so that the base drops out
        root, failed = torch.linalg.cholesky_ex(covariances(a * a, b * b, gamma * gamma))
        if bool(failed.any()):
            raise ValueError(
                "t must leave every component a width: the covariance a² A + b² B + gamma² I is singular at one "
                f"of the times, on the path {self.interpolant.path!r}"
            )
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return _Components(
            means(a, b),
            means(a_dot, b_dot),
            torch.cholesky_inverse(root),
            covariances(a * a_dot, b * b_dot, product),
            self.weights.log() - 0.5 * (log_det + dim * math.log(2 * math.pi)),
        )


def _parts_of(name: str, mixture: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return (means [K, D], covariances [K, D, D], weights [K]) of a mixture, float64."""
    means, weights = getattr(mixture, "means", None), getattr(mixture, "weights", None)
    covariances, stds = getattr(mixture, "covariances", None), getattr(mixture, "stds", None)
    if not isinstance(means, Tensor) or not isinstance(weights, Tensor):
        raise TypeError(
            f"{name} must be a mixture with means, weights and stds or covariances, such as "
            f"edmfast.analytic.GaussianMixture, given {type(mixture).__name__}"
        )
    if isinstance(covariances, Tensor):
        full = covariances.double()
    elif isinstance(stds, Tensor):
        wide = stds.double().square()[:, None].expand(means.shape)
        full = torch.diag_embed(wide)
    else:
        raise TypeError(f"{name} must have stds or covariances, given {type(mixture).__name__}")
    return means.double(), full, weights.double()
