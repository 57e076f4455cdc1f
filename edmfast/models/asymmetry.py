"""The asymmetry of a vector field's Jacobian J, estimated by random probes: is the field a gradient?

    Asym = tr(J J^T) - tr(J²) = |J - J^T|² / 2,   NAsym = Asym / (2 tr(J J^T)) in [0, 1].

NAsym is the share of the antisymmetric part in the squared norm of J. It is 0 for a gradient field, such as the
score of every energy model, and 1 for a pure rotation. With a probe v of independent signs, the products J^T v and
J v give E|J v|² = E|J^T v|² = tr(J J^T) and E<J v, J^T v> = tr(J²). So |J v - J^T v|² / 2 estimates Asym, is never
negative, and is 0 up to rounding for a symmetric J. J^T v is one backward pass. J v has three methods, see
`edmfast.models.jacobian_products`, because a second backward pass needs the third derivatives of an energy.
Sources: Hutchinson 1990; Chao et al. 2023, "On investigating the conservative property of score-based generative
models", arXiv 2209.12753.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.models.jacobian_products import METHODS, Products
from edmfast.ops import random_signs

_PROBE_STREAM = 2


@dataclass(frozen=True)
class Asymmetry:
    """The estimated asymmetry of the Jacobian J of a field, per sample.

    Attributes:
        asymmetry: |J - J^T|² / 2, [B].
        squared_norm: tr(J J^T), [B].
        error: the asymmetry that the measured error of J v alone would show, [B]. It is 0 for the exact methods.
        method: the method of J v: "reverse", "forward" or "difference", see `field_asymmetry`.
    """

    asymmetry: Tensor
    squared_norm: Tensor
    error: Tensor
    method: str

    @property
    def normalised(self) -> Tensor:
        """NAsym per sample, [B] in [0, 1], and 0 where the Jacobian is 0."""
        scale = 2 * self.squared_norm
        # A constant field has J = 0 and is a gradient, where the plain quotient would be 0/0.
        return torch.where(scale > 0, self.asymmetry / scale.clamp_min(_tiny(scale)), 0 * scale)

    @property
    def overall(self) -> float:
        """NAsym of the batch as the ratio of the two means, which is less noisy than the mean of the ratios."""
        return self._share(self.asymmetry)

    @property
    def resolution(self) -> float:
        """NAsym of the batch that the error of J v alone would show: smaller numbers cannot be told from 0."""
        return self._share(self.error)

    def _share(self, part: Tensor) -> float:
        total = float(self.squared_norm.sum())
        return float(part.sum()) / (2 * total) if total else 0.0


def joined(parts: Sequence[Asymmetry]) -> Asymmetry:
    """Return the measurements of several batches as one, with the least exact of their methods."""
    return Asymmetry(
        torch.cat([part.asymmetry for part in parts]),
        torch.cat([part.squared_norm for part in parts]),
        torch.cat([part.error for part in parts]),
        least_exact([part.method for part in parts]),
    )


def least_exact(methods: Sequence[str]) -> str:
    """Return the least exact one of several methods; without any, the most exact that there is."""
    return max(methods, key=METHODS.index, default=METHODS[0])


def field_asymmetry(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    probes: int = 1,
    seed: int = 0,
    method: str = "auto",
    scale: float | Tensor | None = None,
) -> Asymmetry:
    """Estimate the asymmetry of the Jacobian of `field` at every sample of x.

    The product J^T v is a backward pass. The product J v is computed by one of three methods:

    - "reverse": a second backward pass, exact up to rounding. The scores of energies with fused norms or attention
      have no such derivative.
    - "forward": forward-mode differentiation, exact up to rounding. All backbones of this package have it; the
      attention of torch and some foreign operators do not.
    - "difference": central differences of fourth order, for every field. The step is halved until the error of
      each sample, which is the change from step to step, no longer falls. NAsym then has the resolution of about
      1e-10 in float32 and 1e-20 in float64.

    Sources: Hutchinson 1990; Chao et al. 2023, arXiv 2209.12753; Ridders 1982 (the step of the differences).

    Args:
        field: a function [B, *shape] -> [B, *shape] whose samples are independent, differentiable in reverse mode.
        x: the points [B, *shape].
        probes: the number of random probes per sample, at least 1.
        seed: the seed of the probes; those of sample k depend on (seed, k) alone.
        method: a name from above, or "auto" for the first of them that the field allows. Each trial that fails
            costs about one evaluation with its derivative.
        scale: the distance in units of x over which the field changes, a positive number or [B]. Differences begin
            at a quarter of it. By default the root mean square of each sample.

    Returns:
        An `Asymmetry` of tensors [B] in the dtype of x, with the method and the error of J v.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: probes < 1, an unknown method, a scale that is not positive, or a field that returns another
            shape or is not differentiable.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode, or the field does not
            allow the method.
    """
    refuse_run("field_asymmetry", field, x)
    probes, seed = as_int("probes", probes, least=1), as_seed(seed)
    if method not in ("auto", *METHODS):
        names = ", ".join(map(repr, METHODS))
        raise ValueError(f"method must be 'auto' or one of {names}, got {method!r}")
    products = Products(field, x.detach(), method, _lengths(scale, x))
    estimates = [_probe(products, _signs(x, seed, i)) for i in range(probes)]
    asymmetry, norm, error = (torch.stack(part).mean(0) for part in zip(*estimates, strict=True))
    return Asymmetry(asymmetry, norm, error, products.method)


def _probe(products: Products, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the estimates (|J - J^T|² / 2, tr(J J^T)) of one probe, and the part of the error, each [B]."""
    vjp, jvp, error = products.of(probe)
    vjp, jvp = vjp.flatten(1), jvp.flatten(1)
    asymmetry = (jvp - vjp).square().sum(1) / 2
    # Both squares estimate tr(J J^T), and with their mean NAsym cannot exceed 1.
    return asymmetry, (jvp.square().sum(1) + vjp.square().sum(1)) / 2, error.square() / 2


def _lengths(scale: float | Tensor | None, x: Tensor) -> Tensor:
    """Return the distance over which the field changes, [B]."""
    if scale is None:
        lengths = x.detach().flatten(1).square().mean(1).sqrt()
        return torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    if isinstance(scale, Tensor) and scale.dim():
        if scale.shape != x.shape[:1] or not bool((scale > 0).all()):
            raise ValueError(
                f"scale must be a positive number or [{len(x)}] positive numbers, got shape {[*scale.shape]}"
                + (f" with {float(scale.min())}" if scale.numel() else "")
            )
        return scale.detach().to(x)
    number = as_float("scale", scale, positive=True)
    return torch.full((len(x),), number, dtype=x.dtype, device=x.device)


def _signs(like: Tensor, seed: int, step: int) -> Tensor:
    return random_signs(like[None], seed=seed, step=step, stream=_PROBE_STREAM)[0]


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
