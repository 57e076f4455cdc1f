"""The teacher as a constant of the training: its denoised states, the trace of its Jacobian, and its energy.

The trace is exact where the teacher has a method `jacobian_trace`. Otherwise it comes from Rademacher probes
(Hutchinson 1990) and central differences of the denoiser, so that the teacher needs no derivative.
"""

from __future__ import annotations

from typing import Any

import torch

from edmfast.distill.config import DistillConfig
from edmfast.models.calling.foreign import call_denoiser, energy_of
from edmfast.models.calling.origin import name_of
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser
from edmfast.targets.exponents import exponent_of
from edmfast.targets.scores import has_energy

_PROBE_STEP = 1e-2
"""The half width of the central difference, in units of sigma."""


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

        sigma: []. probe: independent signs, like x, which an exact trace does not need.
        """
        levels = sigma.expand(len(x))
        if hasattr(self.teacher, "jacobian_trace"):
            trace = self.teacher.jacobian_trace(x, levels, **condition).detach()
            return self.denoised(x, levels, condition), trace.to(x.dtype) / x[0].numel()
        width = _PROBE_STEP * expand_sigma(sigma, x) * probe
        # the three evaluations go to the teacher as one batch
        rows = torch.cat([x, x + width, x - width])
        repeated = {name: value.repeat(3) for name, value in condition.items()}
        denoised = self.denoised(rows, sigma.expand(len(rows)), repeated)
        middle, plus, minus = denoised.chunk(3)
        slopes = ((plus - minus) * probe).flatten(1).mean(1)
        return middle, slopes / (2 * _PROBE_STEP * sigma)
