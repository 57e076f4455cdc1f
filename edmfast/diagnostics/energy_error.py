"""The error of an energy against an exact one, in nats, at each noise level.

An energy is known up to a constant at each noise level, so that only differences of e = E_student - E_exact count.
Three standard deviations describe them:

- on draws of p: the noise that the student adds to the weights of a run at exponent 1, and the error of its
  log-densities;
- on draws of p², which a run at a low temperature visits;
- between the components of p: the sd over components k of m_k = sum_b r_bk e_b / sum_b r_bk, where r_bk is the
  responsibility of component k for draw b. It is the part that moves mass from one mode to another. A run forgets
  errors within a mode, while it cannot repair errors between modes.

The means m_k are those of finitely many draws, so that the variance of their sampling error, the mean over k of
sum_b r_bk² (e_b - m_k)² / (sum_b r_bk)², is subtracted from the variance between components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.models.calling.foreign import energy_of
from edmfast.models.protocols import Target

_ROWS = 1024
"""The largest number of states that the two energies receive at once."""
_FEWEST = 8.0
"""The smallest sum of responsibilities with which a component counts."""

Responsibilities = Callable[[Tensor, float], Tensor]
"""A function (x [B, *shape], sigma) -> the responsibilities [B, K] of K components for each state."""


@dataclass(frozen=True, repr=False)
class EnergyError:
    """Standard deviations of E_student - E_exact in nats, at T noise levels.

    All tensors are float64 [T], on the CPU. NaN stands where there were no draws or no components.

    Attributes:
        sigmas: the noise levels, in units of x.
        on_p: over draws of p.
        on_square: over draws of p².
        between: between the means of the components, without the sampling error of these means.
    """

    sigmas: Tensor
    on_p: Tensor
    on_square: Tensor
    between: Tensor

    def __repr__(self) -> str:
        rows = zip(self.sigmas, self.on_p, self.on_square, self.between, strict=True)
        lines = [f"{s:10.4g} {a:8.3g} {b:8.3g} {c:10.3g}" for s, a, b, c in rows]
        return "\n".join(
            ["EnergyError, sd in nats:\n     sigma     on p    on p²    between", *lines]
        )


@without_gradients
def energy_error(
    student: Target,
    exact: Target,
    sigmas: Tensor | Sequence[float],
    *,
    draws: Iterable[Tensor] | None = None,
    squared_draws: Iterable[Tensor] | None = None,
    responsibilities: Responsibilities | None = None,
    count: int = 2048,
    seed: int = 0,
) -> EnergyError:
    """Measure the error of an energy against an exact one, in nats, at each noise level.

    Draws that are not passed come from the exact model: those of p from exact.sample(count, sigma, seed=...), and
    those of p² from exact.power(2, sigma).sample(count, seed=...), where it has these methods. Where one of the
    models takes a condition, pass `Conditioned(model, ...)`.

    Source: the variance of log-weights under an approximate energy, as in Thornton et al. 2025, arXiv 2502.12786.

    Args:
        student: the energy to measure, with `energy` or `energy_and_score`.
        exact: the exact energy, such as a mixture of `edmfast.analytic` or a kernel density.
        sigmas: the noise levels [T], positive, in units of x.
        draws: T tensors [B, *shape], of which the i-th holds at least two draws of p(.; sigmas[i]).
        squared_draws: T tensors [B, *shape] of draws of the density proportional to p(.; sigmas[i])².
        responsibilities: a function (x [B, *shape], sigma) -> [B, K]. By default it is the method
            `responsibilities` of the exact model, where there is one.
        count: number of draws at each level where none are passed.
        seed: the seed of these draws.

    Returns:
        An `EnergyError` with the three standard deviations at each level.

    Raises:
        TypeError: a number of the wrong type, or a model without an energy.
        ValueError: levels that are not positive, another number of draws than levels, fewer than two draws, no
            draws from an exact model that cannot be sampled or squared, or responsibilities of another
            shape.
    """
    levels = [as_float(f"sigmas[{i}]", s, positive=True) for i, s in enumerate(sigmas)]
    if not levels:
        raise ValueError("sigmas must hold at least one level, got none")
    for i, level in enumerate(levels):
        check_level(f"sigmas[{i}]", level)
    count, seed = as_int("count", count, least=2), as_seed(seed)
    if draws is None and not hasattr(exact, "sample"):
        raise ValueError(
            f"{type(exact).__name__} has no method sample: pass draws=, one tensor [B, *shape] for each level"
        )
    if responsibilities is None:
        responsibilities = getattr(exact, "responsibilities", None)
    on_p = _states("draws", draws, levels)
    on_square = _states("squared_draws", squared_draws, levels)
    rows = []
    for i, sigma in enumerate(levels):
        # each level gets its own seed, so that the errors of the levels are independent
        drawn = (seed + i) % 2**64
        x = on_p[i] if on_p is not None else _sampled(exact, count, sigma, drawn)
        error, x = _difference(student, exact, x, sigma)
        if on_square is not None:
            squared: Tensor | None = on_square[i]
        else:
            squared = _squared(exact, count, sigma, drawn)
        within = math.nan
        if squared is not None:
            within = float(_difference(student, exact, squared, sigma)[0].std())
        between = math.nan
        if responsibilities is not None:
            between = between_components(error, responsibilities(x, sigma))
        rows.append([sigma, float(error.std()), within, between])
    return EnergyError(*torch.tensor(rows, dtype=torch.float64).unbind(1))


def _states(name: str, states: Iterable[Tensor] | None, levels: list[float]) -> list[Tensor] | None:
    if states is None:
        return None
    found = list(states)
    if len(found) != len(levels):
        raise ValueError(f"{len(levels)} sigmas need as many {name}, got {len(found)}")
    for i, x in enumerate(found):
        if x.dim() < 2 or len(x) < 2:
            raise ValueError(f"{name}[{i}] must be [B, *shape] with B >= 2, got {[*x.shape]}")
    return found


def _sampled(exact: Any, count: int, sigma: float, seed: int) -> Tensor:
    x: Tensor = exact.sample(count, sigma, seed=seed)
    return x


def _squared(exact: Any, count: int, sigma: float, seed: int) -> Tensor | None:
    """Return draws of p(.; sigma)², or None where the exact model has no powers."""
    if not hasattr(exact, "power"):
        return None
    try:
        square = exact.power(2, sigma)
    except ValueError as error:
        raise ValueError(
            f"p² cannot be formed ({error}): pass squared_draws=, one tensor [B, *shape] for each level"
        ) from error
    x: Tensor = square.sample(count, seed=seed)
    return x


def _difference(student: Any, exact: Any, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return (E_student - E_exact, float64 [B] on the CPU, and the states, as both models received them)."""
    parameters = student.parameters() if isinstance(student, nn.Module) else iter(())
    parameter = next(parameters, None)
    if parameter is not None:
        # the exact energy is that of the states which the student receives, after rounding
        x = x.to(parameter.dtype)
    parts = []
    for rows in x.split(_ROWS):
        given = rows if parameter is None else rows.to(parameter.device)
        learned = energy_of(student, given, sigma).double().cpu()
        truth = energy_of(exact, rows.double(), sigma).double().cpu()
        parts.append(learned - truth)
    return torch.cat(parts), x.double()


def between_components(error: Tensor, share: Tensor) -> float:
    """Return the sd between component means of error [B] with responsibilities share [B, K]."""
    if share.dim() != 2 or len(share) != len(error):
        raise ValueError(
            f"responsibilities must return [B, K] with B = {len(error)}, got {[*share.shape]}"
        )
    share = share.detach().double().cpu()
    share = share[:, share.sum(0) >= _FEWEST]
    # components with hardly any draws have no mean to speak of
    if share.shape[1] < 2:
        return math.nan
    total = share.sum(0)
    means = (share * error[:, None]).sum(0) / total
    squares = (share.square() * (error[:, None] - means).square()).sum(0) / total.square()
    return math.sqrt(max(0.0, float(means.var() - squares.mean())))
