"""Targets that combine targets: U = sum_i a_i E_i, S = sum_i a_i s_i = -grad U, A = sum_i a_i A_i.

Product    prod_i p_i^{a_i}                          logical AND for a_i = 1, negation for a_i < 0
Tempered   p^gamma                                   low temperature for gamma > 1
Guided     base prod_i (model_i/base)^{w_i}          classifier-free guidance, autoguidance

They can be nested. Each is also a denoiser, x + sigma² S/A. The division by the exponent A gives it the Gaussian
behaviour at large sigma that every sampler expects. Sampling with this denoiser alone, without weights, is a
baseline; exact samples of the combined density need sequential Monte Carlo. An exponent is a number, or a tensor
[K] with one number for each of K equal runs of consecutive rows: in `smc.sample`, K = P gives each population its
own exponent.
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
from edmfast.targets.protocols import Model
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
    """A target with the energy U = sum_i a_i E_i: the base class of Product, Tempered and Guided.

    A model whose exponent is the number 0 is never evaluated. With a plain denoiser among the models, the sum is a
    denoiser with a score but without an energy (`has_energy` is False).

    Args:
        models: M targets or plain denoisers.
        exponents: M numbers a_i, or tensors [K] with one number per run of rows.

    Raises:
        TypeError: a model that is neither a target nor a denoiser.
        ValueError: no models, another number of exponents than models, exponents that are not finite or have
            different lengths K, or a total exponent A that is not positive.
    """

    numbers_only = True
    _totals: Tensor

    def __init__(self, models: Sequence[Model], exponents: Sequence[Exponent]) -> None:
        super().__init__()
        if not models or len(models) != len(exponents):
            raise ValueError(
                f"need one exponent per model and at least one model, given {len(models)} models "
                f"and {len(exponents)} exponents"
            )
        for model in models:
            check_model(model)
        # Storing is apart from checking: `for_rows` stores parts of checked numbers at every call,
        # and a check of a tensor would wait for the device.
        numbers = [as_exponent(exponent) for exponent in exponents]
        total = total_exponent(numbers, [exponent_of(model) for model in models])
        self._store(models, numbers, total)

    def _store(
        self, models: Sequence[Model], exponents: Sequence[Exponent], total: Exponent
    ) -> None:
        self.models: tuple[Any, ...] = tuple(models)
        for index, model in enumerate(models):
            if isinstance(model, nn.Module):
                self.add_module(f"model_{index}", model)
        # The attribute is public because checkpoints compare it to tell one sum from another.
        self.numbers = tuple(None if isinstance(a, Tensor) else a for a in exponents)
        for index, a in enumerate(exponents):
            if isinstance(a, Tensor):
                self.register_buffer(f"exponent_{index}", a)
        self.has_energy = all(has_energy(model) for _, model in self._active())
        self._total = None if isinstance(total, Tensor) else total
        if isinstance(total, Tensor):
            # The buffer moves with the module. It is not saved, because the exponents determine it.
            self.register_buffer("_totals", total, persistent=False)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        # the total of the exponents before would set another start and other moves
        if self._total is None:
            self._totals = torch.as_tensor(
                total_exponent(self.exponents, [exponent_of(model) for model in self.models])
            )

    @property
    def score_is_exact(self) -> bool:
        """True where S is exactly -grad U, which requires exact scores of all models."""
        return all(score_is_exact(model) for _, model in self._active())

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        """The exponents a_i of all models, each a float or float64 [K]."""
        return tuple(
            # A module that is cast to float32 casts its buffers too, so the float64 that callers
            # rely on is restored here.
            getattr(self, f"exponent_{index}").double() if number is None else number
            for index, number in enumerate(self.numbers)
        )

    @property
    def exponent(self) -> Exponent:
        """The total exponent A = sum_i a_i A_i: a float, or float64 [K] where any exponent is a tensor."""
        return self._totals.double() if self._total is None else self._total

    def terms(self) -> list[tuple[Exponent, Model]]:
        """Return pairs (a, model) with S = sum a s, in which no model is a sum.

        Sums within this sum are multiplied out, and conditions bound to such a sum are bound to its models.
        """
        return [(a * b, leaf) for a, model in self._active() for b, leaf in terms_of(model)]

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the energy and the score by one evaluation of each model.

        Args:
            x: the states [B, *shape].
            sigma: the noise levels in units of x, positive: a float, [] or [B].
            condition: keyword conditions, passed to every model.

        Returns:
            (U [B] in nats, S like x).

        Raises:
            TypeError: a model is a plain denoiser.
        """
        if not self.has_energy:
            raise missing_energy(self)
        active = self._active()
        # Perceptrons of one shape are evaluated by one operator, which is faster than one by one.
        terms = self._evaluate_in_one(active, x, sigma, condition) or [
            (a, *call_energy(model, x, sigma, **condition)) for a, model in active
        ]
        a, energy, score = terms[0]
        energy, score = _times(a, energy), _times(a, score)
        for a, other_energy, other_score in terms[1:]:
            energy, score = _plus(energy, a, other_energy), _plus(score, a, other_score)
        return energy, score

    def _active(self) -> list[tuple[Exponent, Model]]:
        """Return the pairs (a, model) that are evaluated: all whose exponent is not the number 0."""
        pairs = zip(self.exponents, self.models, strict=True)
        return [(a, model) for a, model in pairs if not is_zero(a)]

    def _evaluate_in_one(
        self,
        active: list[tuple[Exponent, Model]],
        x: Tensor,
        sigma: float | Tensor,
        condition: dict[str, Any],
    ) -> list[Term]:
        """Return (exponent, energy, score) of each model from one evaluation of all, or [] if impossible."""
        # One model alone gains nothing from a joint evaluation.
        if len(active) < 2:
            return []
        results = energies_and_scores([model for _, model in active], x, sigma, condition)
        if results is None:
            return []
        return [(a, *pair) for (a, _), *pair in zip(active, *results, strict=True)]

    def for_rows(self, start: int, stop: int, batch: int) -> WeightedSum:
        """Return this target for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        # Without numbers for single rows no copy is needed.
        models = [for_rows(model, start, stop, batch) for model in self.models]
        unchanged = all(part is model for part, model in zip(models, self.models, strict=True))
        if unchanged and None not in self.numbers:
            return self
        numbers = [spread_rows("exponent", a, start, stop, batch) for a in self.exponents]
        part: WeightedSum = part_of(self)
        part._store(models, numbers, spread_rows("exponent", self.exponent, start, stop, batch))
        return part

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x + sigma² S/A like x. This works for plain denoisers too."""
        # A sum with an energy is evaluated as such, because one evaluation then serves all its
        # models.
        if self.has_energy:
            score = self.energy_and_score(x, sigma, **condition)[1]
        else:
            (a, model), *others = self._active()
            score = _times(a, score_of(model, x, sigma, **condition))
            for a, model in others:
                score = _plus(score, a, score_of(model, x, sigma, **condition))
        return denoised_from(self, x, sigma, score)


