"""The denoiser of a potential of PFGM++: D(x; sigma) = x - sigma² grad U · D/(m + sigma dU/dsigma).

An energy U = -ln phi - m ln r, with m = N + D - 2 for N elements and D degrees of freedom, gives the denoised
state by its gradient and its slope in sigma; `edmfast.analytic.PointPotential` derives it. The gauge of U matters
here: a term that depends on sigma alone changes the slope. D = inf gives x - sigma² grad U, as any energy of EDM
does.
Source: Xu et al. 2023, arXiv 2302.04265.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.derivatives import is_recorded, leaf_of, refuse_run
from edmfast._internal.nested import tensors_in
from edmfast.models.calling.foreign import call_energy, energy_of
from edmfast.models.preconditioning import expand_sigma, refuse_zero
from edmfast.models.student_t import as_dof


class PotentialDenoiser(nn.Module):
    """A denoiser made of an energy U, the potential of PFGM++ with D = dof degrees of freedom.

    Every sampler takes it. It needs dU/dsigma: from the method `energy_slope(x, sigma) -> [B]` of the energy where
    it has one, and else by automatic differentiation of `energy(x, sigma)` in x and sigma together. The results
    are differentiable where x, sigma or a condition requires grad, and detached otherwise.

    A learned energy must rise with distance as -ln phi does. An `EnergyModel` has the quadratic tails of Gaussian
    noise, with which m + sigma dU/dsigma changes its sign far from the data, unless D is large beside N.

    Source: Xu et al. 2023, arXiv 2302.04265.

    Args:
        energy: a model with `energy(x, sigma) -> [B]` or `energy_and_score`, in the gauge U = -ln phi - m ln r.
        dof: D, the degrees of freedom of the noise, positive; math.inf for Gaussian noise.

    Raises:
        TypeError: a dof that is no number, or a model without an energy.
        ValueError: a dof that is not positive.
    """

    def __init__(self, energy: Any, *, dof: float) -> None:
        super().__init__()
        if not (hasattr(energy, "energy") or hasattr(energy, "energy_and_score")):
            raise TypeError(
                "energy must be a model with energy(x, sigma) -> [B] or energy_and_score, given "
                f"{type(energy).__name__}"
            )
        self.energy_model, self.dof = energy, as_dof("dof", dof)

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states, like x.

        Args:
            x: [B, *shape], floating.
            sigma: a float, [] or [B], positive, in the units of x.
            condition: keyword conditions of the energy.
        """
        levels = expand_sigma(sigma, x)
        refuse_zero(self, sigma)
        power = x[:1].numel() + self.dof - 2
        if not power > 0:
            raise ValueError(
                f"N + dof must be above 2, given states of {x[:1].numel()} elements and dof = {self.dof:g}"
            )
        gradient, slope = self._derivatives(x, levels, condition)
        if slope is None:
            return x - levels.square() * gradient
        slope = slope.reshape(levels.shape)
        return x - levels.square() * gradient * (self.dof / (power + levels * slope))

    def _derivatives(
        self, x: Tensor, levels: Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Return (grad U like x, dU/dsigma [B]), without the slope where D is infinite."""
        flat, model = levels.reshape(-1), self.energy_model
        if hasattr(model, "energy_and_score") and (
            self.dof == math.inf or hasattr(model, "energy_slope")
        ):
            score = call_energy(model, x, flat, **condition)[1]
            known = self.dof < math.inf
            return -score, model.energy_slope(x, flat, **condition) if known else None
        refuse_run("PotentialDenoiser", model, x, flat)
        recorded = is_recorded(x, flat, *tensors_in(condition))
        with torch.enable_grad():
            point, level = leaf_of(x, recorded), leaf_of(flat, recorded)
            total = energy_of(model, point, level, **condition).sum()
            gradient, slope = torch.autograd.grad(
                total, (point, level), create_graph=recorded, materialize_grads=True
            )
        return gradient, slope if self.dof < math.inf else None
