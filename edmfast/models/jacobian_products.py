"""The products J^T v and J v with the Jacobian J of a vector field, where the field may lack derivatives.

J^T v is one backward pass. J v is, by the method

- reverse: the derivative of J^T w with respect to w in the direction v, by a second backward pass. Where the field
  is the score of an energy, this differentiates the energy three times.
- forward: the tangent of the field in forward mode.
- difference: (field(x + h v) - field(x - h v)) / (2 h), extrapolated from the steps 2h and h, with halved steps
  until the change from step to step no longer falls. That change is the measured error.

Every Jacobian has <v, J v> = <J^T v, v>, which shows where a method loses a
part of J v without an error.
Sources: Richardson 1911 (extrapolation); Ridders 1982 (the choice of the step).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor

from edmfast._internal.derivatives import is_transformed
from edmfast.models.calling.second_order import second_derivatives

METHODS = ("reverse", "forward", "difference")
"""The methods of J v, the most exact first."""
_FIRST, _MOST_STEPS, _PATIENCE, _SETTLED = 0.25, 32, 2, 0.01
"""The first step as a share of the scale, the most steps, how often the error may fail to fall, and the share of
J v below which that counts."""

_LOST = 1e-3
"""The gap between the two products from which a part counts as lost, far above rounding in float32."""


class Products:
    """The products of the Jacobian of one field at given points.

    Args:
        field: a function [B, *shape] -> [B, *shape] whose samples are independent.
        x: the points [B, *shape], detached.
        method: one of METHODS, or "auto" for the first that works.
        lengths: the distance over which the field changes, [B], for the first step of differences.

    Raises ValueError where the field returns another shape or is not differentiable.

    Attributes:
        method: the method of the last product.
    """

    def __init__(
        self, field: Callable[[Tensor], Tensor], x: Tensor, method: str, lengths: Tensor
    ) -> None:
        self.field, self.x, self.lengths = field, x, lengths
        self.candidates: tuple[str, ...] = METHODS if method == "auto" else (method,)
        # the measurement needs a graph also where its caller has switched grad mode off
        with torch.enable_grad():
            self.point = x.clone().requires_grad_(True)
            self.value = field(self.point)
        if self.value.shape != x.shape:
            raise ValueError(
                f"the field must keep the shape {tuple(x.shape)}, got {tuple(self.value.shape)}"
            )
        if not self.value.requires_grad:
            raise ValueError("the field's value does not depend differentiably on x")

    @property
    def method(self) -> str:
        return self.candidates[0]

    def of(self, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (J^T v, J v, the measured size of the error of J v) for a probe v [B, *shape].

        The products are like the probe and detached, and the error is [B], 0 for the exact methods.
        """
        with torch.enable_grad(), second_derivatives():
            # J^T w is linear in w, so its derivative in w gives J v, whatever w is
            dual = probe.clone().requires_grad_(self.method == "reverse")
            (vjp,) = torch.autograd.grad(
                self.value,
                self.point,
                dual,
                create_graph=self.method == "reverse",
                retain_graph=True,
            )
        while True:
            try:
                jvp, error = self._forward_product(vjp, dual, probe)
                return vjp.detach(), jvp.detach(), error
            except RuntimeError as refused:
                # out of memory, every method would fail
                if len(self.candidates) == 1 or isinstance(refused, torch.OutOfMemoryError):
                    raise
                # the next probes begin with the method that works
                self.candidates = self.candidates[1:]

    def _forward_product(self, vjp: Tensor, dual: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
        """Return J v by the present method, and the size of its error."""
        if self.method == "difference":
            return self._by_differences(vjp, probe)
        exact = self.x.new_zeros(len(self.x))
        if self.method == "forward":
            return self._in_forward_mode(vjp, probe), exact
        with torch.enable_grad(), second_derivatives():
            (jvp,) = torch.autograd.grad(vjp, dual, probe, retain_graph=True)
        _check_pair(vjp, jvp, probe, "in reverse mode")
        return jvp, exact

    def _in_forward_mode(self, vjp: Tensor, probe: Tensor) -> Tensor:
        if is_transformed():
            raise RuntimeError("forward mode cannot be nested")
        with torch.no_grad(), forward_mode.dual_level():
            value = self.field(forward_mode.make_dual(self.x.clone(), probe))
            tangent: Tensor | None = forward_mode.unpack_dual(value)[1]
        if tangent is None:
            raise RuntimeError("the field has no derivative in forward mode")
        _check_pair(vjp, tangent, probe, "in forward mode")
        return tangent.detach().clone()

    @torch.no_grad()
    def _by_differences(self, vjp: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
        rows = (-1, *(1,) * (self.x.dim() - 1))
        step, epsilon = _FIRST * self.lengths, torch.finfo(self.x.dtype).eps
        best, least = torch.zeros_like(self.x), torch.full_like(step, torch.inf)
        coarse: Tensor | None = None
        before: Tensor | None = None
        # the error of the step after the best one, which is never the smaller one by chance
        error, follows = least, torch.zeros_like(step, dtype=torch.bool)
        worse = 0
        for _ in range(_MOST_STEPS):
            wide = step.reshape(rows)
            ahead, behind = self.field(self.x + wide * probe), self.field(self.x - wide * probe)
            fine = (ahead - behind) / (2 * wide)
            if coarse is not None:
                # the errors of the two quotients are as 4 to 1
                extrapolated = fine + (fine - coarse) / 3
                if before is not None:
                    change = (extrapolated - before).flatten(1).norm(dim=1)
                    # the changes of a field without higher derivatives may be smaller than rounding
                    now = torch.maximum(change, epsilon * ahead.flatten(1).norm(dim=1) / step)
                    better = now < least
                    error = torch.where(better | follows, now, error)
                    best = torch.where(better.reshape(rows), extrapolated, best)
                    least, follows = torch.where(better, now, least), better
                    small = least <= _SETTLED * best.flatten(1).norm(dim=1)
                    # steps far above the scale of the field agree with each other, but not with J^T v
                    settled = bool((small & (_gap(vjp, best, probe) < _LOST)).all())
                    worse = worse + 1 if settled and not bool(better.any()) else 0
                before = extrapolated
            coarse, step = fine, step / 2
            if worse == _PATIENCE:
                break
        if not bool(least.isfinite().all()):
            raise ValueError("the field has values that are not finite near x")
        # a second measure of the error, for fields that are rougher than the steps
        sizes = vjp.flatten(1).norm(dim=1) + best.flatten(1).norm(dim=1)
        return best, torch.maximum(2 * error, _gap(vjp, best, probe) * sizes)


def _check_pair(vjp: Tensor, jvp: Tensor, probe: Tensor, where: str) -> None:
    """Raise RuntimeError where the product J v misses parts of the Jacobian that J^T v has."""
    # such parts are lost where code of others detaches, or computes a gradient of its own
    if not bool((_gap(vjp, jvp, probe) < _LOST).all()):
        raise RuntimeError(f"the field loses a part of its second derivative {where}")


def _gap(vjp: Tensor, jvp: Tensor, probe: Tensor) -> Tensor:
    """Return |<v, J v> - <J^T v, v>| / (|v| (|J v| + |J^T v|)), [B], which is 0 for every Jacobian."""
    ahead, behind, v = (part.detach().double().flatten(1) for part in (jvp, vjp, probe))
    size = v.norm(dim=1) * (ahead.norm(dim=1) + behind.norm(dim=1))
    gap = ((ahead - behind) * v).sum(1).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)
    result: Tensor = gap.to(vjp.dtype)
    return result