def terms_of(target: Model) -> list[tuple[Exponent, Model]]:
    """Return the terms of a target that is a sum, see `WeightedSum.terms`, and [(1, target)] for any other."""
    if isinstance(target, WeightedSum):
        return target.terms()
    # The conditions of a sum are the conditions of its models, so both may change places.
    if isinstance(target, Conditioned) and isinstance(target.model, (Conditioned, WeightedSum)):
        inner = terms_of(target.model)
        return [(a, Conditioned(model, **target.condition)) for a, model in inner]
    return [(1.0, target)]


def _times(a: Exponent, values: Tensor) -> Tensor:
    """Return a times values [B] or [B, *shape]. Energies whose exponent is 0 become 0, even infinite ones."""
    if not isinstance(a, Tensor):
        # most models have the exponent 1, and a product with it would cost a pass over the values
        return values if a == 1 else a * values
    if values.dim() > 1:
        return row_factors(a, values) * values
    rows = row_numbers(a, values)
    # 0 times an infinite energy would be NaN.
    return torch.where(torch.as_tensor(rows) == 0, 0.0, rows * values)


def _plus(total: Tensor, a: Exponent, values: Tensor) -> Tensor:
    if isinstance(a, Tensor):
        return total + _times(a, values)
    # One kernel instead of two.
    return torch.add(total, values, alpha=a)


class Product(WeightedSum):
    """The target prod_i p_i^{a_i}, with the energy sum_i a_i E_i: logical AND of its models.

    With a plain denoiser among the models it has a score but no energy (`has_energy` is False).
    Source: Du et al. 2023, arXiv 2302.11552.

    Args:
        models: M targets or plain denoisers.
        exponents: M numbers a_i, or tensors [K] with one number per run of rows (in `smc.sample`, per
            population); all 1 by default. A negative exponent (negation) is accepted as long as the total exponent
            stays positive.

    Raises:
        TypeError: a model that is neither a target nor a denoiser.
        ValueError: no models, another number of exponents than models, exponents that are not finite or have
            different lengths K, or a total exponent A that is not positive.
    """

    def __init__(
        self, models: Sequence[Model], exponents: Sequence[Exponent] | None = None
    ) -> None:
        if not hasattr(models, "__len__"):
            raise TypeError("Product takes a sequence of models: write Product([a, b])")
        super().__init__(models, [1.0] * len(models) if exponents is None else exponents)


class Tempered(WeightedSum):
    """The target p^gamma, which is the model at the temperature 1/gamma.

    Args:
        model: a target, or a plain denoiser, which leaves the result without an energy.
        gamma: positive, a number or a tensor [K] with one number per run of rows (in `smc.sample`, per
            population). Above 1 it sharpens the density.

    Raises:
        TypeError: a model that is neither a target nor a denoiser, or a gamma that is not a number.
        ValueError: a gamma that is not positive and finite.
    """

    def __init__(self, model: Model, gamma: Exponent) -> None:
        super().__init__([model], [as_exponent(gamma, "gamma")])


class Guided(WeightedSum):
    """The target base^(1 - weight) model^weight: classifier-free guidance or autoguidance as a density.

    A weight of 1 gives the model, and a weight above 1 sharpens it. With sequences of M models and M weights the
    target is base prod_i (model_i/base)^{w_i}. Source: Ho & Salimans 2022, arXiv 2207.12598.

    Strong guidance has heavy-tailed weights: use more steps and more populations.

    Args:
        base: a target or a plain denoiser, such as an unconditional model.
        model: a target or a plain denoiser, or a sequence of M of them.
        weight: a number, or a tensor [K] with one number per run of rows (in `smc.sample`, per population); with
            a sequence of models, a sequence of M of these.

    Raises:
        TypeError: a model that is neither a target nor a denoiser, or a weight that is not a number.
        ValueError: another number of weights than models, weights that are not finite, or a total exponent A that
            is not positive.
    """

    def __init__(
        self, base: Model, model: Model | Sequence[Model], weight: Exponent | Sequence[Exponent]
    ) -> None:
        many = isinstance(model, (list, tuple))
        models: Any = model if many else [model]
        values: Any = weight if many else [weight]
        weights = [as_exponent(w, "weight") for w in values]
        if len(models) != len(weights):
            raise ValueError(f"given {len(models)} models and {len(weights)} weights")
        # base prod_i (model_i/base)^{w_i} holds the base with the exponent 1 - sum_i w_i.
        super().__init__([base, *models], [1.0 - sum(weights), *weights])
