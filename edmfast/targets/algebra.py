"""Targets made of targets: U = sum_i a_i E_i, S = sum_i a_i s_i = -grad U, A = sum_i a_i A_i.

Product    prod_i p_i^{a_i}                          logical AND for a_i = 1, negation for a_i < 0
Tempered   p^gamma                                   low temperature for gamma > 1
Guided     base prod_i (model_i/base)^{w_i}          classifier-free guidance, autoguidance
Nestable. Each is also a denoiser, x + sigma² S/A: the score divided by the exponent A, whose
Gaussian behaviour at large sigma every sampler expects. Unweighted sampling with it is a baseline;
exact laws need sequential Monte Carlo. An exponent is a number, or a tensor [K] with one number for
each of K equal runs of consecutive rows: in `smc.sample`, K = P gives each population its own.
Sources: Du et al. 2023, arXiv 2302.11552 (products); Ho & Salimans 2022, arXiv 2207.12598 (guidance).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import row_factors, row_numbers
from edmfast._internal.rows import for_rows, part_of, spread_rows
from edmfast.models.calling.foreign import call_energy
from edmfast.models.together import energies_and_scores
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.exponents import (
    Exponent,
    as_exponent,
    exponent_of,
    is_zero,
    total_exponent,
)
from edmfast.targets.scores import (
    check_model,
    denoised_from,
    has_energy,
    missing_energy,
    score_is_exact,
    score_of,
)

Term = tuple[Exponent, Tensor, Tensor]


class WeightedSum(nn.Module):
    """U = sum_i a_i E_i over targets; what Product, Tempered and Guided share.

    Mere denoisers are accepted as models: the sum is then a denoiser too, with a score but without an
    energy (`has_energy`).
    Raises TypeError for a model that is neither; ValueError without models, for exponents that are not
    finite, not as many as models or of different lengths K, and unless the total A is positive.
    A model whose exponent is the number 0 is never evaluated.
    """

    numbers_only = True
    _totals: Tensor

    def __init__(self, models: Sequence[Any], exponents: Sequence[Exponent]) -> None:
        super().__init__()
        if not models or len(models) != len(exponents):
            raise ValueError(
                f"need one exponent per model and at least one model, given {len(models)} models "
                f"and {len(exponents)} exponents"
            )
        for model in models:
            check_model(model)
        numbers = [as_exponent(exponent) for exponent in exponents]
        parts = [exponent_of(model) for model in models]
        self._hold(models, numbers, total_exponent(numbers, parts))

    def _hold(self, models: Sequence[Any], exponents: Sequence[Exponent], total: Exponent) -> None:
        self.models = tuple(models)
        for index, model in enumerate(models):
            if isinstance(model, nn.Module):
                self.add_module(f"model_{index}", model)
        # public, so that checkpoints tell sums apart by them
        self.numbers = tuple(None if isinstance(a, Tensor) else a for a in exponents)
        for index, a in enumerate(exponents):
            if isinstance(a, Tensor):
                self.register_buffer(f"exponent_{index}", a)
        self.has_energy = all(has_energy(model) for _, model in self._active())
        self._total = None if isinstance(total, Tensor) else total
        if isinstance(total, Tensor):
            self.register_buffer("_totals", total, persistent=False)

    @property
    def score_is_exact(self) -> bool:
        """Whether S is -grad U: not where a target's score leaves something out."""
        return all(score_is_exact(model) for _, model in self._active())

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        """a_i of every model: a float, or float64 [K]."""
        return tuple(
            getattr(self, f"exponent_{index}").double() if number is None else number
            for index, number in enumerate(self.numbers)
        )

    @property
    def exponent(self) -> Exponent:
        """A = sum_i a_i A_i: a float, or float64 [K] where any of them is."""
        return self._totals.double() if self._total is None else self._total

    def terms(self) -> list[tuple[Exponent, Any]]:
        """(a, model) of every model that is not a sum itself, sums within sums multiplied out: S = sum a s.
        Conditions bound to a sum are bound to its models."""
        return [(a * b, leaf) for a, model in self._active() for b, leaf in terms_of(model)]

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """(U [B] in nats, S like x), one evaluation of each model. TypeError where one is a mere denoiser."""
        if not self.has_energy:
            raise missing_energy(self)
        active = self._active()
        terms = self._together(active, x, sigma, condition) or [
            (a, *call_energy(model, x, sigma, **condition)) for a, model in active
        ]
        a, energy, score = terms[0]
        energy, score = _times(a, energy), _times(a, score)
        for a, other_energy, other_score in terms[1:]:
            energy, score = _plus(energy, a, other_energy), _plus(score, a, other_score)
        return energy, score

    def _active(self) -> list[tuple[Exponent, Any]]:
        pairs = zip(self.exponents, self.models, strict=True)
        return [(a, model) for a, model in pairs if not is_zero(a)]

    def _together(
        self,
        active: list[tuple[Exponent, Any]],
        x: Tensor,
        sigma: float | Tensor,
        condition: dict[str, Any],
    ) -> list[Term]:
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
        same = all(part is model for part, model in zip(models, self.models, strict=True))
        if same and None not in self.numbers:
            return self
        numbers = [spread_rows("exponent", a, start, stop, batch) for a in self.exponents]
        part: WeightedSum = part_of(self)
        part._hold(models, numbers, spread_rows("exponent", self.exponent, start, stop, batch))
        return part

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """x + sigma² S/A, like x; of mere denoisers too."""
        if self.has_energy:
            score = self.energy_and_score(x, sigma, **condition)[1]
        else:
            (a, model), *others = self._active()
            score = _times(a, score_of(model, x, sigma, **condition))
            for a, model in others:
                score = _plus(score, a, score_of(model, x, sigma, **condition))
        return denoised_from(self, x, sigma, score)


