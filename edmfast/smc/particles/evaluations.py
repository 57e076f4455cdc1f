"""Count the evaluations of a run: forward passes of models and vector-Jacobian products, for one particle.

| evaluated                                          | forward | backward |
|----------------------------------------------------|---------|----------|
| a denoiser, for its score                          | 1       | 0        |
| an energy and its score                            | 1       | 1        |
| an energy and its score, with a curvature probe    | 1       | 3        |
| a denoiser and its score, with a curvature probe   | 1       | 1        |
| an energy alone                                    | 1       | 0        |
| the exact gradient of a reward of x0, of an energy | 0 more  | 2 more   |
| the exact gradient of a reward of x0, of a denoiser | 0 more | 1 more   |

A curvature probe is a vector-Jacobian product of the score. For an energy it goes back through the backward pass
that made the score and through the forward pass below it, so it counts as two; for a denoiser it counts as one. A
product, guidance or mixture evaluates each of its models. Rewards and closed formulas beside the models are not
counted, and neither are exact traces by the models' own methods. A target of another package counts as one energy.
Correctors count one energy and score for each of their steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from edmfast.targets.algebra import WeightedSum
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.mixture import Mixture
from edmfast.targets.proposed_by import ProposedBy
from edmfast.targets.protocols import Model
from edmfast.targets.scores import has_energy
from edmfast.targets.tilted import Tilted


class Evaluations(NamedTuple):
    """The numbers of evaluations of models that one particle takes in a run."""

    forward: int
    """Forward passes of models."""
    backward: int
    """Vector-Jacobian products back through models."""

    def __str__(self) -> str:
        return f"{self.forward} forward, {self.backward} backward"

    def plus(self, other: Evaluations) -> Evaluations:
        """Return the sum of both counts."""
        return Evaluations(self.forward + other.forward, self.backward + other.backward)


def evaluations_of_score(model: Model) -> Evaluations:
    """Return what one score of a model costs, with its energy where the model has one."""
    if isinstance(model, Conditioned):
        return evaluations_of_score(model.model)
    if isinstance(model, (WeightedSum, Mixture)):
        members = (
            # Members whose exponent is 0 are never evaluated.
            [member for _, member in model._active()]
            if isinstance(model, WeightedSum)
            else model.models
        )
        return _total(members)
    if isinstance(model, Tilted):
        base = evaluations_of_score(model.model)
        return base.plus(Evaluations(0, _backward_of_reward(model)))
    if isinstance(model, ProposedBy):
        energy = evaluations_of_score(model.target)
        # The score of the target is not used, and the method `energy` computes none.
        energy_alone = hasattr(model.target, "energy")
        return evaluations_of_score(model.proposal_model).plus(
            Evaluations(energy.forward, 0 if energy_alone else energy.backward)
        )
    return Evaluations(1, int(has_energy(model)))


def evaluations_of_run(
    models: Iterable[Model], visits: float, *, probed: Iterable[Model] = (), probes: int = 0
) -> Evaluations:
    """Return what one particle costs in a run.

    models: those whose scores are evaluated at every visit. visits: how often, the steps of correctors included;
    it may be a fraction where only a part of the particles are moved. probed, probes: the models whose scores are
    probed, and the number of curvature probes of each over the whole run.
    """
    each = _total(models)
    each_probe = sum(map(_backward_of_probe, probed))
    # With waste-free correctors only a part of the particles move, so visits may be a fraction.
    return Evaluations(
        math.ceil(each.forward * visits), math.ceil(each.backward * visits) + probes * each_probe
    )


def _backward_of_probe(model: Model) -> int:
    """Return the passes back through models that one curvature probe of the score of a model takes."""
    followed = _followed(model)
    # the score of an energy is a backward pass already, which the probe goes through too
    passes = 2 if has_energy(followed) else 1
    return passes * evaluations_of_score(followed).forward


def _followed(model: Model) -> Model:
    """Return the model whose score is probed: another one than the target where a proposal follows that."""
    return model.proposal_model if isinstance(model, ProposedBy) else model


def _backward_of_reward(tilted: Tilted) -> int:
    """Return the vector-Jacobian products that the exact gradient of a reward of the denoised state takes."""
    if tilted.gradient != "exact" or tilted.of != "denoised":
        return 0
    base = evaluations_of_score(tilted.model)
    # The gradient goes back through the forward pass and, for an energy, through the backward pass
    # that made its score.
    return base.forward + base.backward


def _total(models: Iterable[Model]) -> Evaluations:
    counts = [evaluations_of_score(model) for model in models]
    return Evaluations(
        sum(count.forward for count in counts), sum(count.backward for count in counts)
    )
