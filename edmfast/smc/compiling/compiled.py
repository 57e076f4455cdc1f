"""The step traced as one flat graph and compiled, once for each mode of a run.

The score is a gradient, which torch.compile cannot trace; see `edmfast.models.compiling.flat_graph`. On a GPU the
graph is captured as a CUDA graph, see `edmfast.smc.compiling.captured`.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from edmfast.models.compiling.flat_graph import FlatGraph, Tensors
from edmfast.models.compiling.watched import Watched, modules_in
from edmfast.models.level_table import LevelTable
from edmfast.smc.compiling.captured import CapturedSteps
from edmfast.smc.compiling.step_table import StepTable
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.smc.proposals import Step
from edmfast.smc.state import Row
from edmfast.smc.step import Advance, Mode

Key = tuple[Mode, bool]


class CompiledStep:
    """A compiled `Advance`, called in the same way.

    steps: of the run. table: the numbers of its noise levels.
    """

    def __init__(self, advance: Advance, steps: StepTable, table: LevelTable) -> None:
        self.advance, self.steps, self.table = advance, steps, table
        self.flats: dict[Key, FlatGraph] = {}
        parts = advance.phases.parts
        self.watched = Watched(module for fk in parts for module in modules_in(vars(fk)))
        self.given_up = False
        device = steps.rng.device
        self.captured = CapturedSteps(len(steps.steps), device) if captures(device) else None
        self._recorded = -1

    def __call__(
        self,
        state: ParticleState,
        step: Step,
        next_step: Step | None,
        rng: Tensor,
        next_rng: Tensor,
        mode: Mode,
    ) -> ParticleState:
        def eager() -> tuple[Tensor, ...]:
            self._recorded = -1
            return self.advance(state, step, next_step, rng, next_rng, mode).tensors()

        if not self.given_up and (changed := self.watched.change()):
            self.given_up = True
            warnings.warn(
                f"{changed} changed during a compiled run, whose graphs hold what it was: the run goes on eagerly",
                stacklevel=2,
            )
        # A step that failed in one mode is not tried in others: each attempt may take minutes.
        if self.given_up or any(flat.failed for flat in self.flats.values()):
            return ParticleState.from_tensors(eager())
        # each mode is a graph of its own, since its branches are decided at tracing
        key = (mode, next_step is None)
        if key not in self.flats:
            self.flats[key] = self._flat(mode, step, next_step)
        flat, index = self.flats[key], int(step.index)

        def compiled() -> tuple[Tensor, ...]:
            if self.captured is None:
                return flat.call([], (self.steps.index[index], *state.tensors()))
            return self._replayed(self.captured, flat, key, index, state)

        return ParticleState.from_tensors(flat.attempt(compiled, eager))

    def recorded(self, index: int) -> Row | None:
        """Return what the graph of the last step has recorded of level `index`, or None where no graph did."""
        if self.captured is None or self._recorded != index:
            return None
        return Row(*self.captured.trace[index].unbind(0))

    def settled(self, index: int, state: ParticleState) -> tuple[int, ParticleState]:
        """Return the level and the particles of a state after a step that may have been interrupted.

        index, state: what the run holds. A captured step overwrites it before the run knows of the new level.
        """
        if self.captured is None or not self.captured.holds(state.x):
            return index, state
        level = self.captured.level()
        if level == index:
            return index, state
        self._recorded = level
        return level, ParticleState.from_tensors(self.captured.state)

    def _replayed(
        self,
        captured: CapturedSteps,
        flat: FlatGraph,
        key: Key,
        index: int,
        state: ParticleState,
    ) -> tuple[Tensor, ...]:
        inputs = captured.inputs(state.tensors())
        captured.seek(index)
        if key not in captured:
            captured.capture(key, lambda *tensors: flat.call([], tensors), inputs, _recorded)
        outputs = captured.replay(key)
        self._recorded = index + 1
        return tuple(outputs)

    def _flat(self, mode: Mode, step: Step, next_step: Step | None) -> FlatGraph:
        def traced(_: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
            index, *rest = inputs
            at = self.steps.traced(index, step, next_step)
            assert isinstance(at.step.u, Tensor)
            with self.table.traced(at.step.u, at.level):
                state = ParticleState.from_tensors(rest)
                after = self.advance(state, at.step, at.next_step, at.rng, at.next_rng, mode)
            return after.tensors()

        return FlatGraph(traced, otherwise="the run goes on eagerly")


def _recorded(outputs: tuple[Tensor, ...]) -> Tensor:
    """Return the numbers of a `Row`, float64 [4, P], of the tensors of a state."""
    weights = ParticleState.from_tensors(outputs).weights
    return torch.stack([number.double() for number in Row.of(weights)])


def captures(device: torch.device) -> bool:
    """Return whether steps on a device are captured as CUDA graphs."""
    return device.type == "cuda"