def terms_of(target: Any) -> list[tuple[Exponent, Any]]:
    """(a, model) with S = sum a s of a target: see `WeightedSum.terms`. [(1, target)] if it is no sum."""
    if isinstance(target, WeightedSum):
        return target.terms()
    if isinstance(target, Conditioned) and isinstance(target.model, (Conditioned, WeightedSum)):
        inner = terms_of(target.model)
        return [(a, Conditioned(model, **target.condition)) for a, model in inner]
    return [(1.0, target)]


def _times(a: Exponent, values: Tensor) -> Tensor:
    """a v of values [B] or [B, *shape]; 0 where a row's exponent is 0, even at a wall of infinite energy."""
    if not isinstance(a, Tensor):
        return a * values
    if values.dim() > 1:
        return row_factors(a, values) * values
    rows = row_numbers(a, values)
    return torch.where(torch.as_tensor(rows) == 0, 0.0, rows * values)


def _plus(total: Tensor, a: Exponent, values: Tensor) -> Tensor:
    if isinstance(a, Tensor):
        return total + _times(a, values)
    return torch.add(total, values, alpha=a)


class Product(WeightedSum):
    """prod_i p_i^{a_i}; exponents default to 1 each, negative ones (negation) are accepted."""

    def __init__(self, models: Sequence[Any], exponents: Sequence[Exponent] | None = None) -> None:
        super().__init__(models, [1.0] * len(models) if exponents is None else exponents)


class Tempered(WeightedSum):
    """p^gamma: a = gamma > 0, a temperature of 1/gamma."""

    def __init__(self, model: Any, gamma: Exponent) -> None:
        super().__init__([model], [as_exponent(gamma, "gamma")])


class Guided(WeightedSum):
    """base^(1-weight) model^weight: weight 1 is the model, above 1 it is sharpened.

    With sequences of models and weights, base prod_i (model_i/base)^{w_i}.
    """

    def __init__(
        self, base: Any, model: Any | Sequence[Any], weight: Exponent | Sequence[Exponent]
    ) -> None:
        many = isinstance(model, (list, tuple))
        models = [*model] if many else [model]
        given: Any = weight
        weights = [as_exponent(w, "weight") for w in (given if many else [given])]
        if len(models) != len(weights):
            raise ValueError(f"given {len(models)} models and {len(weights)} weights")
        super().__init__([base, *models], [1.0 - sum(weights), *weights])
