"""Mixtures of targets, the logical OR of their models.

The energy is E = -log sum_i w_i exp(-E_i + c_i(sigma)) and the score S = sum_i r_i s_i, with the responsibilities
r = softmax(log w_i - E_i + c_i).

An energy is known up to a constant for each noise level, its gauge. The gauge cancels in the samples of one model,
but it decides the masses of a mixture's members. The offsets c_i compensate for it:
`edmfast.smc.calibrate_offsets` measures them, so that member i has the mass w_i at every noise level.
Source: Du et al. 2023, arXiv 2302.11552 (mixtures of energies).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.numbers import as_float
from edmfast._internal.rows import for_rows, part_of
from edmfast.models.calling.foreign import call_energy
from edmfast.models.together import energies_and_scores
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.gauges import UNKNOWN_GAUGES, GaugeWarning, is_normalised
from edmfast.targets.offsets import Offsets, OffsetTable, interpolate
from edmfast.targets.protocols import Model
from edmfast.targets.scores import (
    check_model,
    denoised_from,
    has_energy,
    missing_energy,
    score_is_exact,
)

_LOWEST = -1e30


class Mixture(nn.Module):
    """A target that is a mixture of targets with one exponent A. It is also a denoiser, twice differentiable.

    With a plain denoiser among the members it has no energy (`has_energy` is False).
    Source: Du et al. 2023, arXiv 2302.11552.

    Args:
        models: M targets or plain denoisers.
        weights: M positive numbers, which are normalised here; equal by default.
        offsets: `Offsets`, or a pair (sigmas [T], values [T, M]) with values in nats. None leaves the members'
            energies as they are.
        gauges: "equal" declares that the members' energies have the same gauge, so that no offsets are needed.
            With None the gauges count as equal where every member is `normalised` or all members are the same
            model. Otherwise the masses are arbitrary, and sampling warns with a `GaugeWarning`. Two classes of one
            learned energy have different gauges.

    Raises:
        TypeError: a member that is neither a target nor a denoiser.
        ValueError: no models, another number of weights or offsets than models, weights that are not positive, or
            members with different exponents.
    """

    log_sigmas: Tensor
    values: Tensor

    numbers_only = True
    _has_warned = False

    def __init__(
        self,
        models: Sequence[Model],
        weights: Sequence[float] | Tensor | None = None,
        offsets: Offsets | OffsetTable | None = None,
        *,
        gauges: str | None = None,
    ) -> None:
        super().__init__()
        if gauges not in (None, "equal"):
            raise ValueError(f"gauges must be 'equal' or None, given {gauges!r}")
        self.gauges = gauges
        self._store([check_model(model) for model in models])
        if not self.models:
            raise ValueError("a mixture needs at least one model")
        values = [1.0] * len(models) if weights is None else weights
        shares = [as_float(f"weights[{i}]", w, positive=True) for i, w in enumerate(values)]
        if len(shares) != len(models):
            raise ValueError(f"given {len(models)} models and {len(shares)} weights")
        self.weights = _normalised(shares)
        first = exponent_of(self.models[0])
        for model in self.models[1:]:
            _check_same_exponent(first, exponent_of(model))
        self.offsets = None if offsets is None else Offsets.of(offsets)
        if self.offsets is None:
            return
        if self.offsets.members != len(models):
            raise ValueError(f"offsets of {self.offsets.members} members for {len(models)} models")
        # The interpolation needs increasing levels, and the table may have decreasing ones.
        table = sorted(zip(self.offsets.sigmas, self.offsets.values, strict=True))
        sigmas, offset_values = (
            torch.tensor(part, dtype=torch.float64) for part in zip(*table, strict=True)
        )
        self.register_buffer("log_sigmas", sigmas.log())
        self.register_buffer("values", offset_values)

    def _store(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self.has_energy = all(map(has_energy, models))
        for index, model in enumerate(models):
            if isinstance(model, nn.Module):
                self.add_module(f"model_{index}", model)

    @property
    def exponent(self) -> Exponent:
        """The exponent A that all members have: a float or float64 [K]."""
        return exponent_of(self.models[0])

    @property
    def score_is_exact(self) -> bool:
        """True where S is exactly -grad E, which requires exact scores of all members."""
        return all(map(score_is_exact, self.models))

    @property
    def gauges_known(self) -> bool:
        """True where the members' gauges agree or are measured. Otherwise the masses are arbitrary."""
        same_model = all(model is self.models[0] for model in self.models)
        # Members that are one model share its gauge, whatever it is.
        known = same_model or all(map(is_normalised, self.models))
        return known or self.offsets is not None or self.gauges == "equal" or not self.has_energy

    @property
    def normalised(self) -> bool:
        """True where E is normalised, because every member is and no offsets shift their energies."""
        return self.offsets is None and all(map(is_normalised, self.models))

    def with_offsets(self, offsets: Offsets | OffsetTable | None) -> Mixture:
        """Return the same mixture with other offsets."""
        return Mixture(self.models, self.weights, offsets, gauges=self.gauges)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the energy and the score by one evaluation of each member.

        Args:
            x: the states [B, *shape].
            sigma: the noise levels in units of x, positive: a float, [] or [B].
            condition: keyword conditions, passed to every member.

        Returns:
            (E [B] in nats, S like x).

        Raises:
            TypeError: a member is a plain denoiser.
        """
        if not self.has_energy:
            raise missing_energy(self)
        results = energies_and_scores(self.models, x, sigma, condition)
        if results is None:
            pairs = [call_energy(model, x, sigma, **condition) for model in self.models]
        else:
            pairs = [*zip(*results, strict=True)]
        energies, scores = zip(*pairs, strict=True)
        # Everything stays in logarithms, because exp(-E) of an energy in high dimensions
        # underflows.
        shifted = [math.log(w) - e for w, e in zip(self.weights, energies, strict=True)]
        logits = torch.stack(shifted, 1)
        if self.offsets is not None:
            logits = logits + self._offsets_at(x, sigma).to(logits.dtype)
        # Where all members have infinite energy the score does not matter, but it must be finite.
        # Softmax of a row of -inf is NaN; with the clamp it is uniform.
        shares = torch.softmax(logits.clamp_min(_LOWEST), 1)
        score = sum(
            unsqueeze_like(share, s) * s for share, s in zip(shares.unbind(1), scores, strict=True)
        )
        return -torch.logsumexp(logits, 1), score

    def _offsets_at(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the offsets c_i, [1, M] or [B, M]."""
        if isinstance(sigma, Tensor):
            levels = sigma.to(x.device, torch.float64).reshape(-1)
        else:
            levels = torch.full((1,), sigma, dtype=torch.float64, device=x.device)
        return interpolate(self.log_sigmas, self.values, levels)

    def for_rows(self, start: int, stop: int, batch: int) -> Mixture:
        """Return this target for the samples start to stop - 1 of a batch that is evaluated in pieces."""
        models = [for_rows(model, start, stop, batch) for model in self.models]
        if all(part is model for part, model in zip(models, self.models, strict=True)):
            return self
        # The weights, offsets and checks are those of the whole and need not be repeated.
        part: Mixture = part_of(self)
        part._store(models)
        return part

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x + sigma² S/A like x.

        Warns with a `GaugeWarning`, once, where the members' gauges are not known to agree.
        """
        # A warning breaks a graph of torch.compile, and once is enough for a sampler that calls
        # this every step.
        if not self._has_warned and not torch.compiler.is_compiling() and not self.gauges_known:
            self._has_warned = True
            warnings.warn(UNKNOWN_GAUGES, GaugeWarning, stacklevel=2)
        score = self.energy_and_score(x, sigma, **condition)[1]
        return denoised_from(self, x, sigma, score)


def _normalised(shares: list[float]) -> tuple[float, ...]:
    """Return the weights divided by their sum. Raises ValueError where the least becomes 0."""
    total = sum(shares)
    # Weights near the largest float have an infinite sum.
    if total == math.inf:
        shares = [share / max(shares) for share in shares]
        total = sum(shares)
    weights = tuple(share / total for share in shares)
    if min(weights) == 0:
        raise ValueError(f"weights must be of comparable size, given {shares}: the least becomes 0")
    return weights


def _check_same_exponent(first: Exponent, other: Exponent) -> None:
    if isinstance(first, Tensor) and isinstance(other, Tensor):
        # The members may be on different devices until the mixture is moved to one.
        same: Any = torch.equal(first.cpu(), other.cpu())
    else:
        same = type(first) is type(other) and first == other
    if not same:
        raise ValueError(
            f"the members of a mixture must have one exponent, given {first} and {other}: temper the "
            "mixture instead of its members"
        )
