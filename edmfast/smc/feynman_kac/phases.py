"""The Feynman–Kac models of a run: one for all steps, or one above a noise level and another below it.

Hybrid weights are differences of energies above a level and matched reversals below it. The modes of a target are
decided at high noise, where the differences of a learned energy are as good as exact ones. At low noise they are
noise themselves, while the matched reversal needs the score alone. At the level between the two the weighted
particles follow the target of that level, whichever way the weights go on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edmfast.smc.feynman_kac.base import FeynmanKac


@dataclass(frozen=True)
class Phases:
    """The models of a run of one target: the first makes `first_steps` steps, and the last all others.

    All have the same target, exponent, rewards, description and note on log Z.
    """

    parts: tuple[FeynmanKac, ...]
    first_steps: int = 0

    @property
    def first(self) -> FeynmanKac:
        """The model that starts the run."""
        return self.parts[0]

    def part_at(self, index: int) -> int:
        """Return the index in `parts` of the model that makes a step of the run."""
        return len(self.parts) - 1 if index >= self.first_steps else 0

    def at(self, index: int) -> FeynmanKac:
        """Return the model that makes a step of the run."""
        return self.parts[self.part_at(index)]

    def probes_at(self, index: int) -> int:
        """Return the number of curvature probes that a step of the run needs for every particle."""
        return self.at(index).probes_at(index)

    def with_notes(self, notes: str) -> Phases:
        """Return the same models with a text added to the description of their law."""
        description = self.first.description + notes
        parts = tuple(dataclasses.replace(part, description=description) for part in self.parts)
        return dataclasses.replace(self, parts=parts)

    def for_correctors(self) -> Phases:
        """Return the same models as they run beside correctors."""
        return dataclasses.replace(self, parts=tuple(part.for_correctors() for part in self.parts))
