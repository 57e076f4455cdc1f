"""The choices that all kinds of Feynman–Kac models have in common, and the checks that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edmfast.smc.feynman_kac.rewards import PathRewards
from edmfast.smc.proposals import Proposal
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.tilted import Tilted


@dataclass(frozen=True)
class Choice:
    """The parts that every kind of Feynman–Kac model shares.

    target: what is inside the rewards. proposal: the kernel the caller wants, None for the default. kappa: the
    table of a calibration, or None. probes: the numbers of curvature probes that the caller wants, or None.
    levels: the positive noise levels of the run. switch: the noise level below which hybrid weights take
    reversals, or None. table: the numbers of probes of a calibration, or None. hybrid: energies weigh the steps
    above the switch.
    """

    target: Any
    exponent: Exponent
    rewards: PathRewards
    proposal: Proposal | None
    kappa: tuple[float, ...] | None
    batch_size: int | None
    probes: int | tuple[int, ...] | None = None
    levels: tuple[float, ...] = ()
    switch: float | None = None
    table: tuple[int, ...] | None = None
    hybrid: bool = False

    def fields(self, proposal: Proposal, description: str, log_z_note: str) -> dict[str, Any]:
        """Return the fields that every kind of Feynman–Kac model has."""
        return {
            "target": self.target,
            "exponent": self.exponent,
            "proposal": proposal,
            "batch_size": self.batch_size,
            "rewards": self.rewards,
            "description": description,
            "log_z_note": log_z_note,
        }


def check_no_inner_rewards(target: Any) -> None:
    """Raise ValueError where a reward is inside another target, where scores alone cannot weigh it."""
    parts = target.modules() if isinstance(target, nn.Module) else []
    if any(isinstance(part, Tilted) for part in parts):
        raise ValueError(
            "scores alone cannot weigh a reward inside another target: make the tilt the outermost target, or "
            "use energies"
        )


def check_exponents(models: Sequence[Any]) -> None:
    """Raise ValueError for a model with an exponent of its own."""
    exponents = [exponent_of(model) for model in models]
    if any(isinstance(a, Tensor) or a != 1 for a in exponents):
        raise ValueError(
            "weights and paths from scores are for models whose own exponent is 1: temper the product"
        )


def guide_of(tilts: Sequence[Any]) -> Any:
    """Return the one tilt whose reward gradient the moves follow, or None. Raises ValueError for several."""
    guiding = [tilt for tilt in tilts if tilt.gradient != "none"]
    if not guiding:
        return None
    if len(tilts) > 1:
        raise ValueError(
            "without energies the moves can follow the gradient of a reward only where it is the only one, and "
            f"the target has {len(tilts)} rewards or constraints: pass gradient='none' to every one of them, or "
            "use energies"
        )
    return guiding[0]
