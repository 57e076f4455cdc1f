"""Count what a run evaluates: forward passes of models and vector-Jacobian products, for each particle.

| evaluated                                         | forward | backward |
|---------------------------------------------------|---------|----------|
| a denoiser, for its score                         | 1       | 0        |
| an energy and its score                           | 1       | 1        |
| the same with its curvature probed                | 1       | 3        |
| an energy alone                                   | 1       | 0        |
| the exact gradient of a reward of x0, of an energy   | 0 more  | 2 more   |
| the same, of a denoiser                           | 0 more  | 1 more   |

A probe is a vector-Jacobian product of the score. It goes back through the backward pass that made the score
and through the forward pass below it: two. A product, guidance or mixture evaluates each of its models. Rewards
and closed formulas beside the models are not counted; a target of another package counts as one energy. Correctors
count one energy and score for each of their steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from edmfast.smc.feynman_kac.energy import Mixed
from edmfast.targets.algebra import WeightedSum
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.mixture import Mixture
from edmfast.targets.scores import has_energy
from edmfast.targets.tilted import Tilted

if TYPE_CHECKING:
    from edmfast.smc.step import Law

_OF_A_PROBE = 2


class Evaluations(NamedTuple):
    """Forward passes of models, and vector-Jacobian products back through them."""

    forward: int
    backward: int

    def __str__(self) -> str:
        return f"{self.forward} forward, {self.backward} backward"

    def plus(self, other: Evaluations) -> Evaluations:
        """Return the sum of both."""
        return Evaluations(self.forward + other.forward, self.backward + other.backward)


def of_score(model: Any) -> Evaluations:
    """Return what one score costs, with its energy where there is one."""
    if isinstance(model, Conditioned):
        return of_score(model.model)
    if isinstance(model, (WeightedSum, Mixture)):
        parts = (
            [part for _, part in model._active()]
            if isinstance(model, WeightedSum)
            else model.models
        )
        return _total([of_score(part) for part in parts])
    if isinstance(model, Tilted):
        base = of_score(model.model)
        return base.plus(Evaluations(0, _of_slope(model)))
    if isinstance(model, Mixed):
        energy = of_score(model.target)
        alone = hasattr(model.target, "energy")
        return of_score(model.proposal_model).plus(
            Evaluations(energy.forward, 0 if alone else energy.backward)
        )
    return Evaluations(1, int(has_energy(model)))


def of_run(law: Law, levels: int, corrected: int) -> Evaluations:
    """Return what a particle costs in a run over a number of levels, of which some had correctors."""
    if law.has_energy:
        each = of_score(law.target)
        probed = levels - 1 if law.needs_curvature else 0
        probe = _OF_A_PROBE * _probed(law.target)
    else:
        guide = getattr(law, "guide", None)
        models = getattr(law, "models", ())
        each = _total([of_score(model) for model in ((guide,) if guide is not None else models)])
        probed = probe = 0
    times = levels + law.correction.nfe * corrected
    return Evaluations(
        math.ceil(each.forward * times), math.ceil(each.backward * times) + probed * probe
    )


def _of_slope(tilted: Tilted) -> int:
    """Products that the exact gradient of a reward of the denoised state takes."""
    if tilted.gradient != "exact" or tilted.of != "denoised":
        return 0
    base = of_score(tilted.model)
    return base.forward + base.backward


def _probed(target: Any) -> int:
    """Return how many models' scores a probe differentiates."""
    if isinstance(target, Mixed):
        return of_score(target.proposal_model).forward
    return of_score(target).forward


def _total(parts: list[Evaluations]) -> Evaluations:
    return Evaluations(sum(part.forward for part in parts), sum(part.backward for part in parts))
