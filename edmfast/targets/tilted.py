"""Reward tilts: U = E - lambda(sigma) r(x_0), with x_0 the denoised state D = x + sigma² s/A, or the state x.

At the last level p(x; sigma) is multiplied by exp(lambda r). On the way lambda grows from 0, so that the run
starts from the base and the exponent A is that of the base. The proposal may follow the tilt:

gradient="none"         S = s: no derivative of r is needed
gradient="approximate"  S = s + lambda c grad r(x_0), c = data_std²/(data_std² + sigma²)
gradient="exact"        S = s + lambda grad_x r(D(x)) = -grad U: one more vector-Jacobian product of the network

c stands for dD/dx, which is c I for Gaussian data of that width: 1 at small sigma, and data_std²/sigma² where D
hardly depends on x. In sequential Monte Carlo all three have exact weights and differ in their variance.
Sources: Chung et al. 2023, arXiv 2209.14687 (gradients through the denoised state); Singhal et al. 2025,
arXiv 2501.06848 (potentials of steering).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import row_factors, row_numbers
from edmfast._internal.derivatives import is_recorded, values_and_slope
from edmfast._internal.numbers import as_float, as_pair, check_level
from edmfast._internal.rows import for_rows, part_of, spread_rows
from edmfast.models.calling.foreign import call_energy, call_reward, name_of
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.preconditioning import expand_sigma
from edmfast.targets.exponents import Exponent, as_exponent, exponent_of
from edmfast.targets.scores import (
    check_model,
    denoised_from,
    has_energy,
    missing_energy,
    score_is_exact,
    score_of,
)

GRADIENTS = ("none", "approximate", "exact")
POTENTIALS = ("difference", "max", "sum")
RAMP = (2.0, 0.1)
"""In units of x: between these levels the modes of data of unit size separate."""
SLACK = 1 + 1e-6
"""Noise levels are compared up to rounding."""

_here = threading.local()

Reward = Callable[[Tensor], Tensor]
Strength = Exponent | Callable[[float | Tensor], float | Tensor]


class Tilted(nn.Module):
    """exp(strength r) times a model.

    model: a target; a mere denoiser is accepted, and leaves the tilt without an energy (`has_energy`).
    reward: [B, *shape] -> [B], in nats for strength 1, of x_0. It may be a module, whose `for_rows`, if any,
    splits what it holds for rows of its own.
    strength: lambda at the end, a number or a tensor [K] with one number per run of rows (in `smc.sample`, per
    population); or a function lambda(sigma), which is then all of it.
    ramp: (sigma_hi, sigma_lo) in units of x: lambda is 0 above the first, linear in ln(sigma), and `strength`
    from the second on, which must be within the noise levels of a run. None: `strength` at every level.
    of: "denoised" or "state". gradient: "none", "approximate" or "exact", see above; of the state the last two are
    one. gradient_scale multiplies what the score gets of it. data_std: of c, in units of x.
    potential: "difference" is this energy; "max" and "sum" reward the best or all of a particle's path, which
    `smc.sample` does: such a tilt must be the outermost target.

    The score is -grad U where `score_is_exact`. Both results are differentiable as those of the model are; with
    gradient="exact" derivatives of the score are third derivatives of the network, which networks with
    operators for two orders refuse. The curvature that proposals of `smc.sample` probe leaves out the tilt's own
    share for that reason.
    Raises TypeError or ValueError for bad arguments, a reward of another shape, or one without a gradient that
    was to be followed.
    """

    potential = "difference"
    _reward_name = "reward"

    numbers_only = True
    numbers: Tensor

    def __init__(
        self,
        model: Any,
        reward: Reward,
        strength: Strength,
        *,
        ramp: tuple[float, float] | None = RAMP,
        of: str = "denoised",
        gradient: str = "none",
        gradient_scale: float = 1.0,
        data_std: float = 0.5,
        potential: str = "difference",
    ) -> None:
        super().__init__()
        if not callable(reward):
            raise TypeError(f"a reward must be callable, given {type(reward).__name__}")
        _check_name("of", of, ("denoised", "state"))
        _check_name("gradient", gradient, GRADIENTS)
        _check_name("potential", potential, POTENTIALS)
        self.ramp = None if ramp is None else _as_ramp(ramp)
        self.gradient_scale = as_float("gradient_scale", gradient_scale)
        self.data_std = as_float("data_std", data_std, positive=True)
        check_level("data_std", self.data_std, torch.float32)
        self.model, self.reward = check_model(model), reward
        self.has_energy = has_energy(model)
        self.of, self.gradient, self.potential = of, gradient, potential
        self.number: Any = strength if callable(strength) else as_exponent(strength, "strength")
        if isinstance(self.number, Tensor):
            numbers, self.number = self.number, None
            self.register_buffer("numbers", numbers)

    @property
    def exponent(self) -> Exponent:
        """A of the model."""
        return exponent_of(self.model)

    @property
    def strength(self) -> Strength:
        """As it was given: a number, float64 [K] or a function."""
        if self.number is not None:
            found: Strength = self.number
            return found
        return self.numbers.double()

    @property
    def score_is_exact(self) -> bool:
        """Whether S is -grad U."""
        whole = self.gradient == "exact" or (self.gradient == "approximate" and self.of == "state")
        return whole and self.gradient_scale == 1 and score_is_exact(self.model)

    def strength_at(self, sigma: float | Tensor) -> Exponent:
        """lambda(sigma): a float or a tensor like sigma, [K] where there is one per population."""
        strength = self.strength
        if callable(strength):
            return _scheduled(strength, sigma)
        return strength * self._share(sigma)

    def check_levels(self, levels: Sequence[float]) -> None:
        """ValueError unless a run over these noise levels ends at the whole strength."""
        if (
            self.ramp is not None
            and not callable(self.number)
            and levels[-1] > self.ramp[1] * SLACK
        ):
            raise ValueError(
                f"the strength is reached at sigma = {self.ramp[1]:g}, below the last weighted noise level "
                f"{levels[-1]:g}: end the ramp above it, or take ramp=None"
            )

    def reward_of(self, x: Tensor, denoised: Tensor) -> Tensor:
        """r [B] of states x and their denoised states, whichever it looks at."""
        point = denoised if self.of == "denoised" else x
        return call_reward(self.reward, point, self._reward_name)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """(U [B] in nats, S like x), one evaluation of the model. TypeError where it is a mere denoiser, or the
        potential is one of paths."""
        if not self.has_energy:
            raise missing_energy(self)
        if self.potential != "difference":
            raise TypeError(
                f"potential={self.potential!r} rewards paths and has no energy: sample this tilt itself "
                "with smc.sample, not as a part of another target"
            )
        energy, score = self._evaluate(x, sigma, condition)
        assert energy is not None
        return energy, score

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """x + sigma² S/A, like x: guided by the reward as `gradient` says; of mere denoisers too."""
        score = self._evaluate(x, sigma, condition)[1]
        return denoised_from(self, x, sigma, score)

    def _evaluate(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor]:
        energy, score, pull = self._parts(x, sigma, condition)
        return energy, score if pull is None else score + pull

    def score_and_pull(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """(s of the model, what the tilt adds to it), both like x and without a graph: one evaluation."""
        with torch.no_grad():
            _, score, pull = self._parts(x, sigma, condition)
        return score, torch.zeros_like(score) if pull is None else pull

    def _parts(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """(U, s of the model, what the tilt adds to it), detached unless `is_recorded` asks for a graph."""
        recorded = is_recorded(x, sigma, *condition.values())
        strength = self._strength_rows(x, sigma)
        if self._is_base(strength, sigma):
            energy, score = self._base(x, sigma, condition)
            if recorded:
                return energy, score, None
            return None if energy is None else energy.detach(), score.detach(), None
        slope: Tensor | None
        if self.gradient == "exact" and self.of == "denoised":
            energy, score, reward, slope = self._through_the_model(x, sigma, condition, recorded)
        else:
            with torch.set_grad_enabled(recorded):
                energy, score = self._base(x, sigma, condition)
                denoised = denoised_from(self, x, sigma, score)
                reward, slope = self._reward_and_slope(x, denoised, sigma, recorded)
        with torch.set_grad_enabled(recorded):
            if energy is not None:
                energy = self.tilt(energy, reward, strength, sigma)
            if slope is None:
                return energy, score, None
            return energy, score, row_factors(strength * self.gradient_scale, score) * slope

    def _through_the_model(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any], recorded: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """(E, s, r, the gradient of r(D(x)) by x)."""

        def evaluate(x: Tensor) -> tuple[Tensor, ...]:
            energy, score = self._base(x, sigma, condition)
            reward = self._followed(x, denoised_from(self, x, sigma, score))
            return (reward, score) if energy is None else (reward, score, energy)

        with second_derivatives():
            (reward, score, *energy), slope = values_and_slope(evaluate, x, recorded, cut=_is_cut())
        return energy[0] if energy else None, score, reward, slope

    def _base(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor]:
        if not self.has_energy:
            return None, score_of(self.model, x, sigma, **condition)
        return call_energy(self.model, x, sigma, **condition)

    def _is_base(self, strength: float | Tensor, sigma: float | Tensor) -> bool:
        """Whether nothing is known to be added at this level."""
        return not isinstance(strength, Tensor) and strength == 0

    def tilt(
        self, energy: Tensor, reward: Tensor, strength: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        """E - lambda r; where lambda is 0, E whatever r is."""
        return energy - strength_times_reward(strength, reward.to(energy.dtype))

    def _reward_and_slope(
        self, x: Tensor, denoised: Tensor, sigma: float | Tensor, recorded: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(r [B], what stands for its gradient by x)."""
        if self.gradient == "none":
            return self.reward_of(x, denoised), None
        looked_at = x if self.of == "state" else denoised
        with second_derivatives():
            (reward,), slope = values_and_slope(
                lambda point: (self._followed(point, point),), looked_at, recorded, cut=_is_cut()
            )
        if self.of == "denoised":
            levels, width = expand_sigma(sigma, x).square(), self.data_std**2
            slope = width / (width + levels) * slope
        return reward, slope

    def _followed(self, x: Tensor, denoised: Tensor) -> Tensor:
        """`reward_of`, where its gradient is to be followed."""
        reward = self.reward_of(x, denoised)
        if not reward.requires_grad:
            raise ValueError("this reward has no gradient: use gradient='none'")
        return reward

    def _share(self, sigma: float | Tensor) -> float | Tensor:
        """lambda(sigma)/strength in [0, 1]."""
        if self.ramp is None:
            return 1.0
        high, low = map(math.log, self.ramp)
        # a ramp of no width is a step
        width = max(high - low, 1e-12)
        if isinstance(sigma, Tensor):
            return ((high - sigma.double().log()) / width).clamp(0, 1)
        level = as_float("sigma", sigma, least=0)
        return 1.0 if level == 0 else min(1.0, max(0.0, (high - math.log(level)) / width))

    def _strength_rows(self, x: Tensor, sigma: float | Tensor) -> float | Tensor:
        """lambda as a number, [] or [B]."""
        strength = self.strength
        if callable(strength):
            return _scheduled(strength, sigma)
        return row_numbers(strength, x) * self._share(sigma)

    def for_rows(self, start: int, stop: int, batch: int) -> Any:
        """This target for samples start..stop - 1 of a batch that is evaluated in pieces."""
        model, reward = (for_rows(part, start, stop, batch) for part in (self.model, self.reward))
        if model is self.model and reward is self.reward and self.number is not None:
            return self
        part = part_of(self)
        part.model, part.reward = model, reward
        if self.number is None:
            part.numbers = spread_rows("strength", self.strength, start, stop, batch)
        return part


