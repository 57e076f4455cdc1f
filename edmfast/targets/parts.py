"""The models inside a combination, each with its exponent and all its conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from edmfast.targets.algebra import WeightedSum
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.exponents import Exponent
from edmfast.targets.renamed import Renamed

Part = tuple[Exponent, Any, dict[str, Any]]
"""An exponent, a model that is no sum, and its conditions."""


def parts_of(model: Any, x: Tensor, condition: dict[str, Any]) -> Iterator[Part]:
    """Yield (a, part, conditions) with S = sum a s: the models of a sum, or the model itself with a = 1.

    Conditions that are bound to a sum or to a model, and other names of conditions, are resolved, so that the
    part takes the conditions as they are. x: the states [B, *shape] to whose rows conditions are expanded.
    """
    if isinstance(model, (Conditioned, Renamed)):
        inner, its_condition = model.unwrapped(x, condition)
        yield from parts_of(inner, x, its_condition)
    elif isinstance(model, WeightedSum):
        for a, term in model.terms():
            for b, part, its_condition in parts_of(term, x, condition):
                yield a * b, part, its_condition
    else:
        yield 1.0, model, condition
