"""Guidance of one model by another: autoguidance, and guidance by a model from before a fine-tuning."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from edmfast._internal.rows import for_rows
from edmfast.models.calling.foreign import call_denoiser
from edmfast.sampling.guidance.branches import Conditions, as_branch, branch_of, split_branch
from edmfast.sampling.guidance.weighted import WeightedGuidance, only_inside
from edmfast.targets.exponents import Exponent
from edmfast.targets.protocols import Model
from edmfast.targets.scores import check_model


class _TwoModels(WeightedGuidance):
    """D_start + weight (D_end - D_start) of two models, with the conditions of `replaced` for the first."""

    def __init__(
        self,
        start: Model,
        end: Model,
        weight: Exponent,
        interval: tuple[float, float],
        replaced: tuple[str, dict[str, Any]],
    ) -> None:
        super().__init__(weight, interval)
        self.models = (check_model(start), check_model(end))
        # A tuple would hide the modules, their devices and their parameters.
        for index, model in enumerate(self.models):
            if isinstance(model, nn.Module):
                self.add_module(f"model_{index}", model)
        self._name, self._replaced = replaced

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the guided denoised states like x. x: [B, *shape]. sigma: a float, [] or [B]."""
        start, end = self.models
        inside = self.inside(sigma)
        other = branch_of(self._name, condition, self._replaced, x.shape[0])
        if self._number == 0 and inside is True:
            return call_denoiser(start, x, sigma, **other)
        through = call_denoiser(end, x, sigma, **condition)
        if inside is False or self._number == 1:
            return through
        guided = self.extrapolated(call_denoiser(start, x, sigma, **other), through)
        return only_inside(inside, guided, through)

    def split_members(self, part: Any, start: int, stop: int, batch: int) -> None:
        """Replace the models and the conditions of a part by those for its samples."""
        part.models = tuple(for_rows(model, start, stop, batch) for model in self.models)
        part._replaced = split_branch(self._replaced, start, stop, batch)


class AutoGuidance(_TwoModels):
    """A denoiser that a weaker version of the model guides, D_guide + weight (D - D_guide).

    The guide is a model of the same task that is smaller or trained for less time. Any two models serve: with an
    unconditional guide this is classifier-free guidance. `edm2_sampler(..., gnet=guide, guidance=weight)` does the
    same for networks that take their labels by position. As a density it is `edmfast.targets.Guided(guide, model,
    weight)`, to which `smc.sample` gives weights.

    Source: Karras et al. 2024, arXiv 2406.02507.

    Args:
        model: a denoiser, or a target.
        guide: another one.
        weight: a number, or a tensor [K] with one number for each of K equal runs of consecutive samples. 1 is no
            guidance, and the guide is not called.
        guide_conditions: conditions that the guide gets in place of the caller's, see `unconditional` of
            `ClassifierFreeGuidance`; {"class_label": None} leaves one out. All others go to both models.
        interval: noise levels (lo, hi) in units of x. The guide acts, and is called, where lo < sigma <= hi.

    Raises:
        TypeError: a model that is no denoiser, conditions that the guide does not accept, or a value that is no
            number.
        ValueError: numbers out of range. At a call: a condition in `guide_conditions` that the call does not give,
            or one with a number of rows that does not fit.
    """

    def __init__(
        self,
        model: Model,
        guide: Model,
        weight: Exponent,
        *,
        guide_conditions: Conditions | None = None,
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        replaced = as_branch("guide_conditions", guide_conditions or {}, guide)
        super().__init__(guide, model, weight, interval, ("guide_conditions", replaced))


class ReinforcementLearningGuidance(_TwoModels):
    """A denoiser that sets the strength of a fine-tuning after it, D_base + weight (D_tuned - D_base).

    Velocities, noise predictions and denoised states give the same combination, because each is linear in the
    others. Where the models have classifier-free guidance of their own, wrap each in `ClassifierFreeGuidance`
    first. The result stands for the model that was tuned with the coefficient beta / weight of the KL divergence
    in place of beta: exactly so for Gaussians of one variance. In general the density base^(1-w) tuned^w needs
    weights, which `smc.sample` gives to `edmfast.targets.Guided(base, tuned, weight)`.

    Source: Jin et al. 2025, "Inference-time alignment control for diffusion models with reinforcement learning
    guidance".

    Args:
        base: the denoiser before the fine-tuning.
        tuned: the denoiser after it.
        weight: a number, or a tensor [K] with one number for each of K equal runs of consecutive samples. 0 is the
            base and 1 the tuned model, with one call of it alone; 1 to 3 are usual.

    Raises:
        TypeError: a model that is no denoiser, or a weight that is no number.
        ValueError: a weight that is not finite.
    """

    def __init__(self, base: Model, tuned: Model, weight: Exponent = 2.0) -> None:
        super().__init__(base, tuned, weight, (0.0, math.inf), ("", {}))
