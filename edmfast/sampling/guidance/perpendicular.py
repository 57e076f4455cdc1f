"""Perpendicular negative guidance: negative conditions act only across the direction of the positive one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import row_numbers, unsqueeze_like
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
from edmfast.sampling.guidance.weighted import WeightedGuidance, only_inside
from edmfast.sampling.moments import inner_products
from edmfast.targets.exponents import Exponent
from edmfast.targets.protocols import Model
from edmfast.targets.scores import check_model

# `score_gram` takes eight vectors, of which the positive direction is one.
_MOST = 7


class PerpendicularNegative(WeightedGuidance):
    """A denoiser with perpendicular negative guidance (Perp-Neg), for one or several negative conditions.

    With p = D_c - D_u and q_i = D_i - D_u, the denoised states are

        D_u + weight (p - sum_i n_i (q_i - <q_i, p> / <p, p> p)),

    where the products are taken for each sample alone. So a negative condition removes nothing of what the
    positive one asks for. Where p is 0, q_i acts as a whole. One call of the model on a batch of all branches
    gives them. With one negative condition equal to the positive one, this is classifier-free guidance.

    Source: Armandpour et al. 2023, arXiv 2304.04968, whose weights are -n_i.

    Args:
        model: a denoiser, or a target.
        weight: a number, or a tensor [K] with one number for each of K equal runs of consecutive samples.
        unconditional: the conditions of D_u by name, see `ClassifierFreeGuidance`.
        negative: the conditions of D_1 by name, or a sequence of up to 7 such dictionaries.
        negative_weight: the number n_1, or a sequence with one number for each negative condition. Positive
            numbers move away from it.
        interval: noise levels (lo, hi) in units of x. There is guidance where lo < sigma <= hi, and only the
            conditional branch is evaluated where no sample is inside.
        batched: False calls the model once for each branch.

    Raises:
        TypeError: a model that is no denoiser, conditions that it does not accept, or a value that is no number.
        ValueError: numbers out of range, no or too many negative conditions, or another number of weights. At a
            call: a condition that the call does not give, or one with a number of rows that does not fit.
    """

    def __init__(
        self,
        model: Model,
        weight: Exponent,
        *,
        unconditional: Conditions,
        negative: Conditions | Sequence[Conditions],
        negative_weight: float | Sequence[float] = 1.0,
        interval: tuple[float, float] = (0.0, math.inf),
        batched: bool = True,
    ) -> None:
        super().__init__(weight, interval)
        self.model = check_model(model)
        self.unconditional = as_branch("unconditional", unconditional, model)
        many = isinstance(negative, (list, tuple))
        conditions: Sequence[Any] = negative if isinstance(negative, (list, tuple)) else [negative]
        if not 1 <= len(conditions) <= _MOST:
            raise ValueError(
                f"negative must be 1 to {_MOST} dictionaries of conditions, got {len(conditions)}"
            )
        self.negative = [
            as_branch(f"negative[{i}]" if many else "negative", part, model)
            for i, part in enumerate(conditions)
        ]
        self.negative_weight = _as_weights(negative_weight, len(conditions))
        self.batched = as_bool("batched", batched)

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the guided denoised states like x. x: [B, *shape]. sigma: a float, [] or [B]."""
        inside = self.inside(sigma)
        batch = x.shape[0]
        others = [branch_of("unconditional", condition, self.unconditional, batch)]
        others += [branch_of("negative", condition, part, batch) for part in self.negative]
        if inside is False:
            return call_denoiser(self.model, x, sigma, **condition)
        conditional, base, *negatives = denoised_branches(
            self.model, x, sigma, [condition, *others], batched=self.batched
        )
        directions = [conditional - base, *(negative - base for negative in negatives)]
        return only_inside(inside, self._combined(base, directions), conditional)

    def _combined(self, base: Tensor, directions: list[Tensor]) -> Tensor:
        along = inner_products(directions)[:, 0]
        square = along[:, :1]
        parallel = torch.where(square > 0, along[:, 1:] / square, 0.0)
        # This is the factor of p: 1 + sum_i n_i <q_i, p> / <p, p>.
        factor = 1.0 + sum(n * parallel[:, i] for i, n in enumerate(self.negative_weight))
        weight = row_numbers(self.weight, base)
        denoised = base
        for direction, number in zip(
            directions, [factor, *(-n for n in self.negative_weight)], strict=True
        ):
            share = torch.as_tensor(number * weight, dtype=base.dtype, device=base.device)
            denoised = denoised + direction * (
                unsqueeze_like(share, base) if share.dim() else share
            )
        return denoised

    def split_members(self, part: Any, start: int, stop: int, batch: int) -> None:
        """Replace the model and the conditions of a part by those for its samples."""
        part.model = for_rows(self.model, start, stop, batch)
        part.unconditional = split_branch(self.unconditional, start, stop, batch)
        part.negative = [split_branch(one, start, stop, batch) for one in self.negative]


def _as_weights(value: Any, count: int) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if len(values) != count:
        raise ValueError(
            f"negative_weight must be one number for each of the {count} negative conditions, got {len(values)}"
        )
    return tuple(as_float("negative_weight", number) for number in values)
