"""The teacher as a constant of the training: its denoised states, the trace of its Jacobian, and its energy.

The trace is exact where the teacher has a method `jacobian_trace`. Otherwise it comes from Rademacher probes
(Hutchinson 1990) and differences of the denoiser, so that the teacher needs no derivative.
"""

from __future__ import annotations

from typing import Any

import torch

from edmfast.distill.config import DistillConfig
from edmfast.models.calling.foreign import call_denoiser, call_jacobian_trace, energy_of
from edmfast.models.calling.origin import name_of
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser
from edmfast.targets.exponents import exponent_of
from edmfast.targets.scores import has_energy

_PROBE_STEP = 1e-2
"""The distance of the states of a difference from x in every element, in units of sigma."""


class FrozenTeacher:
    """A teacher whose answers have no graph.

    num_classes: the label that means unconditional, with which label_dropout replaces others.
    """

    def __init__(self, teacher: Denoiser, config: DistillConfig, num_classes: int) -> None:
        self.teacher: Any = teacher
        self.config, self.num_classes = config, num_classes

    def has_own_energy(self) -> bool:
        """Return whether the teacher has the energy of the density that its denoiser belongs to.

        A target of another exponent than 1 has not: its denoised states are those of its score divided by A.
        """
        exponent = exponent_of(self.teacher)
        # a wrapper of a plain denoiser has the method, and says itself that it has no energy
        known = hasattr(self.teacher, "energy") and not hasattr(self.teacher, "has_energy")
        has_one = known or has_energy(self.teacher)
        return has_one and isinstance(exponent, float) and exponent == 1

    def energy(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: dict[str, Any]
    ) -> torch.Tensor:
        """Return the teacher's energy, [B] in nats. x: [B, *shape]. sigma: [B]."""
        return energy_of(self.teacher, x, sigma, **condition).detach()

    def denoised(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: dict[str, Any]
    ) -> torch.Tensor:
        """Return D(x; sigma), like x. sigma: [B]."""
        try:
            return call_denoiser(self.teacher, x, sigma, **condition).detach()
        except IndexError as error:
            if self.config.label_dropout == 0:
                raise
            raise ValueError(
                f"the teacher {name_of(self.teacher)} failed with IndexError: {error}. label_dropout > 0 also "
                f"gives it the label {self.num_classes}, which means unconditional: it needs that class too"
            ) from error

    def denoised_and_trace(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        condition: dict[str, Any],
        probe: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (D(x; sigma) like x, the trace of its Jacobian divided by the number of elements, [B]).

        sigma: [] or [B]. probe: independent signs, like x, which an exact trace does not need.
        """
        if self.has_exact_trace():
            return self._denoised_and_exact_trace(x, sigma, condition)
        middle, plus, minus = self._shifted(x, sigma, condition, (probe, -probe))
        slopes = ((plus - minus) * probe).flatten(1).mean(1)
        return middle, slopes / (2 * _PROBE_STEP * sigma)

    def denoised_and_mean_trace(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        condition: dict[str, Any],
        probes: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same as `denoised_and_trace` at the same cost, with the trace as the mean over two probes.

        The differences are one-sided. Their error is odd in the probe, so that it has mean zero, and it is far
        below the noise of a probe.
        """
        if self.has_exact_trace():
            return self._denoised_and_exact_trace(x, sigma, condition)
        middle, *others = self._shifted(x, sigma, condition, probes)
        pairs = zip(others, probes, strict=True)
        slopes = sum(((other - middle) * probe).flatten(1).mean(1) for other, probe in pairs)
        return middle, slopes / (len(probes) * _PROBE_STEP * sigma)

    def has_exact_trace(self) -> bool:
        """Return whether the teacher tells the trace of its Jacobian without probes."""
        return hasattr(self.teacher, "jacobian_trace")

    def _denoised_and_exact_trace(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        levels = sigma.expand(len(x))
        trace = call_jacobian_trace(self.teacher, x, levels, **condition).detach()
        return self.denoised(x, levels, condition), trace.to(x.dtype) / x[0].numel()

    def _shifted(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        condition: dict[str, Any],
        probes: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return the denoised states of x, and of x moved by a small multiple of each of the probes."""
        width = _PROBE_STEP * expand_sigma(sigma, x)
        # the three evaluations go to the teacher as one batch
        rows = torch.cat([x, *(x + width * probe for probe in probes)])
        repeated = {name: value.repeat(3) for name, value in condition.items()}
        return self.denoised(rows, sigma.expand(len(x)).repeat(3), repeated).chunk(3)
