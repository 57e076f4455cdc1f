"""The losses whose minimisers are the drift, velocity, noise and score of a stochastic interpolant.

With the states x± = I ± gamma z and I = a x_0 + b x_1, the losses of one sample are

    drift      sum_± |b(x±)|²/2 - <I' ± gamma' z, b(x±)>
    velocity   sum_± |v(x±)|²/2 - <I', v(x±)>
    noise      sum_± |eta(x±)|²/2 ∓ <z, eta(x±)>
    score      sum_± |s(x±)|²/2 ± <z, s(x±)>/gamma

Both signs of z share all other draws, so that the terms in 1/gamma and gamma' cancel to first order and keep a
finite variance at the ends. At the minimum the losses are negative, minus half the squared norm of both fields.
Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.interpolants.arguments import expand_times
from edmfast.interpolants.fields import call_network
from edmfast.interpolants.interpolant import Coefficients, Interpolant
from edmfast.interpolants.velocity_denoiser import Velocity
from edmfast.models.calling.condition_rows import check_condition_rows


def _drift(at: Coefficients, motion: Tensor, z: Tensor, sign: int) -> Tensor:
    return motion + sign * at.gamma_dot * z


def _velocity(at: Coefficients, motion: Tensor, z: Tensor, sign: int) -> Tensor:
    return motion


def _noise(at: Coefficients, motion: Tensor, z: Tensor, sign: int) -> Tensor:
    return sign * z


def _score(at: Coefficients, motion: Tensor, z: Tensor, sign: int) -> Tensor:
    return -sign * z / at.gamma


TARGETS: dict[str, Callable[[Coefficients, Tensor, Tensor, int], Tensor]] = {
    "drift": _drift,
    "velocity": _velocity,
    "noise": _noise,
    "score": _score,
}
"""The functions whose expectation given x is the field of that name."""


def interpolant_loss(
    field: str,
    network: Velocity,
    interpolant: Interpolant,
    x1: Tensor,
    t: Tensor,
    z: Tensor,
    *,
    x0: Tensor | None = None,
    **condition: Any,
) -> Tensor:
    """Return the loss of every sample, [B], whose mean a network of a field minimises; antithetic in z.

    The network is called once, on the states of both signs, as network(x [2 B, *shape], t [2 B], **conditions).

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        field: "drift", "velocity", "noise" or "score".
        network: the network that is trained.
        interpolant: the path and gamma.
        x1: samples of the data [B, *shape].
        t: times [B] within (0, 1).
        z: standard normals like x1, which are the base on a one-sided path.
        x0: samples of the base like x1; None on a one-sided path.
        condition: keyword conditions of the network; tensors have B rows.

    Raises:
        TypeError: a network that returns no floating tensor.
        ValueError: an unknown field, other shapes, conditions with another number of rows, or an x0 that is
            missing or not needed.
    """
    if field not in TARGETS:
        raise ValueError(f"field must be one of {[*TARGETS]}, given {field!r}")
    if (x0 is None) != interpolant.one_sided:
        needed = "None, since z is the base," if interpolant.one_sided else "a tensor like x1"
        kind = "None" if x0 is None else f"a tensor {[*x0.shape]}"
        raise ValueError(f"x0 must be {needed} for the path {interpolant.path!r}, given {kind}")
    for name, tensor in (("z", z), ("x0", x0)):
        if tensor is not None and tensor.shape != x1.shape:
            raise ValueError(f"{name} must be {[*x1.shape]} like x1, given {[*tensor.shape]}")
    at = _expanded(interpolant, t, x1)
    mean, motion = at.b * x1, at.b_dot * x1
    if x0 is not None:
        mean, motion = mean + at.a * x0, motion + at.a_dot * x0
    states = torch.cat([mean + at.gamma * z, mean - at.gamma * z])
    # an error of the doubled batch would name sizes that the caller did not pass
    check_condition_rows(network, condition, len(x1))
    twice = {name: _twice(value, len(x1)) for name, value in condition.items()}
    fields = call_network(network, states, torch.cat([t, t]), twice)
    targets = torch.cat([TARGETS[field](at, motion, z, sign) for sign in (1, -1)])
    losses = (0.5 * fields.square() - targets * fields).flatten(1).sum(1)
    return losses[: len(x1)] + losses[len(x1) :]


def _expanded(interpolant: Interpolant, t: Tensor, x: Tensor) -> Coefficients:
    """Return the coefficients at times [B] as factors of states x, in their dtype."""
    times = expand_times(t, x).reshape(-1)
    # the coefficients are computed in float64, so that gamma keeps its digits near the ends
    at = interpolant.coefficients(times)
    return Coefficients(*(unsqueeze_like(c.to(x.dtype), x) for c in at))


def _twice(value: Any, rows: int) -> Any:
    """Return a condition with its rows repeated for both signs of z."""
    has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
    return torch.cat([value, value]) if has_rows else value
