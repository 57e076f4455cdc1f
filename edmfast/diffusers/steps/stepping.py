"""The work of a scheduler's step: a run on the solver engine, a step with churn, or a step of DDIM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast.diffusers.steps.clipping import Clip
from edmfast.diffusers.steps.ddim import DDIMStep, ddim_step
from edmfast.diffusers.steps.heun import HeunRun
from edmfast.diffusers.steps.noise import Source
from edmfast.diffusers.steps.outputs import StepOutput
from edmfast.diffusers.steps.plan_run import Churn, PlanRun, as_common, churned, ddim
from edmfast.diffusers.steps.plans import plan_for
from edmfast.diffusers.steps.state import MISSING_IS_LAST, State
from edmfast.diffusers.steps.timestep_index import place_of, value_of
from edmfast.sampling.engine.machine import prepared

_CHURNS = {"EulerDiscreteScheduler", "EDMEulerScheduler"}
# These take one of their own timesteps, and an integer would be the number of a step.
_NO_INTEGERS = {
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
}
# These draw float32 noise for outputs of half precision too.
_FLOAT32_NOISE = {"DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"}
# The result of a step has the precision of the model's output, whatever that of the samples is.
LIKE_OUTPUT = _NO_INTEGERS | {"DPMSolverMultistepScheduler"}


class Stepping(State):
    """The methods of a scheduler that find and make the step of a model call."""

    _clip: Clip | None
    _learned: bool
    _stochastic: bool
    _seed: Any
    _values: list[float]

    def _forget(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._run: PlanRun | HeunRun | None = None
        self._levels: Any = None
        self._ddim_steps: dict[tuple[int, float], DDIMStep] = {}
        self._scales: list[float] = []
        self._source = Source(self._family.name in _FLOAT32_NOISE)

    def _init_step_index(self, timestep: Any) -> None:
        if self._levels is None:
            raise ValueError("set_timesteps must be called before the first step")
        if self._family.name in _NO_INTEGERS and _is_integer(timestep):
            raise ValueError(
                f"timestep must be an element of scheduler.timesteps, got the integer {timestep}"
            )
        if self._begin_index is not None:
            self._step_index = self._begin_index
            return
        value = value_of(timestep, self.timesteps, self._values)
        missing = self._family.name in MISSING_IS_LAST
        self._step_index = place_of(value, self._values, missing)

    def _checked(self, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return (samples, outputs) of one shape and precision."""
        if not isinstance(output, Tensor):
            raise TypeError(
                f"model_output must be a tensor, got {type(output).__name__}: pass its .sample or its first "
                "element"
            )
        if self._learned:
            output = output[:, :3]
        if output.shape != sample.shape:
            raise ValueError(
                f"model_output must be like sample {[*sample.shape]}, got {[*output.shape]}"
            )
        if output.dtype != sample.dtype:
            sample, output = as_common(sample, output)
        return sample, output

    def _current_run(self) -> PlanRun | HeunRun:
        """Return the run that stands before the present call. Whoever moves `step_index` starts a new one."""
        run, place = self._run, self._step_index
        assert place is not None
        if run is None or run.place != place:
            if not 0 <= place < len(self._values):
                raise ValueError(
                    f"step_index must be 0 to {len(self._values) - 1}, the last of the model calls, got {place}: "
                    "call set_timesteps before another run"
                )
            run = self._run = self._started(place)
        return run

    def _started(self, place: int) -> PlanRun | HeunRun:
        levels, order = self._levels, self._family.order
        if place % order:
            raise ValueError(
                f"a run of {self._family.name} must begin with an even call, got the number {place}"
            )
        if self._family.name == "HeunDiscreteScheduler" and self._clip is None:
            return HeunRun(levels.steps, place, self._frame)
        alphas = () if self._grid.alphas is None else tuple(self._grid.alphas.tolist())
        plan = plan_for(
            self._family,
            self._settings,
            self._frame,
            levels.steps,
            alphas,
            place // order,
            self._clip is None,
        )
        prepared(plan, self.timesteps.device)
        return PlanRun(plan, place, self._frame, levels.calls, self._clip, self._source, self._seed)

    def _noisy(
        self, output: Tensor, sample: Tensor, generator: Any, given: Tensor | None, churn: Churn
    ) -> StepOutput:
        """Return a step of a class that adds noise."""
        if not self._stochastic and not (churn.strength and self._family.name in _CHURNS):
            name = "s_churn" if churn.strength else "variance_noise"
            raise ValueError(f"{self._family.name} takes no {name}")
        self._source.prepare(output, generator, given)
        place = self._step_index
        assert place is not None
        if self._stochastic:
            result = self._current_run().step(sample, output)
            self._source.finish(self._seed is None and "KDPM2" not in self._family.name)
            return result
        levels = self._levels.steps[place : place + 2]
        gamma = churn.gamma(levels[0], len(self._levels.steps) - 1)
        if not gamma:
            return self._current_run().step(sample, output)
        return churned(sample, output, levels, gamma, churn.noise, self._frame, self._source)

    def _ddim(
        self,
        output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float,
        renewed: bool,
        generator: Any,
        given: Tensor | None,
    ) -> StepOutput:
        if self._levels is None:
            raise ValueError("set_timesteps must be called before the first step")
        if given is not None and generator is not None:
            raise ValueError("step takes generator or variance_noise, not both")
        moment = int(value_of(timestep, self.timesteps, self._values))
        key = moment, eta
        step = self._ddim_steps.get(key)
        if step is None:
            step = self._ddim_steps[key] = self._ddim_coefficients(moment, eta)
        if not eta:
            return ddim(sample, output, step, self._clip, renewed, self._source.draw)
        self._source.prepare(output, generator, given)
        result = ddim(sample, output, step, self._clip, renewed, self._source.draw)
        self._source.finish(True)
        return result

    def _ddim_coefficients(self, moment: int, eta: float) -> DDIMStep:
        table = self._grid.alphas_cumprod
        assert table is not None
        assert self.num_inference_steps is not None
        before = moment - len(table) // self.num_inference_steps
        end = 1.0 if self._settings["set_alpha_to_one"] else table[0].item()
        alpha_bar = table[moment].item()
        before_bar = table[before].item() if before >= 0 else end
        return ddim_step(alpha_bar, before_bar, self._settings["prediction_type"], eta)


def _is_integer(timestep: Any) -> bool:
    if isinstance(timestep, Tensor):
        return timestep.dtype in (torch.int32, torch.int64)
    return isinstance(timestep, int)
