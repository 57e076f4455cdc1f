"""The state of a run between two steps, and its tensors by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edmfast.ops import Weights
from edmfast.smc.populations.particle_state import ParticleState

TRACES = ("ess", "resampled", "log_weight_sd", "survivors", "acceptance")
PARTICLES = (*ParticleState._fields[:-1], *(f"weights.{name}" for name in Weights._fields))


@dataclass
class State:
    """A run at noise level `index` of its schedule.

    particles: those of that level. ess, resampled, log_weight_sd, survivors: traces [T, P], acceptance [T, C,
    P], and ancestors [T, P, N] where they are recorded, all as in `Particles`.
    """

    index: int
    particles: ParticleState
    ess: Tensor
    resampled: Tensor
    log_weight_sd: Tensor
    survivors: Tensor
    acceptance: Tensor
    ancestors: Tensor | None = None


def tensors_of(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state by name, as a checkpoint holds them."""
    tensors = dict(zip(PARTICLES, state.particles.tensors(), strict=True))
    tensors |= {name: getattr(state, name) for name in TRACES}
    if state.ancestors is not None:
        tensors["ancestors"] = state.ancestors
    return tensors


def state_of(index: int, tensors: dict[str, Tensor]) -> State:
    """Return the state at a noise level from what `tensors_of` returns."""
    particles = ParticleState.from_tensors([tensors[name] for name in PARTICLES])
    traces = {name: tensors[name] for name in TRACES}
    return State(index, particles, **traces, ancestors=tensors.get("ancestors"))