def _scheduled(strength: Callable[..., Any], sigma: float | Tensor) -> float | Tensor:
    """Return lambda(sigma) of a caller's function, which works on a copy: a number, [] or like sigma."""
    found = strength(sigma.clone() if isinstance(sigma, Tensor) else sigma)
    if not isinstance(found, Tensor) or found.dim() == 0:
        return found
    wanted = sigma.shape if isinstance(sigma, Tensor) else ()
    if found.numel() == 1 and len(wanted) == 0:
        return found.reshape(())
    if found.shape != wanted:
        raise ValueError(
            f"a strength must return a number, [] or a tensor like sigma, {[*wanted]}: {name_of(strength)} "
            f"returned {[*found.shape]}"
        )
    return found


def _as_ramp(ramp: tuple[float, float]) -> tuple[float, float]:
    high, low = (as_float("ramp", level) for level in as_pair("ramp", ramp))
    if not 0 < low <= high:
        raise ValueError(
            f"ramp must be (sigma_hi, sigma_lo), decreasing and positive, given {ramp}"
        )
    return high, low


@contextlib.contextmanager
def detached_tilts() -> Iterator[None]:
    """Within, what tilts add to scores has no derivative: for probes of curvature, which would need third
    derivatives of networks."""
    before = _is_cut()
    _here.cut = True
    try:
        yield
    finally:
        _here.cut = before


def _is_cut() -> bool:
    return getattr(_here, "cut", False)


def strength_times_reward(strength: float | Tensor, reward: Tensor) -> Tensor:
    """lambda r, and 0 where lambda is 0, even of an infinite reward."""
    if not isinstance(strength, Tensor):
        return strength * reward if strength else torch.zeros_like(reward)
    share = strength.to(reward.dtype)
    return torch.where(share == 0, 0.0, share * reward)


def _check_name(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, given {given!r}")
