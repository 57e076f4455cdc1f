"""Networks as energies and as denoisers, in the preconditioning of EDM.

With y = c_in x and a scalar potential f(y, c_noise) made from a backbone,
  E(x, sigma) = |x|²/(2 (sigma² + sigma_data²)) - (sigma_data/sigma) f(y, c_noise),
  score = -grad E = c_in ((sigma_data/sigma) grad_y f - y),
  D(x, sigma) = x + sigma² score = c_skip x + c_out grad_y f,
so grad_y f takes the place of EDM's network F and its loss weights, schedules and solvers apply.
p(x; sigma) ∝ exp(-E); energies are in nats, up to a constant per sigma and condition.
A backbone is called as backbone(y [B, *shape], c_noise [B], **condition) -> like y.
Sources: Karras et al. 2022, arXiv 2206.00364 (preconditioning); Thornton et al. 2025,
arXiv 2502.12786 (inner-product energies distilled from a denoiser).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.derivatives import is_recorded, is_transformed
from edmfast._internal.rows import pad_rows, per_sample, shared_names, shared_rows
from edmfast.models.backbones.embedding import check_conditions_of
from edmfast.models.backbones.residual_mlp import ResidualMLP
from edmfast.models.calling.foreign import call_backbone
from edmfast.models.compiling.methods import CompiledMethods, Method
from edmfast.models.potentials import Network, Potential
from edmfast.models.preconditioning import (
    Scaling,
    check_sigma_data,
    edm_scaling,
    expand_sigma,
    noise_levels,
    refuse_zero,
    shared_scaling,
)
from edmfast.models.scale_table import ScaleTable
from edmfast.models.together import Candidate, Member, States
from edmfast.ops.mlp_potential.operator import Perceptron

__all__ = ["Denoiser", "EnergyModel", "expand_sigma"]

Pair = tuple[torch.Tensor, torch.Tensor]
Coefficients = Callable[[torch.Tensor, torch.Tensor], Pair]


class Denoiser(nn.Module):
    """Ordinary EDM denoiser: D(x, sigma) = c_skip x + c_out backbone(c_in x, c_noise)."""

    def __init__(self, backbone: nn.Module, *, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data = check_sigma_data(sigma_data)
        self.backbone = backbone

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """x [B, *shape], sigma float, [] or [B] (positive) -> denoised x0 like x."""
        batch, levels = x.shape[0], expand_sigma(sigma, x)
        refuse_zero(self, sigma)
        check_conditions_of(self.backbone, condition, batch)
        x, levels, condition = pad_rows(x, levels, condition, shared_names(self.backbone))
        scaling = edm_scaling(levels, self.sigma_data)
        output = call_backbone(self.backbone, scaling.c_in * x, scaling.c_noise, **condition)
        return (scaling.c_skip * x + scaling.c_out * output)[:batch]


class EnergyModel(nn.Module):
    """An energy, its score and its denoiser from one backbone.

    potential: "inner" (default), or the baselines "residual" and "norm". sigma_data: standard
    deviation of the data. A Target (`energy_and_score`, exponent 1) and a denoiser (`forward`).
    On the CPU the result for one sample has the same bits whatever the batch size. That holds at every number
    of threads with the backbones of this package; another number of threads may give other bits. Batches are
    padded for that, and conditions with them. So a condition that is a tensor [K, ...] must have K = B rows,
    one per sample, or K = 1, one for all samples, which the backbone gets as it is where B is more than 1.
    Tensors [], numbers and other values pass through. A context [77, 768] that all samples share is given as
    context[None]; or the backbone names it, as in `shared_conditions = ("context",)`, and always gets it as it
    was given.
    Raises ValueError for an unknown potential or a sigma_data that is not positive; its methods raise it for
    conditions of another number of rows.
    """

    exponent = 1.0

    def __init__(
        self, backbone: nn.Module, *, potential: str = "inner", sigma_data: float = 0.5
    ) -> None:
        super().__init__()
        self._potential = Potential(potential)
        self.potential_name = potential
        self.sigma_data = check_sigma_data(sigma_data)
        self.backbone = backbone
        self.scale = ScaleTable()
        self._compiled: CompiledMethods | None = None

    def potential(self, y: torch.Tensor, c_noise: torch.Tensor, **condition: Any) -> torch.Tensor:
        """f(y, c_noise) [B] of scaled states y [B, *shape] and c_noise [B] = ln(sigma)/4."""
        h = call_backbone(self.backbone, y, c_noise, **condition)
        return self.scale(c_noise) * self._potential.head(h, y)

    def energy(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """E(x, sigma) [B] in nats. x [B, *shape]; sigma float, [] or [B], positive."""
        return self._call(EnergyModel._energy, x, sigma, condition, torch.is_grad_enabled())[0]

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(E [B], score like x): one forward and one backward of the network.

        Both can be differentiated, with respect to x, sigma, the conditions and the parameters, where grad
        mode is on and x, sigma or a condition requires grad, in forward mode and inside torch.func.
        Otherwise both come back detached, although the parameters require grad: let x require grad to
        train by them.
        """
        recorded = is_recorded(x, sigma, *condition.values())
        _refuse_inference_mode()
        method = EnergyModel._energy_and_score
        energy, score = self._call(method, x, sigma, condition, recorded)
        return energy, score

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """Denoised x0 = x + sigma² score, like x. Differentiable as `energy_and_score` is."""
        recorded = is_recorded(x, sigma, *condition.values())
        _refuse_inference_mode()
        return self._call(EnergyModel._denoised, x, sigma, condition, recorded)[0]

    def compile(self, *, mode: str | None = None) -> None:
        """From now on call this model by compiled graphs: scores and denoised states wherever no derivative
        is recorded, energies alone under torch.no_grad().

        A graph is made at the first call of each method, which takes seconds for a perceptron and minutes
        for a U-Net. Where that fails the model is called eagerly, after one warning naming the reason.
        A product of energies of perceptrons evaluates all of them in one, graphs or not.
        mode: of torch.compile, on a GPU only; "reduce-overhead" captures CUDA graphs. Training is compiled
        by `DistillConfig(compile=True)`, `smc.sample` by its own compile=True.
        """
        self._compiled = CompiledMethods(self, mode)

    def perceptron_member(self, states: States, **condition: Any) -> Candidate | None:
        """This energy and its score for `edmfast.models.together`: None unless its network is a perceptron that
        one operator can take as a whole. Recorded as grad mode says."""
        check_conditions_of(self.backbone, condition, states.given.shape[0])
        network = self._perceptron(states.x, condition)
        if network is None:
            return None

        def member() -> Member:
            levels, scaling = states.scaled(self.sigma_data)
            given = states.padded(condition)
            return self._member(network, states.x, levels, scaling, given, _of_score)

        return network, member

    def _call(
        self,
        method: Method,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        condition: dict[str, Any],
        recorded: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Return what one of the methods below gives for the caller's rows, evaluated on padded rows.

        Where sigma is one noise level, the method gets one row of levels for the whole batch.
        """
        levels = noise_levels(x, sigma)
        refuse_zero(self, sigma)
        check_conditions_of(self.backbone, condition, x.shape[0])
        if self._compiled is not None and not recorded and _is_called_plainly():
            return self._compiled(method, x, levels, condition)
        batch = x.shape[0]
        x, levels, condition = pad_rows(x, levels, condition, shared_names(self.backbone))
        results = method(self, x, levels, condition)
        return tuple(tensor[:batch] for tensor in results)

    def _energy(
        self, x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor]:
        levels, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
        y = scaling.c_in * x
        network = self._network(scaling, condition)
        weight = self._weight(y, levels, scaling).expand(y.shape[0])
        return (self._potential.energy(network, y, weight),)

    def _energy_and_score(
        self, x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._evaluate(x, levels, condition, _of_score)

    def _denoised(
        self, x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor]:
        def coefficients(sigma: torch.Tensor, c_in: torch.Tensor) -> Pair:
            return sigma.square() * c_in, self.sigma_data**2 * c_in

        return (self._evaluate(x, levels, condition, coefficients)[1],)

    def _evaluate(
        self,
        x: torch.Tensor,
        levels: torch.Tensor,
        condition: dict[str, Any],
        coefficients: Coefficients,
    ) -> Pair:
        """(E [B], a grad_y((sigma_data/sigma) f) + b y) with (a, b) = coefficients(sigma, c_in), each [B] or
        [1]; without a graph unless `is_recorded` asks for one."""
        recorded = is_recorded(x, levels, *condition.values())
        # what is not recorded as a whole must not be recorded in part, such as by its parameters
        with torch.set_grad_enabled(recorded):
            levels, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
            network = self._perceptron(x, condition)
            if network is not None:
                given = network, x, levels, scaling, condition, coefficients
                return self._member(*given).evaluate()
            y, weight = scaling.c_in * x, self._weight(x, levels, scaling).expand(x.shape[0])
            a, b = coefficients(levels.flatten(), scaling.c_in.flatten())
            energy, field = self._potential.energy_and_field(
                self._network(scaling, condition), y, weight, recorded
            )
            return energy, field(a, b)

    def _perceptron(self, x: torch.Tensor, condition: dict[str, Any]) -> Perceptron | None:
        """The network's weights, where one operator can take it as a whole."""
        backbone = self.backbone
        if not isinstance(backbone, ResidualMLP) or not condition.keys() <= {"class_label"}:
            return None
        return backbone.perceptron(x) if self._potential.has_operators() else None

    def _member(
        self,
        network: Perceptron,
        x: torch.Tensor,
        levels: torch.Tensor,
        scaling: Scaling,
        condition: dict[str, Any],
        coefficients: Coefficients,
    ) -> Member:
        """What `_evaluate` asks for, of a network that the operator takes."""
        batch, c_in = x.shape[0], scaling.c_in.flatten()
        a, b = coefficients(levels.flatten(), c_in)
        weight = self._weight(x, levels, scaling)
        numbers = torch.stack(torch.broadcast_tensors(c_in, weight, a, b), 1)
        backbone = cast(ResidualMLP, self.backbone)
        shifts = backbone.shifts_of(scaling.c_noise.expand(batch), **condition)
        shifts = per_sample(shifts, batch).to(network.entry.dtype)
        return Member(x, numbers, shifts, network)

    def _network(self, scaling: Scaling, condition: dict[str, Any]) -> Network:
        def network(y: torch.Tensor) -> torch.Tensor:
            return call_backbone(self.backbone, y, scaling.c_noise.expand(y.shape[0]), **condition)

        return network

    def _weight(self, y: torch.Tensor, levels: torch.Tensor, scaling: Scaling) -> torch.Tensor:
        """Of the potential in the energy, [B], or [1] for one noise level: (sigma_data/sigma) scale."""
        c_noise = scaling.c_noise
        if c_noise.shape[0] != y.shape[0]:
            c_noise = shared_rows(c_noise)
        scale = per_sample(self.scale(c_noise), y.shape[0])
        return self.sigma_data / levels.flatten() * scale


def _refuse_inference_mode() -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "a score is a gradient, which torch.inference_mode() does not allow: call an EnergyModel under "
            "torch.no_grad() instead"
        )


def _is_called_plainly() -> bool:
    """Return whether neither a tracer nor a transform is at work: both would miss what is inside a graph."""
    return get_proxy_mode() is None and not is_transformed()


def _of_score(sigma: torch.Tensor, c_in: torch.Tensor) -> Pair:
    return c_in, -c_in
