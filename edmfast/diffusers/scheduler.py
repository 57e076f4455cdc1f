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

from edmfast._internal.numbers import as_float, as_int, as_numbers
from edmfast.diffusers.families import EDM, VE, VP
from edmfast.diffusers.levels.grids import Grid
from edmfast.diffusers.levels.tables import Request
from edmfast.diffusers.settings import FAMILY_KEY, frame_of, read
from edmfast.diffusers.steps.clipping import clip_of
from edmfast.diffusers.steps.noising import Noising
from edmfast.diffusers.steps.outputs import StepOutput
from edmfast.diffusers.steps.plan_run import Churn, has_ended
from edmfast.diffusers.steps.state import MISSING_IS_LAST
from edmfast.diffusers.steps.stepping import LIKE_OUTPUT, Stepping
from edmfast.diffusers.steps.timestep_index import place_of, value_of


# diffusers has no types
class EdmfastScheduler(Stepping, Noising, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
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
        self._clip = clip_of(settings)
        self._grid = Grid(self._family, settings)
        learned = settings.get("variance_type") in ("learned", "learned_range")
        self._learned = learned and settings["prediction_type"] == "epsilon"
        self._stochastic = (
            "Ancestral" in self._family.name
            or settings.get("algorithm_type", "").startswith("sde")
            or settings.get("stochastic_sampling", False)
        )
        self._is_ddim = self._family.name == "DDIMScheduler"
        self._like_output = self._family.name in LIKE_OUTPUT
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
        self._begin_index = as_int("begin_index", begin_index, least=0)

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
            ValueError: a way that the class of the configuration does not have, or NaN.
            TypeError: an argument that is no number, or holds something else than numbers.
        """
        count = num_inference_steps
        if count is not None:
            count = as_int("num_inference_steps", count, least=1)
        mu = None if mu is None else as_float("mu", mu)
        timesteps, sigmas = _numbers("timesteps", timesteps), _numbers("sigmas", sigmas)
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
        return place_of(value, values, self._family.name in MISSING_IS_LAST)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the model's input for samples at a timestep, like them."""
        if self._family.frame not in (VE, EDM):
            return sample
        if self._step_index is None:
            self._init_step_index(timestep)
        place = self._step_index
        assert place is not None
        if place >= len(self._scales):
            raise has_ended(len(self._scales))
        return sample * self._scales[place]

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
                A generator without its name would stand at the place of eta, and raises a TypeError.
            generator: a torch generator, or one for each sample, for the steps that add noise.
            variance_noise: the noise itself, for the steps that add noise.
            return_dict: return an object with `prev_sample` and `pred_original_sample`, otherwise a tuple: of both
                for the classes of diffusers that predict clean samples, and of `prev_sample` alone for the others.
            s_churn, s_tmin, s_tmax, s_noise: the churn of Karras et al. 2022, for EulerDiscreteScheduler and
                EDMEulerScheduler.

        Raises:
            ValueError: a wrong timestep, a step after the last one, shapes that differ, or options that the class
                does not have.
            TypeError: a model output that is no tensor, or a number that is none.
        """
        sample, output = self._checked(model_output, sample)
        if not type(eta) is type(s_churn) is type(s_tmin) is type(s_tmax) is type(s_noise) is float:
            eta = as_float("eta", eta)
            s_churn, s_tmin, s_tmax, s_noise = Churn(s_churn, s_tmin, s_tmax, s_noise).as_floats()
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

    @property
    def shift(self) -> float:
        """The shift of the times of a flow."""
        return float(self._grid.shift)

    def set_shift(self, shift: float) -> None:
        """Set the shift of the times of a flow for the next `set_timesteps`."""
        self._grid.shift = as_float("shift", shift, positive=True)

    def __len__(self) -> int:
        return int(self._settings["num_train_timesteps"])


def _numbers(name: str, values: Any) -> Any:
    """Return numbers in their own precision, or None, after a check that they are numbers."""
    if values is not None:
        as_numbers(name, values)
    # NumPy warns where it meets a tensor
    return values.numpy(force=True) if isinstance(values, Tensor) else values
