"""Reward tilts: U = E - lambda(sigma) r(x_0), where x_0 is the denoised state D = x + sigma² s/A or the state x.

At the last noise level p(x; sigma) is multiplied by exp(lambda r). Before it lambda grows from 0, so that a run
starts from the base model, and the exponent A is that of the base model. The score that proposals follow may
contain the tilt in three ways:

gradient="none"         S = s: no derivative of r is needed
gradient="approximate"  S = s + lambda c grad r(x_0), c = data_std²/(data_std² + sigma²)
gradient="exact"        S = s + lambda grad_x r(D(x)) = -grad U: one more vector-Jacobian product of the network

c replaces dD/dx, which equals c I for Gaussian data of standard deviation data_std: c is 1 at small sigma, and
data_std²/sigma² at large sigma, where D hardly depends on x. In sequential Monte Carlo all three choices have
exact weights, and they differ in the variance of the weights.
Sources: Chung et al. 2023, arXiv 2209.14687 (gradients through the denoised state); Singhal et al. 2025,
arXiv 2501.06848 (potentials of steering).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import row_factors, row_numbers
from edmfast._internal.derivatives import is_recorded
from edmfast._internal.noise_levels import LEVEL_SLACK, check_level
from edmfast._internal.numbers import as_float
from edmfast._internal.rows import for_rows, part_of, spread_rows
from edmfast.models.calling.foreign import call_energy, call_reward
from edmfast.models.preconditioning import expand_sigma
from edmfast.targets.exponents import Exponent, as_exponent, exponent_of
from edmfast.targets.protocols import Model
from edmfast.targets.scores import (
    check_model,
    denoised_from,
    has_energy,
    missing_energy,
    score_is_exact,
    score_of,
)
from edmfast.targets.strength import (
    DEFAULT_RAMP,
    Strength,
    as_ramp,
    scheduled_strength,
    share_of_strength,
    strength_times_reward,
)
from edmfast.targets.tilt_gradients import check_gradient, values_and_tilt_gradient

GRADIENTS = ("none", "approximate", "exact")
POTENTIALS = ("difference", "max", "sum")

Reward = Callable[[Tensor], Tensor]


class Tilted(nn.Module):
    """A target that multiplies a model's density by exp(strength r), for a reward r.

    The score is -grad U where `score_is_exact`. Energy and score are differentiable as those of the model are.
    With gradient="exact", derivatives of the score are third derivatives of the network, and networks whose
    operators have two orders refuse them. For that reason the proposals of `smc.sample` that probe the curvature
    leave out the tilt's share.
    Sources: Chung et al. 2023, arXiv 2209.14687; Singhal et al. 2025, arXiv 2501.06848.

    Args:
        model: a target, or a plain denoiser, which leaves the tilt without an energy (`has_energy` is False).
        reward: a function or module, [B, *shape] -> [B], evaluated at x_0; it is in nats for a strength of 1. If
            a module has the method `for_rows`, this method splits the numbers that it holds for single rows.
        strength: the final lambda, as a number or as a tensor [K] with one number per run of rows (in
            `smc.sample`, per population); or a function lambda(sigma), which replaces the ramp.
        ramp: (sigma_hi, sigma_lo) in units of x: lambda is 0 above sigma_hi, grows linearly in ln(sigma), and
            equals `strength` from sigma_lo down. The noise levels of a run must reach sigma_lo. With None lambda
            is `strength` at every level.
        of: "denoised" or "state", the x_0 at which the reward is evaluated: D or x.
        gradient: "none", "approximate" or "exact": how the score contains the tilt. "none" leaves it out,
            "approximate" adds lambda c grad r(x_0) with c = data_std²/(data_std² + sigma²), and "exact" adds the
            gradient of lambda r through the denoiser. With of="state" the last two are the same.
        gradient_scale: a factor on the tilt's share of the score.
        data_std: the standard deviation of the data in units of x, which defines c.
        potential: "difference" uses the energy U = E - lambda r. "max" and "sum" reward the best state or all
            states of a particle's path; only `smc.sample` can do that, and such a tilt must be the outermost
            target.

    Raises:
        TypeError: a model that is neither a target nor a denoiser, a reward that is not callable, or a strength
            that is no number.
        ValueError: an unknown `of`, `gradient` or `potential`, numbers out of range, and at an evaluation a reward
            of another shape than [B], or one without a gradient where its gradient is needed.
    """

    potential = "difference"
    _reward_name = "reward"

    numbers_only = True
    numbers: Tensor

    def __init__(
        self,
        model: Model,
        reward: Reward,
        strength: Strength,
        *,
        ramp: tuple[float, float] | None = DEFAULT_RAMP,
        of: str = "denoised",
        gradient: str = "none",
        gradient_scale: float = 1.0,
        data_std: float = 0.5,
        potential: str = "difference",
    ) -> None:
        super().__init__()
        if not callable(reward):
            raise TypeError(
                f"a {self._reward_name} must be callable, given {type(reward).__name__}"
            )
        _check_choice("of", of, ("denoised", "state"))
        _check_choice("gradient", gradient, GRADIENTS)
        _check_choice("potential", potential, POTENTIALS)
        self.ramp = None if ramp is None else as_ramp(ramp)
        self.gradient_scale = as_float("gradient_scale", gradient_scale)
        self.data_std = as_float("data_std", data_std, positive=True)
        check_level("data_std", self.data_std, torch.float32)
        self.model, self.reward = check_model(model), reward
        self.has_energy = has_energy(model)
        self.of, self.gradient, self.potential = of, gradient, potential
        # A number stays a number; a tensor becomes a buffer, so that it moves with the module.
        # A strength of 0 is then known on the host, and an untilted level skips the reward.
        self.number: Any = strength if callable(strength) else as_exponent(strength, "strength")
        if isinstance(self.number, Tensor):
            numbers, self.number = self.number, None
            self.register_buffer("numbers", numbers)

    @property
    def exponent(self) -> Exponent:
        """The exponent A of the model: a float or float64 [K]."""
        return exponent_of(self.model)

    @property
    def strength(self) -> Strength:
        """The strength that the constructor got: a number, float64 [K] or a function."""
        if self.number is not None:
            strength: Strength = self.number
            return strength
        # A module that is cast to float32 casts its buffers too.
        return self.numbers.double()

    @property
    def score_is_exact(self) -> bool:
        """True where S is exactly -grad U."""
        # At the state x itself no denoiser stands between x and the reward, so nothing is
        # approximated.
        whole = self.gradient == "exact" or (self.gradient == "approximate" and self.of == "state")
        return whole and self.gradient_scale == 1 and score_is_exact(self.model)

    def strength_at(self, sigma: float | Tensor) -> Exponent:
        """Return lambda(sigma): a float, a tensor like sigma, or [K] where there is one per population."""
        strength = self.strength
        if callable(strength):
            return scheduled_strength(strength, sigma)
        return strength * share_of_strength(self.ramp, sigma)

    def check_levels(self, levels: Sequence[float]) -> None:
        """Raise ValueError unless a run over these noise levels ends at the whole strength."""
        if (
            self.ramp is not None
            and not callable(self.number)
            and levels[-1] > self.ramp[1] * LEVEL_SLACK
        ):
            raise ValueError(
                f"the strength is reached at sigma = {self.ramp[1]:g}, below the last weighted noise level "
                f"{levels[-1]:g}: end the ramp above it, or take ramp=None"
            )

    def reward_of(self, x: Tensor, denoised: Tensor) -> Tensor:
        """Return r [B], evaluated at the states x or at their denoised states, as `of` says."""
        x_0 = denoised if self.of == "denoised" else x
        return call_reward(self.reward, x_0, self._reward_name)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the energy and the score by one evaluation of the model.

        Args:
            x: the states [B, *shape].
            sigma: the noise levels in units of x, positive: a float, [] or [B].
            condition: keyword conditions, passed to the model.

        Returns:
            (U [B] in nats, S like x).

        Raises:
            TypeError: the model is a plain denoiser, or the potential rewards paths.
        """
        if not self.has_energy:
            raise missing_energy(self)
        # Rewards along a path depend on earlier states, so they are no function of the state alone.
        if self.potential != "difference":
            raise TypeError(
                f"potential={self.potential!r} rewards paths and has no energy: sample this tilt itself "
                "with smc.sample, not as a part of another target"
            )
        energy, score = self._evaluate(x, sigma, condition)
        assert energy is not None
        return energy, score

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x + sigma² S/A like x, guided by the reward as `gradient` says.

        This works for plain denoisers too.
        """
        score = self._evaluate(x, sigma, condition)[1]
        return denoised_from(self, x, sigma, score)

    def _evaluate(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor]:
        """Return (U, S), where U is None for a plain denoiser."""
        energy, score, pull = self._parts(x, sigma, condition)
        return energy, score if pull is None else score + pull

    def score_and_pull(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (the score of the model, the tilt's addition to it), detached and like x, by one evaluation."""
        # Weights by scores treat the two parts differently and differentiate neither.
        with torch.no_grad():
            _, score, pull = self._parts(x, sigma, condition)
        return score, torch.zeros_like(score) if pull is None else pull

    def _parts(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return (U, the score of the model, the tilt's addition to it), detached unless `is_recorded`.

        U is None for a plain denoiser, and the addition is None where the score does not contain the tilt.
        """
        recorded = is_recorded(x, sigma, *condition.values())
        strength = self._strength_rows(x, sigma)
        # At levels above the ramp the reward is not evaluated, which may be as costly as the model.
        if self._is_untilted(strength, sigma):
            energy, score = self._base(x, sigma, condition)
            if recorded:
                return energy, score, None
            return None if energy is None else energy.detach(), score.detach(), None
        slope: Tensor | None
        if self.gradient == "exact" and self.of == "denoised":
            energy, score, reward, slope = self._reward_through_model(x, sigma, condition, recorded)
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

    def _reward_through_model(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any], recorded: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Return (E, s, r, the gradient of r(D(x)) with respect to x), where E is None for a plain denoiser."""

        def evaluate(x: Tensor) -> tuple[Tensor, ...]:
            energy, score = self._base(x, sigma, condition)
            reward = check_gradient(self.reward_of(x, denoised_from(self, x, sigma, score)))
            # The reward comes first, because only the first value is differentiated.
            return (reward, score) if energy is None else (reward, score, energy)

        (reward, score, *energy), slope = values_and_tilt_gradient(evaluate, x, recorded)
        return energy[0] if energy else None, score, reward, slope

    def _base(
        self, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor]:
        """Return (E, s) of the model, where E is None for a plain denoiser."""
        if not self.has_energy:
            return None, score_of(self.model, x, sigma, **condition)
        return call_energy(self.model, x, sigma, **condition)

    def _is_untilted(self, strength: float | Tensor, sigma: float | Tensor) -> bool:
        """Return whether the target is known to equal the model at this noise level. Tensors are not read."""
        return not isinstance(strength, Tensor) and strength == 0

    def tilt(
        self, energy: Tensor, reward: Tensor, strength: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        """Return E - lambda r, which is E where lambda is 0, whatever r is."""
        # The energy keeps its dtype, whatever dtype the reward comes in.
        return energy - strength_times_reward(strength, reward.to(energy.dtype))

    def _reward_and_slope(
        self, x: Tensor, denoised: Tensor, sigma: float | Tensor, recorded: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return (r [B], its gradient with respect to x, exact or approximate, or None for gradient="none")."""
        if self.gradient == "none":
            return self.reward_of(x, denoised), None
        x_0 = x if self.of == "state" else denoised
        (reward,), slope = values_and_tilt_gradient(
            lambda point: (check_gradient(self.reward_of(point, point)),), x_0, recorded
        )
        if self.of == "denoised":
            # c replaces dD/dx, which would cost a vector-Jacobian product of the network.
            levels, width = expand_sigma(sigma, x).square(), self.data_std**2
            slope = width / (width + levels) * slope
        return reward, slope

    def _strength_rows(self, x: Tensor, sigma: float | Tensor) -> float | Tensor:
        """Return lambda as a number, [] or [B]."""
        strength = self.strength
        if callable(strength):
            return scheduled_strength(strength, sigma)
        return row_numbers(strength, x) * share_of_strength(self.ramp, sigma)

    def for_rows(self, start: int, stop: int, batch: int) -> Tilted:
        """Return this target for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        model, reward = (for_rows(part, start, stop, batch) for part in (self.model, self.reward))
        if model is self.model and reward is self.reward and self.number is not None:
            return self
        part: Tilted = part_of(self)
        part.model, part.reward = model, reward
        if self.number is None:
            part.numbers = spread_rows("strength", self.strength, start, stop, batch)
        return part


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, given {value!r}")
