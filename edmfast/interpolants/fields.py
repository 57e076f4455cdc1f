"""Calls of models that give the drift and the score of an interpolant, ours and those of others.

A foreign model works on copies of its arguments, and its results are copied too. So a model that changes its input
in place, or that reuses its output buffers, changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from edmfast.interpolants.arguments import expand_times
from edmfast.interpolants.velocity_denoiser import Velocity
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.foreign import call_backbone
from edmfast.models.calling.origin import is_ours, name_of
from edmfast.models.calling.returned import check_backbone_output

Drift = Callable[[Tensor, float], Tensor]
"""A function (x, t) -> b(x, t) like x."""


class Fields(Protocol):
    """A model with the drift and the score of an interpolant, which `solve_sde` takes."""

    def drift(self, x: Tensor, t: float | Tensor, /, **condition: Any) -> Tensor:
        """Return b(x, t), like x [B, *shape]. t: a float, [] or [B], within [0, 1]."""
        ...

    def drift_and_score(
        self, x: Tensor, t: float | Tensor, /, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (b, s), each like x [B, *shape]. t: a float, [] or [B], within [0, 1]."""
        ...


def call_network(
    network: Any,
    x: Tensor,
    t: float | Tensor,
    condition: dict[str, Any],
    noun: str = "the network",
) -> Tensor:
    """Return the output of network(x [B, *shape], t [B], **condition) in the dtype of x, with its checks.

    noun: the name of the network in errors.
    """
    times = expand_times(t, x).reshape(-1)
    output = call_backbone(network, x, times, noun=noun, **condition).to(x.dtype)
    return output if is_ours(network) else output.clone()


def drift_of(model: Fields | Velocity, condition: dict[str, Any]) -> Drift:
    """Return the function (x, t) -> b of a model with drift(x, t), or of a velocity network.

    Raises TypeError for a model that is neither.
    """
    method: Any = getattr(model, "drift", None)
    if not callable(method):
        if not callable(model) or isinstance(model, type):
            raise TypeError(
                "model must have drift(x, t), or be a velocity network called as model(x, t), given "
                f"{type(model).__name__}"
            )
        return lambda x, t: call_network(model, x, t, condition)
    if is_ours(model):
        return lambda x, t: _own_drift(method, x, t, condition)
    return lambda x, t: call_network(method, x, t, condition, "the drift")


def drift_and_score_of(
    model: Fields, condition: dict[str, Any]
) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """Return the function (x, t) -> (b, s) of a model with drift_and_score(x, t).

    Raises TypeError for a model without this method or without drift(x, t).
    """
    for name in ("drift", "drift_and_score"):
        if not callable(getattr(model, name, None)):
            raise TypeError(
                "model must have drift(x, t) and drift_and_score(x, t), such as an InterpolantModel or a "
                f"OneSidedModel, given {type(model).__name__}"
            )
    if is_ours(model):
        return lambda x, t: model.drift_and_score(x, t, **condition)

    def call(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        check_condition_rows(model, condition, len(x))
        pair: Any = model.drift_and_score(x.clone(), t, **condition)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"drift_and_score must return two tensors like x, {name_of(model)} returned a "
                f"{type(pair).__name__}"
            )
        drift, score = (
            check_backbone_output(model, part, x, noun).to(x.dtype).clone()
            for part, noun in zip(pair, ("the drift", "the score"), strict=True)
        )
        return drift, score

    return call


def _own_drift(method: Any, x: Tensor, t: float, condition: dict[str, Any]) -> Tensor:
    drift: Tensor = method(x, t, **condition)
    return drift
