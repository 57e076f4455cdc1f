"""`EdmfastScheduler`, a scheduler for the pipelines of diffusers whose steps run on the solver engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

try:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
except ImportError as error:
    raise ImportError(
        "EdmfastScheduler needs diffusers: pip install 'edmfast[diffusers]'"
    ) from error

from edmfast._internal.numbers import as_int
from edmfast.diffusers.families import EDM, VE, VP
from edmfast.diffusers.levels.grids import Grid
from edmfast.diffusers.levels.tables import Request
from edmfast.diffusers.settings import FAMILY_KEY, frame_of, read
from edmfast.diffusers.steps.clipping import clip_of
from edmfast.diffusers.steps.ddim import DDIMStep, ddim_step
from edmfast.diffusers.steps.heun import HeunRun
from edmfast.diffusers.steps.noise import Source
from edmfast.diffusers.steps.noising import noised, of_timesteps
from edmfast.diffusers.steps.outputs import StepOutput
from edmfast.diffusers.steps.plan_run import Churn, PlanRun, as_common, churned, ddim
from edmfast.diffusers.steps.plans import plan_for
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
# The result of a step has the precision of the model's output, whatever that of the samples is.
_LIKE_OUTPUT = _NO_INTEGERS | {"DPMSolverMultistepScheduler"}
# A timestep that is none of the run's belongs to its last call.
_MISSING_IS_LAST = {
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
}


class EdmfastScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A scheduler that gives the results of a scheduler of diffusers, by fused steps on the solver engine.

        pipe.scheduler = EdmfastScheduler.from_config(pipe.scheduler.config)

    The configuration decides what it does: its class and its settings. The timesteps, the noise levels and, with
    the same generator, the noise are those of that class. A step makes one or two passes over the samples, and
    three for UniPC, with coefficients that `set_timesteps` computes in float64. It reads no number from an
    accelerator.

    The methods and attributes are those that pipelines use: `set_timesteps`, `scale_model_input`, `step`,
    `add_noise` and `scale_noise`, `timesteps`, `sigmas`, `init_noise_sigma`, `order`, `config`, `begin_index`,
    `step_index`, `set_begin_index`, `save_pretrained` and `from_pretrained`.

    Args:
        family: the class of diffusers whose results it gives, such as "DPMSolverMultistepScheduler".
        settings: the settings of that class, with its defaults.

    Raises:
        ValueError: a class or a setting that is not supported.
        TypeError: a setting that the class does not have.
    """

    def __init__(self, family: str = "EulerDiscreteScheduler", **settings: Any) -> None:
        self._set_up({}, family, settings)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        return_unused_kwargs: bool = False,
        *,
        family: str | None = None,
        **settings: Any,
    ) -> Any:
        """Return a scheduler with a configuration.

        Args:
            config: the configuration of a scheduler of diffusers or of an `EdmfastScheduler`.
            return_unused_kwargs: return a pair whose second element is an empty dictionary.
            family: a class of diffusers to follow instead of that of the configuration.
            settings: settings that replace those of the configuration.

        Raises:
            ValueError: a class or a setting that is not supported.
            TypeError: a setting that the class does not have.
        """
        made = cls.__new__(cls)
        made._set_up(config, family, settings)
        return (made, {}) if return_unused_kwargs else made

    def _set_up(
        self, config: Mapping[str, Any], family: str | None, changes: Mapping[str, Any]
    ) -> None:
        self._family, settings, rest = read(config, family, changes)
        self.register_to_config(**rest, **settings, **{FAMILY_KEY: self._family.name})
        self._settings = settings
        self._frame = frame_of(self._family, settings)
        self._clip = clip_of(self._family, settings)
        self._grid = Grid(self._family, settings)
        learned = settings.get("variance_type") in ("learned", "learned_range")
        self._learned = learned and settings["prediction_type"] == "epsilon"
        self._stochastic = (
            "Ancestral" in self._family.name
            or settings.get("algorithm_type", "").startswith("sde")
            or settings.get("stochastic_sampling", False)
        )
        self._is_ddim = self._family.name == "DDIMScheduler"
        self._like_output = self._family.name in _LIKE_OUTPUT
        if self._grid.alphas_cumprod is not None:
            betas: Any = self._grid.betas
            self.betas, self.alphas = betas, 1.0 - betas
            self.alphas_cumprod = self._grid.alphas_cumprod
        self.timesteps: Tensor
        self.sigmas: Any
        self.timesteps, self.sigmas = self._grid.at_first()
        self.num_inference_steps: int | None = None
        self._seed: Any = None
        self._forget()

    def _forget(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._run: PlanRun | HeunRun | None = None
        self._levels: Any = None
        self._of_timestep: dict[float, list[int]] | None = None
        self._ddim_steps: dict[tuple[int, float], DDIMStep] = {}
        self._scales: list[float] = []
        # only DPMSolverMultistepScheduler draws float32 noise for outputs of half precision
        self._source = Source(self._family.name == "DPMSolverMultistepScheduler")

    @property
    def order(self) -> int:
        """The number of model calls of a step."""
        return self._family.order

    @property
    def step_index(self) -> int | None:
        """The number of the next model call, or None before the first one."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The number of the first model call, or None where the first timestep tells it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the number of the first model call, as pipelines that start from an image do."""
        self._begin_index = begin_index

    def set_noise_seed(self, seed: Any) -> None:
        """Draw the noise of the next runs from counters, so that a sample has the same noise in any batch.

        seed: an integer, or one for each sample [B]. None goes back to the noise of diffusers.
        """
        self._seed = seed
        self._run = None

    @property
    def init_noise_sigma(self) -> Any:
        """The standard deviation of the initial samples."""
        if self._family.frame == EDM:
            return (self._settings["sigma_max"] ** 2 + 1) ** 0.5
        if self._family.frame != VE:
            return 1.0
        largest = self.sigmas.max()
        if self._settings["timestep_spacing"] in ("linspace", "trailing"):
            return largest
        return (largest**2 + 1) ** 0.5

    @property
    def compatibles(self) -> list[Any]:
        """The classes of diffusers that take this scheduler's configuration."""
        import diffusers

        if self._family.frame not in (VE, VP) or self._family.name == "IPNDMScheduler":
            return []
        names = [member.name for member in KarrasDiffusionSchedulers]
        return [getattr(diffusers, name) for name in names if hasattr(diffusers, name)]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Set the timesteps and noise levels of a run, and compute its coefficients.

        Args:
            num_inference_steps: the number of steps.
            device: the device of `timesteps`. `sigmas` stay on the CPU.
            timesteps: the timesteps, instead of their number.
            sigmas: the noise levels, instead of the number of steps.
            mu: the dynamic shift of the levels of a flow, with use_dynamic_shifting=True.

        Raises:
            ValueError: a way that the class of the configuration does not have.
        """
        count = num_inference_steps
        if count is not None:
            count = as_int("num_inference_steps", count, least=1)
        levels = self._grid.levels(Request(count, timesteps, sigmas, mu))
        self._forget()
        self._levels = levels
        self.timesteps = levels.timesteps.to(device)
        self.num_inference_steps = len(levels.timesteps)
        if self._family.order == 2:
            self.num_inference_steps = len(levels.steps) - 1
        self.sigmas = levels.sigmas
        self._values = levels.timesteps.tolist()
        self._scales = [self._frame.input_scale(sigma) for sigma in levels.calls]
        if self._family.name == "DPMSolverSinglestepScheduler":
            self._allow_lower_orders(len(self._values))
        if levels.steps:
            self._run = self._started(0)

    def _allow_lower_orders(self, count: int) -> None:
        settings = self._settings
        rest = count % settings["solver_order"]
        if rest or settings["final_sigmas_type"] == "zero":
            # diffusers changes the configuration in this way, which the next runs then follow
            settings["lower_order_final"] = True
            self.register_to_config(lower_order_final=True)

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """Return the number of the model call with a timestep; of two calls, the second one."""
        values = (
            self.timesteps.tolist() if schedule_timesteps is None else schedule_timesteps.tolist()
        )
        value = value_of(timestep, self.timesteps, values)
        return place_of(value, values, self._family.name in _MISSING_IS_LAST)

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
        missing = self._family.name in _MISSING_IS_LAST
        self._step_index = place_of(value, self._values, missing)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the model's input for samples at a timestep, like them."""
        if self._family.frame not in (VE, EDM):
            return sample
        if self._step_index is None:
            self._init_step_index(timestep)
        assert self._step_index is not None
        return sample * self._scales[self._step_index]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
    ) -> StepOutput | tuple[Tensor, ...]:
        """Return the samples for the next model call, and what the model's output says about the clean ones.

        Args:
            model_output: what the model returned at this timestep, like the samples.
            timestep: an element of `timesteps`.
            sample: the samples [B, *shape] that the model was called with, before `scale_model_input`.
            eta, use_clipped_model_output: for DDIMScheduler. The other classes ignore them, as pipelines expect.
            generator: a torch generator, or one for each sample, for the steps that add noise.
            variance_noise: the noise itself, for the steps that add noise.
            return_dict: return an object with `prev_sample` and `pred_original_sample`, otherwise a tuple: of both
                for the classes of diffusers that predict clean samples, and of `prev_sample` alone for the others.
            s_churn, s_tmin, s_tmax, s_noise: the churn of Karras et al. 2022, for EulerDiscreteScheduler and
                EDMEulerScheduler.

        Raises:
            ValueError: a wrong timestep, a step after the last one, shapes that differ, or options that the class
                does not have.
            TypeError: a model output that is no tensor.
        """
        sample, output = self._checked(model_output, sample)
        if self._is_ddim:
            options = eta, bool(use_clipped_model_output)
            result = self._ddim(output, timestep, sample, *options, generator, variance_noise)
        else:
            if self._step_index is None:
                self._init_step_index(timestep)
            if self._stochastic or variance_noise is not None or s_churn:
                churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
                result = self._noisy(output, sample, generator, variance_noise, churn)
            else:
                run = self._run
                if run is None or run.place != self._step_index:
                    run = self._current_run()
                result = run.step(sample, output)
            self._step_index = (self._step_index or 0) + 1
        if self._like_output and result.prev_sample.dtype != model_output.dtype:
            result.prev_sample = result.prev_sample.to(model_output.dtype)
        if return_dict:
            return result
        return result.to_tuple() if self._family.pairs else (result.prev_sample,)

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

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return clean samples [B, *shape], noised to the levels of timesteps [B].

        Where a pipeline has set `begin_index`, the level is that of the present model call instead.
        """
        if self._family.name == "DDIMScheduler":
            table = self._grid.alphas_cumprod
            assert table is not None
            signal, spread = of_timesteps(table, original_samples, timesteps)
            return signal * original_samples + spread * noise
        if self._family.name == "IPNDMScheduler":
            raise ValueError("IPNDMScheduler adds no noise, in diffusers too")
        return noised(
            self._frame.kind, original_samples, noise, self._levels_of(original_samples, timesteps)
        )

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return clean samples of a flow [B, *shape], noised to the levels of timesteps [B]."""
        return self.add_noise(sample, noise, timestep)

    def _levels_of(self, like: Tensor, timesteps: Tensor) -> Tensor:
        if self._begin_index is None:
            values = self.timesteps.tolist()
            missing = self._family.name in _MISSING_IS_LAST
            places = [place_of(float(t), values, missing) for t in timesteps]
        else:
            present = self._begin_index if self._step_index is None else self._step_index
            places = [present] * timesteps.shape[0]
        levels: Tensor = self.sigmas[places].to(device=like.device, dtype=like.dtype)
        return levels

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) sample at whole timesteps [B].

        Raises:
            ValueError: a configuration of another class than DDIMScheduler.
        """
        if self._family.name != "DDIMScheduler":
            raise ValueError(f"get_velocity is for DDIMScheduler, and not for {self._family.name}")
        table = self._grid.alphas_cumprod
        assert table is not None
        signal, spread = of_timesteps(table, sample, timesteps)
        return signal * noise - spread * sample

    @property
    def shift(self) -> float:
        """The shift of the times of a flow."""
        return float(self._grid.shift)

    def set_shift(self, shift: float) -> None:
        """Set the shift of the times of a flow for the next `set_timesteps`."""
        self._grid.shift = shift

    def __len__(self) -> int:
        return int(self._settings["num_train_timesteps"])


def _is_integer(timestep: Any) -> bool:
    if isinstance(timestep, Tensor):
        return timestep.dtype in (torch.int32, torch.int64)
    return isinstance(timestep, int)
