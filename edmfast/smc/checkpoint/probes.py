"""Numbers of a target at fixed states, which tell two targets apart where no attribute does.

Energies, scores and rewards are evaluated on the same few states at the first, middle and last noise level. The
states are as wide as each scale of the run, so that a change anywhere in its range shows. Two sets of numbers
are compared with a tolerance, since threads, batches and devices round in other orders.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.models.calling.foreign import call_energy
from edmfast.smc.feynman_kac.evaluate import in_groups
from edmfast.smc.feynman_kac.rewards import outer_rewards
from edmfast.targets.algebra import terms_of
from edmfast.targets.mixture import Mixture
from edmfast.targets.scores import has_energy, score_of
from edmfast.targets.tilted import POTENTIALS

_SCALES, _ROWS = 16, 64
_CANNOT_TELL = (
    "its target gives other numbers at every call, or none for probes, so it cannot be told whether it is that of "
    "this run"
)


def probe(
    target: Any,
    levels: Sequence[float],
    size: Sequence[int],
    batch_size: int | None,
    like: Tensor,
) -> list[float] | None:
    """Return the numbers of a target, or None where two calls differ or one fails.

    size: P, N and the shape of a sample. like: a tensor of the dtype and device of the states. The random numbers
    that a target draws here do not change those that it draws in the run.
    """
    populations, particles, *shape = size
    fewest = min(_SCALES, max(1, _ROWS // populations))
    chosen = [levels[0], levels[len(levels) // 2], levels[-1]]
    devices = [like.device] if like.device.type == "cuda" else []
    # few particles are enough, unless the target holds a number for every one of them
    for count in dict.fromkeys((fewest, particles)):
        x = _states(levels, (populations, count, *shape)).to(like)
        try:
            with torch.random.fork_rng(devices), torch.no_grad(), _eager(target):
                # Two calls that differ show a target that draws random numbers.
                first, second = (_numbers(target, x, chosen, batch_size) for _ in range(2))
        except Exception:
            continue
        return None if _differ(first, second, tolerance_of(target, like.dtype)) else first
    return None


def check_probes(path: Any, saved: Any, now: list[float] | None, loosest: float) -> None:
    """Raise ValueError where the numbers of a checkpoint are not those of this run's target.

    Warns where they cannot be compared, since one of them is None. loosest: the tolerance.
    """
    if saved is None or now is None:
        warnings.warn(f"{path}: {_CANNOT_TELL}", stacklevel=5)
        return
    known = isinstance(saved, list) and all(isinstance(value, float) for value in saved)
    if not known or _differ(saved, now, loosest):
        raise ValueError(
            f"{path} is a checkpoint of another run or model (target: its energies, scores or rewards are others)"
        )


def _states(levels: Sequence[float], size: Sequence[int]) -> Tensor:
    rows = size[0] * size[1]
    z = torch.randn(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ramp = torch.linspace(math.log(levels[-1]), math.log(levels[0]), _SCALES, dtype=torch.float64)
    scales = ramp.exp()[torch.arange(rows) % _SCALES].reshape(*size[:2])
    return z * unsqueeze_like(scales, z)


def _numbers(
    target: Any, x: Tensor, levels: Sequence[float], batch_size: int | None
) -> list[float]:
    along = torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(1)).to(x)
    numbers: list[Tensor] = []
    inner, _ = outer_rewards(target, POTENTIALS)
    for sigma in levels:
        for model in _models(inner):
            numbers += _numbers_of_model(model, x, sigma, along, batch_size)
        for tilt in _tilts(target):
            numbers.append(torch.as_tensor(tilt.strength_at(sigma)).double().cpu().reshape(-1))
            numbers.append(_thinned(_reward(tilt, x, batch_size)))
    # No tolerance is below 1e-6, so nine digits are enough.
    return [float(f"{value:.9g}") for value in torch.cat(numbers).tolist()]


def _models(target: Any) -> Sequence[Any]:
    if has_energy(target):
        return [target]
    return (
        target.models if isinstance(target, Mixture) else [model for _, model in terms_of(target)]
    )


def _tilts(target: Any) -> list[Any]:
    parts = target.modules() if isinstance(target, nn.Module) else []
    return [part for part in parts if hasattr(part, "reward_of") and hasattr(part, "strength_at")]


def _numbers_of_model(
    model: Any, x: Tensor, sigma: float, along: Tensor, batch_size: int | None
) -> list[Tensor]:
    """Return the size of the score, its direction, and the energy in units of its rounding error."""

    def call(part: Any, rows: Tensor) -> tuple[Tensor, ...]:
        return (
            call_energy(part, rows, sigma) if has_energy(part) else (score_of(part, rows, sigma),)
        )

    *energy, score = in_groups(call, [model], [x], batch_size)
    flat = score.double().flatten(2)
    size = flat.norm(dim=2)
    # A score of 0 has no direction.
    direction = (flat @ along.double().flatten()) / (size * along.double().norm() + 1e-300)
    numbers = [size / math.sqrt(flat.shape[2]), direction]
    if energy:
        squares = x.double().square().flatten(2).sum(2) / (2 * sigma**2)
        numbers.append(energy[0].double() / (1 + 1e-3 * squares))
    return [_thinned(number) for number in numbers]


def _reward(tilt: Any, x: Tensor, batch_size: int | None) -> Tensor:
    def call(part: Any, rows: Tensor) -> tuple[Tensor, ...]:
        return (part.reward_of(rows, rows),)

    return in_groups(call, [tilt], [x], batch_size)[0]


def _thinned(rows: Tensor) -> Tensor:
    flat = rows.double().flatten()
    return flat[:: math.ceil(len(flat) / _ROWS)].cpu()


def tolerance_of(target: Any, dtype: torch.dtype) -> float:
    """Return how far numbers of one target may lie apart on other threads, batches and devices."""
    parameters = target.parameters() if isinstance(target, nn.Module) else ()
    dtypes = {dtype, *(parameter.dtype for parameter in parameters)}
    if dtypes & {torch.float16, torch.bfloat16}:
        return 3e-2
    return 1e-3 if torch.float32 in dtypes else 1e-6


def _differ(first: list[float], second: list[float], tolerance: float) -> bool:
    if len(first) != len(second):
        return True
    a, b = (torch.tensor(numbers, dtype=torch.float64) for numbers in (first, second))
    same = (a == b) | (a.isnan() & b.isnan())
    close = (a - b).abs() <= tolerance * (1 + torch.maximum(a.abs(), b.abs()))
    # The tolerance of an infinite number is infinite, so everything would be close to it.
    close &= a.isfinite() & b.isfinite()
    return not bool((same | close).all())


@contextmanager
def _eager(target: Any) -> Iterator[None]:
    """Within, compiled energies are called without their graphs: another batch size would cost a compilation."""
    modules = [*target.modules()] if isinstance(target, nn.Module) else []
    compiled = [(part, vars(part)["_compiled"]) for part in modules if vars(part).get("_compiled")]
    for part, _ in compiled:
        part.__dict__["_compiled"] = None
    try:
        yield
    finally:
        for part, methods in compiled:
            part.__dict__["_compiled"] = methods
