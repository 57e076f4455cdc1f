"""A model whose keyword conditions go by other names: where two models meet that call one thing differently."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edmfast._internal.rows import for_rows
from edmfast.models.calling.conditions import accepted_conditions, check_accepted
from edmfast.models.calling.foreign import call_denoiser, call_energy, energy_of
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.scores import has_energy, score_is_exact


class Renamed(nn.Module):
    """A model that is called with our name of a condition and calls the inner one with its own.

    model: a denoiser, an energy, or the backbone of one. names: ours=theirs, such as class_label="class_labels"
    for a UNet of diffusers. Other conditions pass through. Target and denoiser if the model is.
    Raises TypeError for a name that is no string, or one that the model is known not to accept; ValueError for
    two conditions of one name.
    """

    def __init__(self, model: Any, **names: str) -> None:
        super().__init__()
        for ours, theirs in names.items():
            if not isinstance(theirs, str):
                raise TypeError(f"the other name of {ours} must be a string, given {theirs!r}")
        if len(set(names.values())) < len(names):
            raise ValueError(f"two conditions cannot share one name, given {names}")
        check_accepted(model, names.values())
        self.model, self.names = model, dict(names)

    @property
    def exponent(self) -> Exponent:
        """A of the model."""
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
        """Return the names that conditions go by here, None where the model takes any."""
        inside = accepted_conditions(self.model)
        return None if inside is None else (inside - {*self.names.values()}) | self.names.keys()

    def energy(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """E(x, sigma | condition) [B] in nats."""
        return energy_of(self.model, x, sigma, **self._theirs(condition))

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """(energy [B], score like x)."""
        return call_energy(self.model, x, sigma, **self._theirs(condition))

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Denoised x0 like x, or what a backbone makes of scaled states."""
        return call_denoiser(self.model, x, sigma, **self._theirs(condition))

    def for_rows(self, start: int, stop: int, batch: int) -> Renamed:
        """This model for samples start..stop - 1 of a batch that is evaluated in pieces."""
        inside = for_rows(self.model, start, stop, batch)
        return self if inside is self.model else Renamed(inside, **self.names)

    def _theirs(self, condition: dict[str, Any]) -> dict[str, Any]:
        renamed = {self.names.get(name, name): value for name, value in condition.items()}
        if len(renamed) < len(condition):
            raise ValueError(
                f"a condition is given twice, under both of its names: {sorted(condition)}"
            )
        return renamed
