"""The energy model: an energy, its score and its denoiser, all from one backbone network.

In the preconditioning of EDM, with y = c_in x and a scalar potential f(y, c_noise) made from the backbone,
  E(x, sigma) = |x|²/(2 (sigma² + sigma_data²)) - (sigma_data/sigma) f(y, c_noise),
  score = -grad E = c_in ((sigma_data/sigma) grad_y f - y),
  D(x, sigma) = x + sigma² score = c_skip x + c_out grad_y f.
So grad_y f takes the place of EDM's network F, and EDM's loss weights, schedules and solvers apply unchanged.
The density is p(x; sigma) ∝ exp(-E). Energies are in nats, up to a constant per noise level and condition.
A backbone is called as backbone(y [B, *shape], c_noise [B], **condition) and returns a tensor like y.

Sources: Karras et al. 2022, arXiv 2206.00364 (preconditioning); Thornton et al. 2025, arXiv 2502.12786
(inner-product energies distilled from a denoiser).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from edmfast._internal.derivatives import is_recorded
from edmfast._internal.dispatch import as_written
from edmfast._internal.rows import (
    pad_rows,
    per_sample,
    shared_names,
    shared_rows,
    without_padding,
)
from edmfast.models.backbones.embedding import check_conditions_of
from edmfast.models.backbones.residual_mlp import ResidualMLP
from edmfast.models.calling.foreign import call_backbone
from edmfast.models.compiling.methods import CompiledMethods, Method, is_called_plainly
from edmfast.models.level_table import of_level
from edmfast.models.potentials import FieldNumbers, Network, Potential, side_by_side
from edmfast.models.preconditioning import (
    Scaling,
    check_sigma_data,
    noise_levels,
    refuse_zero,
    shared_scaling,
)
from edmfast.models.scale_table import ScaleTable
from edmfast.models.together import Candidate, Member, States
from edmfast.ops.mlp_potential.operator import Perceptron

Pair = tuple[torch.Tensor, torch.Tensor]
Coefficients = Callable[[torch.Tensor, torch.Tensor], Pair]
"""A function (sigma, c_in) -> (a, b) that selects the field a grad_y((sigma_data/sigma) f) + b y."""


class EnergyModel(nn.Module):
    """An energy, its score and its denoiser, all from one backbone.

    The model is a target (`energy_and_score`, exponent 1) and a denoiser (`forward`), so every sampler takes it.

    Conditions are keyword arguments that the backbone receives. A condition tensor [K, ...] must have K = B rows,
    one per sample, or K = 1 row, which serves all samples. Tensors [], numbers and other values pass through
    unchanged. A context [77, 768] that all samples share is passed as context[None]; alternatively the backbone
    declares `shared_conditions = ("context",)` and then always receives the context as it was passed.

    On the CPU the result for one sample has the same bits whatever the batch size, because batches and their
    conditions are padded to sizes at which matrix libraries sum in one order. With the backbones of this package
    that holds at every number of threads, but another number of threads may give other bits.

    Sources: Karras et al. 2022, arXiv 2206.00364; Thornton et al. 2025, arXiv 2502.12786.

    Args:
        backbone: called as backbone(y [B, *shape], c_noise [B], **condition), returns a tensor like y.
        potential: "inner", or one of the baselines "residual" and "norm". "norm" cannot be trained from a network
            that returns zeros, as new networks of this package do: give its last layer random weights.
        sigma_data: standard deviation of the data, in the units of x.

    Raises:
        ValueError: an unknown potential, or a sigma_data that is not positive. The methods raise it for conditions
            with another number of rows and for noise levels that are not positive.
    """

    exponent = 1.0

    def __init__(
        self, backbone: nn.Module, *, potential: str = "inner", sigma_data: float = 0.5
    ) -> None:
        super().__init__()
        self._potential = Potential(potential)
        # saving writes this name, from which loading builds the potential again
        self.potential_name = potential
        self.sigma_data = check_sigma_data(sigma_data)
        self.backbone = backbone
        self.scale = ScaleTable()
        self._compiled: CompiledMethods | None = None

    def potential(self, y: torch.Tensor, c_noise: torch.Tensor, **condition: Any) -> torch.Tensor:
        """Return the scalar potential f(y, c_noise), [B].

        Args:
            y: [B, *shape], states scaled by c_in.
            c_noise: [B], ln(sigma)/4.
            condition: keyword arguments of the backbone.
        """
        h = call_backbone(self.backbone, y, c_noise, **condition)
        potential: torch.Tensor = self.scale(c_noise) * self._potential.head(h, y)
        return potential

    def energy(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """Return E(x, sigma), [B], in nats: one forward pass of the network.

        The result is differentiable where grad mode is on.

        Args:
            x: [B, *shape], floating.
            sigma: a float, [] or [B], positive, in the units of x.
            condition: keyword arguments of the backbone.
        """
        return self._call(EnergyModel._energy, x, sigma, condition, torch.is_grad_enabled())[0]

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (E [B] in nats, score like x): one forward and one backward pass of the network.

        Where grad mode is on and x, sigma or a condition requires grad, both results are differentiable with
        respect to x, sigma, the conditions and the parameters. They are also differentiable in forward mode and
        inside torch.func. In all other cases both results are detached, even though the parameters require grad:
        to train by a score, let x require grad.

        Args:
            x: [B, *shape], floating.
            sigma: a float, [] or [B], positive, in the units of x.
            condition: keyword arguments of the backbone.

        Raises:
            RuntimeError: a call under torch.inference_mode, because a score is a gradient.
        """
        recorded = is_recorded(x, sigma, *condition.values())
        _refuse_inference_mode()
        method = EnergyModel._energy_and_score
        energy, score = self._call(method, x, sigma, condition, recorded)
        return energy, score

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """Return the denoised states x0 = x + sigma² score, like x.

        x, sigma, conditions, derivatives and errors are those of `energy_and_score`.
        """
        recorded = is_recorded(x, sigma, *condition.values())
        _refuse_inference_mode()
        return self._call(EnergyModel._denoised, x, sigma, condition, recorded)[0]

    def compile(self, *, mode: str | None = None) -> None:
        """Let compiled graphs answer later calls, wherever no derivative is recorded.

        Graphs serve scores and denoised states where no derivative is recorded, and energies alone under
        torch.no_grad(). The first call of each method makes its graph, which takes seconds for a perceptron and
        minutes for a U-Net. Where that fails, the model is called eagerly after one warning that names the reason.
        A product of perceptron energies evaluates all of them in one operator, with or without graphs.

        Training is compiled by `DistillConfig(compile=True)`, and `smc.sample` by its own argument compile=True.

        Args:
            mode: the mode of torch.compile, used on a GPU only; "reduce-overhead" captures CUDA graphs.
        """
        self._compiled = CompiledMethods(self, mode)

    def perceptron_member(self, states: States, **condition: Any) -> Candidate | None:
        """Return this energy and its score as a part of a joint evaluation (`edmfast.models.together`).

        The result is None unless the network is a perceptron that one operator can take as a whole. Derivatives
        are recorded where grad mode is on.
        """
        check_conditions_of(self.backbone, condition, states.unpadded_x.shape[0])
        network = self._perceptron(states.x, condition)
        if network is None:
            return None

        # the member is made later, once the networks of all models are known to fit
        def member() -> Member:
            levels, scaling = states.scaled(self.sigma_data)
            padded = states.padded(condition)
            return self._member(network, states.x, levels, scaling, padded, _score_coefficients)

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
        # a graph has no derivatives, and tracers cannot see inside it, so those calls stay eager
        if self._compiled is not None and not recorded and is_called_plainly():
            return self._compiled(method, x, levels, condition)
        batch = x.shape[0]
        # padding comes after the checks, so that errors name the sizes that the caller passed
        x, levels, condition = pad_rows(x, levels, condition, shared_names(self.backbone))
        results = method(self, x, levels, condition)
        return tuple(without_padding(tensor, batch) for tensor in results)

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
        return self._evaluate(x, levels, condition, _score_coefficients)

    def _denoised(
        self, x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor]:
        return (self._evaluate(x, levels, condition, self._denoised_coefficients)[1],)

    def _denoised_coefficients(self, sigma: torch.Tensor, c_in: torch.Tensor) -> Pair:
        # D = x + sigma² score with x = y/c_in, so that the terms in y add up to sigma_data² c_in y
        return sigma.square() * c_in, self.sigma_data**2 * c_in

    def _evaluate(
        self,
        x: torch.Tensor,
        levels: torch.Tensor,
        condition: dict[str, Any],
        coefficients: Coefficients,
    ) -> Pair:
        """Return (E [B], a grad_y((sigma_data/sigma) f) + b y) with (a, b) = coefficients(sigma, c_in).

        a and b are [B] or [1]. The results carry a graph only where `is_recorded` holds.
        """
        recorded = is_recorded(x, levels, *condition.values())
        # the parameters require grad and would record a part of what must not be recorded as a whole
        with torch.set_grad_enabled(recorded):
            levels, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
            perceptron = self._perceptron(x, condition)
            if perceptron is not None:
                member = self._member(perceptron, x, levels, scaling, condition, coefficients)
                return member.evaluate()
            a, b = self._field_coefficients(levels, scaling, coefficients)
            numbers = FieldNumbers(scaling.c_in, self._weight(x, levels, scaling), a, b)
            network = self._network(scaling, condition)
            return self._potential.energy_and_field(network, x, numbers, recorded)

    def _perceptron(self, x: torch.Tensor, condition: dict[str, Any]) -> Perceptron | None:
        """Return the network's weights where one operator can evaluate the whole network, else None."""
        backbone = self.backbone
        # the operator knows one architecture, and labels are the only condition of it
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
        """Return the arguments of the operator that computes what `_evaluate` returns."""

        def numbers_of(levels: torch.Tensor, c_in: torch.Tensor, weight: torch.Tensor) -> Any:
            a, b = coefficients(levels.flatten(), c_in.flatten())
            return (side_by_side(c_in.flatten(), weight, a, b),)

        batch = x.shape[0]
        rows = levels, scaling.c_in, self._weight(x, levels, scaling)
        # equal methods of one model are one name
        name = ("numbers", coefficients, self.sigma_data)
        (numbers,) = of_level(rows, name, (), numbers_of) or numbers_of(*rows)
        # shifts depend on noise level and class only, so that they stay outside of the operator
        backbone = cast(ResidualMLP, self.backbone)
        shifts = backbone.shifts_of(scaling.c_noise.expand(batch), **condition)
        shifts = per_sample(shifts, batch).to(network.entry.dtype)
        return Member(x, numbers, shifts, network)

    def _field_coefficients(
        self, levels: torch.Tensor, scaling: Scaling, coefficients: Coefficients
    ) -> Pair:
        """Return (a, b), each [B], or [1] for one level."""
        rows = levels, scaling.c_in
        prepared = of_level(
            rows,
            ("field", coefficients, self.sigma_data),
            (),
            lambda levels, c_in: coefficients(levels.flatten(), c_in.flatten()),
        )
        if prepared is not None:
            a, b = prepared
            return a, b
        return coefficients(levels.flatten(), scaling.c_in.flatten())

    def _network(self, scaling: Scaling, condition: dict[str, Any]) -> Network:
        def network(y: torch.Tensor) -> torch.Tensor:
            return call_backbone(self.backbone, y, scaling.c_noise.expand(y.shape[0]), **condition)

        return network

    def _weight(self, y: torch.Tensor, levels: torch.Tensor, scaling: Scaling) -> torch.Tensor:
        """Return the potential's weight in the energy, (sigma_data/sigma) scale: [B], or [1] for one level."""

        def weight_of(levels: torch.Tensor, c_noise: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.sigma_data / levels.flatten() * self.scale(c_noise),)

        c_noise = scaling.c_noise
        # hooks and modules of a caller may do anything
        plain = type(self.scale) is ScaleTable and as_written(self.scale)
        name = ("weight", self.sigma_data, id(self.scale))
        table = (self.scale.values, self.scale._ramp_starts) if plain else ()
        if plain and (prepared := of_level((levels, c_noise), name, table, weight_of)):
            return prepared[0]
        # one row is computed among several, so that it has the bits of any batch
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


def _score_coefficients(sigma: torch.Tensor, c_in: torch.Tensor) -> Pair:
    return c_in, -c_in
