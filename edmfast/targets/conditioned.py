"""A model with bound conditions: the conditional density p(x; sigma | condition) as a target and a denoiser."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from edmfast._internal.numbers import as_float, as_int
from edmfast._internal.rows import for_rows, spread_rows
from edmfast.models.calling.conditions import check_accepted
from edmfast.models.calling.foreign import call_denoiser, call_energy, energy_of
from edmfast.models.together import Candidate, States, member_method
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.gauges import is_normalised
from edmfast.targets.protocols import Model
from edmfast.targets.scores import has_energy, score_is_exact


class Conditioned(nn.Module):
    """A target that binds keyword conditions, such as class_label=3, to a model.

    It is a target or a denoiser, as the model is.

    Args:
        model: a target or a plain denoiser.
        condition: numbers or tensors. Python integers become int64 [B], and other numbers become [B] in the dtype
            of x. Tensors [] are expanded to [B], tensors [1, ...] to [B, ...], and tensors [B, ...] are passed as
            they are. In `smc.sample` each row of a tensor [K, ...] serves as many consecutive particles of all
            P·N: K = P is one condition per population.

    Raises:
        TypeError: a value that is neither a number nor a tensor, a condition that the model is known not to
            accept, or an energy requested from a plain denoiser.
        ValueError: a condition that is given twice, or whose number of rows does not fit.
    """

    def __init__(self, model: Model, **condition: Any) -> None:
        super().__init__()
        # A wrong name fails here and not at the first evaluation of a run.
        check_accepted(model, condition)
        self.model = model
        self.condition = {name: _as_condition(name, value) for name, value in condition.items()}

    @property
    def exponent(self) -> Exponent:
        """The exponent A of the model: a float or float64 [K]."""
        return exponent_of(self.model)

    @property
    def has_energy(self) -> bool:
        """True where the model has an energy."""
        return has_energy(self.model)

    @property
    def normalised(self) -> bool:
        """True where the model's energy is normalised, whatever the condition."""
        return is_normalised(self.model)

    @property
    def score_is_exact(self) -> bool:
        """True where the score of the model is minus the gradient of its energy."""
        return score_is_exact(self.model)

    def energy(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """Return E(x, sigma | condition) [B] in nats. Raises TypeError where the model is a plain denoiser."""
        # A target without the method `energy` still has one through energy_and_score; a plain
        # denoiser has neither.
        if not hasattr(self.model, "energy"):
            self._must_have("energy_and_score")
        return energy_of(self.model, x, sigma, **self._bind(x, condition))

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (E [B] in nats, the score like x) under the bound conditions.

        x: [B, *shape]. sigma: a float, [] or [B], positive. Raises TypeError where the model is a plain denoiser.
        """
        self._must_have("energy_and_score")
        return call_energy(self.model, x, sigma, **self._bind(x, condition))

    def perceptron_member(self, states: States, **condition: Any) -> Candidate | None:
        """See `EnergyModel.perceptron_member`."""
        member_of = member_method(self.model)
        if member_of is None:
            return None
        member: Candidate | None = member_of(states, **self._bind(states.unpadded_x, condition))
        return member

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """Return the denoised states x0 like x, under the bound conditions."""
        return call_denoiser(self.model, x, sigma, **self._bind(x, condition))

    def for_rows(self, start: int, stop: int, batch: int) -> Conditioned:
        """Return this model for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        part = {
            name: spread_rows(name, value, start, stop, batch)
            for name, value in self.condition.items()
        }
        return Conditioned(for_rows(self.model, start, stop, batch), **part)

    def unwrapped(self, x: torch.Tensor, condition: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
        """Return (the model, all its conditions for states x), to call a method that only the model has."""
        return self.model, self._bind(x, condition)

    def _must_have(self, name: str) -> None:
        if not hasattr(self.model, name):
            raise TypeError(f"{type(self.model).__name__} has no {name}: it is not an energy")

    def _bind(self, x: torch.Tensor, condition: dict[str, Any]) -> dict[str, Any]:
        twice = sorted(self.condition.keys() & condition.keys())
        if twice:
            raise ValueError(f"{twice} are bound to this model already: do not pass them again")
        bound = {name: _expand(name, value, x) for name, value in self.condition.items()}
        return {**bound, **condition}


def _expand(name: str, value: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    batch = x.shape[0]
    if not isinstance(value, torch.Tensor):
        # Integers are class labels, which index an embedding and must not be rounded.
        dtype = torch.int64 if isinstance(value, int) else x.dtype
        # A fill on the device needs no copy from the host, which would wait for it.
        return torch.full((batch,), value, dtype=dtype, device=x.device)
    value = value.to(x.device)
    if value.dim() == 0:
        return value.expand(batch)
    if value.shape[0] == 1:
        return value.expand(batch, *value.shape[1:])
    if value.shape[0] != batch:
        raise ValueError(
            f"{name} has {value.shape[0]} rows for a batch of {batch}: a condition has one row per sample, or one "
            f"row for all samples ({name}[None])"
        )
    return value


def _as_condition(name: str, value: Any) -> int | float | torch.Tensor:
    """Return a tensor as it is, and any number as a number of Python."""
    if isinstance(value, torch.Tensor):
        return value
    # Integers come first: a class label must stay an integer to index an embedding.
    for convert in (as_int, as_float):
        with contextlib.suppress(TypeError):
            return convert(name, value)
    raise TypeError(f"{name} must be a number or a tensor, given {value!r}")
