"""Joint evaluation: the energies and scores of several perceptron energies in one operator.

A product of experts evaluates all its models at the same states. Where their networks are perceptrons of one
shape, or one network under several conditions, `edmfast.ops.mlp_potential` evaluates all of them together: in one
launch on a GPU, and as one job for all threads on the CPU. On one CPU thread, 2 to 4 perceptrons of width 64 took
1.3 to 1.7 times as long one by one at 16 to 64 states, 1.2 to 1.4 times at 256, and 1.0 to 1.2 times at 1024. With
members that `EnergyModel.compile` has compiled, the factor was 0.9 to 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast._internal.derivatives import is_recorded
from edmfast._internal.dispatch import operators_work
from edmfast._internal.rows import pad_rows
from edmfast.models.level_table import of_level
from edmfast.models.preconditioning import Scaling, noise_levels, shared_scaling
from edmfast.ops.mlp_potential.operator import Perceptron, mlp_potentials, mlp_potentials_probed


class States:
    """The states and noise level of a joint evaluation, with what the models share computed once."""

    def __init__(self, x: Tensor, sigma: float | Tensor) -> None:
        self.unpadded_x, self._levels = x, noise_levels(x, sigma)
        self.x, self._padded_levels, _ = pad_rows(x, self._levels, {})
        self._scaled: dict[float, tuple[Tensor, Scaling]] = {}

    def scaled(self, sigma_data: float) -> tuple[Tensor, Scaling]:
        """Return (levels, coefficients), which have one row for one noise level."""
        if sigma_data not in self._scaled:
            batch = self.x.shape[0]
            self._scaled[sigma_data] = shared_scaling(self._padded_levels, batch, sigma_data)
        return self._scaled[sigma_data]

    def padded(self, condition: dict[str, Any]) -> dict[str, Any]:
        """Return the conditions with as many rows as the padded x."""
        return pad_rows(self.unpadded_x, self._levels, condition)[2] if condition else condition


class Member(NamedTuple):
    """One model of a joint evaluation: the arguments of `mlp_potentials` for it."""

    x: Tensor
    """The states [B, *shape], with rows padded as `edmfast._internal.rows` does."""
    coefficients: Tensor
    """The columns (c, w, a, b), [B, 4] or [1, 4]."""
    shifts: Tensor
    """The shifts of all layers side by side, [B, depth·W] or [1, depth·W]."""
    network: Perceptron

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return (E [B], field like x) of this model alone."""
        energies, fields = evaluate_members([self])
        # a squeeze has a derivative without a launch, which indexing has not
        return energies.squeeze(0), fields.squeeze(0)


Candidate = tuple[Perceptron, Callable[[], Member]]
"""A network, and a function that makes its member once the networks of all models are known to fit."""


def evaluate_members(members: Sequence[Member]) -> tuple[Tensor, Tensor]:
    """Return (E [K, B], fields [K, B, *shape]) of K members with the same x and networks of one shape."""
    rows = max(member.shifts.shape[0] for member in members)
    shifts = [member.shifts.expand(rows, -1) for member in members]
    numbers = [member.coefficients for member in members]
    name = ("together", len(members))
    prepared = of_level(numbers, name, (), lambda *rows: (torch.stack(rows, 1),))
    coefficients = torch.stack(numbers) if prepared is None else prepared[0].transpose(0, 1)
    return mlp_potentials(members[0].x, coefficients, shifts, [m.network for m in members])


def member_method(model: Any) -> Any:
    """Return a model's `perceptron_member` where it agrees with `energy_and_score`, else None.

    They agree where one class defines both and neither is replaced on the instance. A subclass, patch or wrapper
    may change the score alone, and the joint evaluation would miss that.
    """
    kind = type(model)
    changed = {"perceptron_member", "energy_and_score"} & getattr(model, "__dict__", {}).keys()
    defined = "perceptron_member" in kind.__dict__ and "energy_and_score" in kind.__dict__
    return model.perceptron_member if defined and not changed else None


def energies_and_scores(
    models: Sequence[Any], x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """Return (E [K, B], scores [K, B, *shape]) of K models, or None where they cannot be evaluated together.

    The results are differentiable where those of `EnergyModel.energy_and_score` are.
    """
    if not operators_work() or torch.is_inference_mode_enabled():
        return None
    # the separate call of each model raises the error for a level of 0, which names the model
    if not isinstance(sigma, Tensor) and sigma == 0:
        return None
    methods: list[Any] = [member_method(model) for model in models]
    if None in methods:
        return None
    candidates: list[Candidate] = []
    recorded = is_recorded(x, sigma, *condition.values())
    with torch.set_grad_enabled(recorded):
        states = States(x, sigma)
        for method in methods:
            candidate: Candidate | None = method(states, **condition)
            if candidate is None:
                return None
            if candidates and _shape(candidate[0]) != _shape(candidates[0][0]):
                return None
            # members are made only when all candidates fit, since making one costs an embedding
            candidates.append(candidate)
        energies, scores = evaluate_members([member() for _, member in candidates])
    batch = x.shape[0]
    if energies.shape[1] == batch:
        return energies, scores
    return energies[:, :batch], scores[:, :batch]


def energy_score_and_curvature(
    model: Any, x: Tensor, sigma: float | Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return (E [B], score S like x, vᵀ (grad S) v float64 [B]), or None where the score must be differentiated.

    One operator computes all three on the CPU where the model is the energy of a perceptron. It takes three passes
    through the network, and autograd on a score takes four. v: directions, like x. The results carry no graph.
    """
    method: Any = member_method(model)
    if method is None or not operators_work() or x.device.type != "cpu" or v.dtype != x.dtype:
        return None
    if torch.is_inference_mode_enabled() or (not isinstance(sigma, Tensor) and sigma == 0):
        return None
    with torch.no_grad():
        states = States(x, sigma)
        candidate = method(states)
        if candidate is None:
            return None
        member = candidate[1]()
        missing = member.x.shape[0] - x.shape[0]
        along = torch.cat([v, v.new_zeros(missing, *v.shape[1:])]) if missing else v
        arguments = member.coefficients[None], [member.shifts], [member.network]
        results = mlp_potentials_probed(member.x, along, *arguments)
    energy, score, bent = (result[0, : x.shape[0]] for result in results)
    return energy, score, bent


def _shape(network: Perceptron) -> tuple[Any, ...]:
    return network.entry.shape, len(network.layers), network.entry.dtype
