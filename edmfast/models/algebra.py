"""Targets made of targets: U = sum_i a_i E_i, S = sum_i a_i s_i = -grad U, A = sum_i a_i A_i.

Product    prod_i p_i^{a_i}              logical AND for a_i = 1
Tempered   p^gamma                       low temperature for gamma > 1
Guided     base^(1-w) model^w            classifier-free guidance, autoguidance
Nestable. Each is also a denoiser, x + sigma² S/A: the score divided by the exponent A, whose
Gaussian behaviour at large sigma every sampler expects. Unweighted sampling with it is a baseline;
exact laws need sequential Monte Carlo. Sources: Du et al. 2023, arXiv 2302.11552 (products);
Ho & Salimans 2022, arXiv 2207.12598 (guidance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edmfast.models.preconditioning import expand_sigma
from edmfast.models.rows import for_rows
from edmfast.models.together import energies_and_scores


class WeightedSum(nn.Module):
    """U = sum_i a_i E_i over targets; what Product, Tempered and Guided share.

    Raises TypeError for a model without energy_and_score; ValueError without models, for
    exponents that are not finite or not as many as models, and unless the total A is positive.
    A model whose exponent is 0 is never evaluated.
    """

    def __init__(self, models: Sequence[Any], exponents: Sequence[float]) -> None:
        super().__init__()
        if not models or len(models) != len(exponents):
            raise ValueError(
                f"need one exponent per model and at least one model, given {len(models)} models "
                f"and {len(exponents)} exponents"
            )
        for model in models:
            if not hasattr(model, "energy_and_score"):
                raise TypeError(
                    f"{type(model).__name__} has no energy_and_score: distil it into an energy"
                )
        if not all(math.isfinite(exponent) for exponent in exponents):
            raise ValueError(f"exponents must be finite, given {[*exponents]}")
        self.exponents = tuple(map(float, exponents))
        self.exponent = sum(
            a * float(model.exponent) for a, model in zip(self.exponents, models, strict=True)
        )
        if self.exponent <= 0:
            raise ValueError(
                f"the total exponent A = sum of exponents must be positive, exponents "
                f"{[*self.exponents]} give A = {self.exponent:g}"
            )
        self.models = tuple(models)
        for index, model in enumerate(models):
            if isinstance(model, nn.Module):
                self.add_module(f"model_{index}", model)

    def energy_and_score(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(U [B] in nats, S like x), one evaluation of each model."""
        active = [(a, m) for a, m in zip(self.exponents, self.models, strict=True) if a != 0]
        terms = self._together(active, x, sigma, condition) or [
            (a, *model.energy_and_score(x, sigma, **condition)) for a, model in active
        ]
        a, energy, score = terms[0]
        energy, score = a * energy, a * score
        for a, other_energy, other_score in terms[1:]:
            energy = torch.add(energy, other_energy, alpha=a)
            score = torch.add(score, other_score, alpha=a)
        return energy, score

    def _together(
        self,
        active: list[tuple[float, Any]],
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        condition: dict[str, Any],
    ) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
        """(exponent, energy, score) of each model; none where they cannot be evaluated in one."""
        if len(active) < 2:
            return []
        found = energies_and_scores([model for _, model in active], x, sigma, condition)
        if found is None:
            return []
        return [(a, *pair) for (a, _), *pair in zip(active, *found, strict=True)]

    def for_rows(self, start: int, stop: int, batch: int) -> WeightedSum:
        """This target for samples start..stop - 1 of a batch that is evaluated in pieces."""
        models = [for_rows(model, start, stop, batch) for model in self.models]
        return WeightedSum(models, self.exponents)

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor, **condition: Any
    ) -> torch.Tensor:
        """x + sigma² S/A, like x."""
        _, score = self.energy_and_score(x, sigma, **condition)
        return x + expand_sigma(sigma, x).square() / self.exponent * score


class Product(WeightedSum):
    """prod_i p_i^{a_i}; exponents default to 1 each, negative ones (negation) are accepted."""

    def __init__(self, models: Sequence[Any], exponents: Sequence[float] | None = None) -> None:
        super().__init__(models, [1.0] * len(models) if exponents is None else exponents)


class Tempered(WeightedSum):
    """p^gamma: a = gamma > 0, a temperature of 1/gamma."""

    def __init__(self, model: Any, gamma: float) -> None:
        super().__init__([model], [gamma])


class Guided(WeightedSum):
    """base^(1-weight) model^weight: weight 1 is the model, above 1 it is sharpened."""

    def __init__(self, base: Any, model: Any, weight: float) -> None:
        super().__init__([base, model], [1.0 - weight, weight])
