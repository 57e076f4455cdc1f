"""Classifier-free guidance: extrapolation from the unconditional through the conditional denoised states."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from edmfast._internal.numbers import as_bool, as_float
from edmfast._internal.rows import for_rows
from edmfast.models.calling.foreign import call_denoiser
from edmfast.sampling.guidance.branches import (
    Conditions,
    as_branch,
    branch_of,
    denoised_branches,
    split_branch,
)
from edmfast.sampling.guidance.rescale import as_prediction, rescaled
from edmfast.sampling.guidance.weighted import WeightedGuidance, only_inside
from edmfast.targets.exponents import Exponent
from edmfast.targets.protocols import Model
from edmfast.targets.scores import check_model


class ClassifierFreeGuidance(WeightedGuidance):
    """A denoiser with classifier-free guidance, D_u + weight (D_c - D_u).

    D_c is the model under the conditions of the call, which are the `extra_args` of a sampler. D_u is the model
    with the conditions in `unconditional` instead. One call of the model on a batch of 2B rows gives both, and the
    bits of a sample do not depend on its batch mates where those of the model do not. Two models,
    one for each branch, are what `AutoGuidance` takes. As a density, guidance is
    `edmfast.targets.Guided(unconditional, conditional, weight)` of two `edmfast.targets.Conditioned` models, to
    which `smc.sample` gives weights.

    Sources: Ho & Salimans 2022, arXiv 2207.12598; Kynkäänniemi et al. 2024, arXiv 2404.07724 (interval); Lin et
    al. 2023, arXiv 2305.08891 (rescale).

    Args:
        model: a denoiser, or a target.
        weight: a number, or a tensor [K] with one number for each of K equal runs of consecutive samples. 1 is no
            guidance and one call of B rows, as 0 without a rescale is for the unconditional states.
        unconditional: the conditions of the unconditional branch by name, such as {"class_label": 10} for the
            label of no class, or the embedding of a negative prompt. A number fills a tensor like the
            caller's condition, tensors are [], [1, ...] or [B, ...], and None leaves the condition out. Conditions
            of the caller that are not named here go to both branches.
        interval: noise levels (lo, hi) in units of x. There is guidance where lo < sigma <= hi, and only the
            conditional branch is evaluated where no sample is inside. A sampler on a GPU waits once per call for
            the level, unless the interval is the default.
        rescale: the share phi, from 0 to 1, of guided states that get the standard deviation of the conditional
            ones; the paper takes 0.7.
        rescale_prediction: what is rescaled: "denoised", "epsilon", or "v" of the variance-preserving process.
            Lin et al. rescale the output of the network; to repeat their numbers, name its kind.
        batched: False calls the model twice with B rows, which needs less memory. It is also called twice where
            the branches have other names of conditions, or differ in values that are no tensors.

    Raises:
        TypeError: a model that is no denoiser, conditions that it does not accept, or a value that is no number.
        ValueError: numbers out of range. At a call: a condition in `unconditional` that the call does not give, or
            one with a number of rows that does not fit.
    """

    def __init__(
        self,
        model: Model,
        weight: Exponent,
        *,
        unconditional: Conditions,
        interval: tuple[float, float] = (0.0, math.inf),
        rescale: float = 0.0,
        rescale_prediction: str = "denoised",
        batched: bool = True,
    ) -> None:
        super().__init__(weight, interval)
        self.model = check_model(model)
        self.unconditional = as_branch("unconditional", unconditional, model)
        self.rescale = as_float("rescale", rescale, least=0, most=1)
        self.rescale_prediction = as_prediction(rescale_prediction)
        self.batched = as_bool("batched", batched)

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the guided denoised states like x. x: [B, *shape]. sigma: a float, [] or [B]."""
        inside = self.inside(sigma)
        other = branch_of("unconditional", condition, self.unconditional, x.shape[0])
        if inside is False or self._number == 1:
            return call_denoiser(self.model, x, sigma, **condition)
        # The rescale needs the conditional states, whose standard deviation it gives to the others.
        if self._number == 0 and not self.rescale and inside is True:
            return call_denoiser(self.model, x, sigma, **other)
        conditional, unconditional = denoised_branches(
            self.model, x, sigma, [condition, other], batched=self.batched
        )
        guided = self.extrapolated(unconditional, conditional)
        if self.rescale:
            guided = rescaled(guided, conditional, x, sigma, self.rescale, self.rescale_prediction)
        return only_inside(inside, guided, conditional)

    def split_members(self, part: Any, start: int, stop: int, batch: int) -> None:
        """Replace the model and the conditions of a part by those for its samples."""
        part.model = for_rows(self.model, start, stop, batch)
        part.unconditional = split_branch(self.unconditional, start, stop, batch)
