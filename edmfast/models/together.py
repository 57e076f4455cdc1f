"""Energies and scores of several models in one operator, where each is an energy of a perceptron.

A product of experts asks all of them for the same states. Where their networks are perceptrons of one shape, be
it one network under several conditions, `edmfast.ops.mlp_potential` evaluates all at once: one launch on a GPU,
one job for all threads on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast._internal.derivatives import is_recorded
from edmfast._internal.dispatch import operators_work
from edmfast._internal.rows import pad_rows
from edmfast.models.preconditioning import Scaling, noise_levels, shared_scaling
from edmfast.ops.mlp_potential.operator import Perceptron, mlp_potentials


class States:
    """States and a noise level that several models are asked about: what they have in common is made once."""

    def __init__(self, x: Tensor, sigma: float | Tensor) -> None:
        self.given, self._levels = x, noise_levels(x, sigma)
        self.x, self._padded_levels, _ = pad_rows(x, self._levels, {})
        self._scaled: dict[float, tuple[Tensor, Scaling]] = {}

    def scaled(self, sigma_data: float) -> tuple[Tensor, Scaling]:
        """(levels, coefficients), of one row for one noise level."""
        if sigma_data not in self._scaled:
            batch = self.x.shape[0]
            self._scaled[sigma_data] = shared_scaling(self._padded_levels, batch, sigma_data)
        return self._scaled[sigma_data]

    def padded(self, condition: dict[str, Any]) -> dict[str, Any]:
        """As many rows of conditions as of x."""
        return pad_rows(self.given, self._levels, condition)[2] if condition else condition


class Member(NamedTuple):
    """What one model's evaluation consists of, by `mlp_potentials`."""

    x: Tensor
    """[B, *shape], padded as `edmfast._internal.rows` says"""
    coefficients: Tensor
    """(c, w, a, b) [B or 1, 4]"""
    shifts: Tensor
    """[B or 1, depth·W]"""
    network: Perceptron

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """(E [B], field like x)."""
        energies, fields = evaluate_members([self])
        return energies[0], fields[0]


Candidate = tuple[Perceptron, Callable[[], Member]]
"""A network, and how to make the member: not before it is known that all the others fit."""


def evaluate_members(members: Sequence[Member]) -> tuple[Tensor, Tensor]:
    """(E [K, B], fields [K, B, *shape]) of members with the same x, whose networks have one shape."""
    rows = max(member.shifts.shape[0] for member in members)
    shifts = [member.shifts.expand(rows, -1) for member in members]
    coefficients = torch.stack([member.coefficients for member in members])
    return mlp_potentials(members[0].x, coefficients, shifts, [m.network for m in members])


def member_method(model: Any) -> Any:
    """A model's `perceptron_member`, where that is another way to its `energy_and_score`: None unless one class
    defines both and nothing is put in their place, since who derives, patches or wraps a model may change its
    score alone."""
    kind = type(model)
    changed = {"perceptron_member", "energy_and_score"} & getattr(model, "__dict__", {}).keys()
    defined = "perceptron_member" in kind.__dict__ and "energy_and_score" in kind.__dict__
    return model.perceptron_member if defined and not changed else None


def energies_and_scores(
    models: Sequence[Any], x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """(E [K, B], scores [K, B, *shape]) of K models; None where they are not of this kind.

    They are differentiable where those of `EnergyModel.energy_and_score` are.
    """
    if not operators_work() or torch.is_inference_mode_enabled():
        return None
    if (
        not isinstance(sigma, Tensor) and sigma == 0
    ):  # each model by itself says that it has no such level
        return None
    ask: list[Any] = [member_method(model) for model in models]
    if None in ask:
        return None
    candidates: list[Candidate] = []
    recorded = is_recorded(x, sigma, *condition.values())
    with torch.set_grad_enabled(recorded):
        states = States(x, sigma)
        for member_of in ask:
            found: Candidate | None = member_of(states, **condition)
            if found is None or (candidates and _shape(found[0]) != _shape(candidates[0][0])):
                return None
            candidates.append(found)
        energies, scores = evaluate_members([member() for _, member in candidates])
    batch = x.shape[0]
    return energies[:, :batch], scores[:, :batch]


def _shape(network: Perceptron) -> tuple[Any, ...]:
    return network.entry.shape, len(network.layers), network.entry.dtype
