"""A model with other names for its keyword conditions, so that models with different names can be combined."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edmfast._internal.rows import for_rows
from edmfast.models.calling.conditions import accepted_conditions, check_accepted
from edmfast.models.calling.foreign import call_denoiser, call_energy, energy_of
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.protocols import Model
from edmfast.targets.scores import has_energy, score_is_exact


class Renamed(nn.Module):
    """A target that takes conditions under other names than its model does.

    It is a target or a denoiser, as the model is.

    Args:
        model: a target, a plain denoiser, or the backbone of one.
        names: pairs new_name="name of the model", such as class_label="class_labels" for a UNet of diffusers.
            Conditions without a new name are passed on as they are.

    Raises:
        TypeError: a name that is no string, or one that the model is known not to accept.
        ValueError: two new names of one condition, and at a call a condition that is given under both names.
    """

    def __init__(self, model: Model, **names: str) -> None:
        super().__init__()
        for name, model_name in names.items():
            if not isinstance(model_name, str):
                raise TypeError(f"the other name of {name} must be a string, given {model_name!r}")
        # One of two conditions with one name would silently overwrite the other.
        if len(set(names.values())) < len(names):
            raise ValueError(f"two conditions cannot share one name, given {names}")
        check_accepted(model, names.values())
        self.model, self.names = model, dict(names)

    @property
    def exponent(self) -> Exponent:
        """The exponent A of the model: a float or float64 [K]."""
        return exponent_of(self.model)

    @property
    def has_energy(self) -> bool:
        """True where the model has an energy."""
        return has_energy(self.model)

    @property
    def score_is_exact(self) -> bool:
        """True where the score of the model is minus the gradient of its energy."""
        return score_is_exact(self.model)

    def accepted_conditions(self) -> set[str] | None:
        """Return the names under which conditions are accepted, or None where the model accepts any."""
        accepted = accepted_conditions(self.model)
        return None if accepted is None else (accepted - {*self.names.values()}) | self.names.keys()

    def energy(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return E(x, sigma | condition) [B] in nats."""
        return energy_of(self.model, x, sigma, **self._renamed(condition))

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (E [B] in nats, the score like x). x: [B, *shape]. sigma: a float, [] or [B], positive."""
        return call_energy(self.model, x, sigma, **self._renamed(condition))

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x0 like x, or the output of the model where it is a backbone."""
        return call_denoiser(self.model, x, sigma, **self._renamed(condition))

    def for_rows(self, start: int, stop: int, batch: int) -> Renamed:
        """Return this model for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        part = for_rows(self.model, start, stop, batch)
        return self if part is self.model else Renamed(part, **self.names)

    def unwrapped(self, x: Tensor, condition: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
        """Return (the model, the conditions under its names), to call a method that only the model has."""
        return self.model, self._renamed(condition)

    def _renamed(self, condition: dict[str, Any]) -> dict[str, Any]:
        """Return the conditions under the names of the model."""
        renamed = {self.names.get(name, name): value for name, value in condition.items()}
        if len(renamed) < len(condition):
            raise ValueError(
                f"a condition is given twice, under both of its names: {sorted(condition)}"
            )
        return renamed
