"""Plain samplers of other projects, each where it is installed: call(model, x, sigmas) -> x.

`model(x, sigma [B])` returns the denoised state, x is at the noise level sigmas[0], and the last level is 0. Two
schedulers are no equivalents and are left out: EulerAncestralDiscreteScheduler takes no denoised state, and
EDMDPMSolverMultistepScheduler takes a network before its preconditioning.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.rivals.k_diffusion_parts import k_diffusion

Model = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Model, Tensor, Tensor], Tensor]


def samplers(name: str) -> dict[str, Sampler]:
    """Return the functions for one of "euler", "heun", "dpmpp_2m", "euler_ancestral", by project."""
    installed: dict[str, Sampler] = {}
    theirs = k_diffusion_sampler(name)
    if theirs is not None:
        installed["k-diffusion"] = functools.partial(_k_diffusion, theirs)
    diffusers = load("diffusers")
    if diffusers is not None:
        installed |= {
            f"diffusers {title}": functools.partial(run, make(diffusers))
            for title, (run, make) in _DIFFUSERS.get(name, {}).items()
        }
    return installed


def k_diffusion_sampler(name: str) -> Callable[..., Tensor] | None:
    """Return k-diffusion's function sample_<name>, or None where the project is not installed."""
    try:
        module = k_diffusion("sampling")
    except ImportError as error:
        print(f"bench: k_diffusion is installed but does not import: {error}", file=sys.stderr)
        return None
    function: Callable[..., Tensor] | None = getattr(module, f"sample_{name}", None)
    return function


@functools.cache
def load(name: str) -> Any:
    """Return the module, or None where it is absent; one whose own imports fail is reported and left out."""
    if find_spec(name.partition(".")[0]) is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ImportError as error:
        print(f"bench: {name} is installed but does not import: {error}", file=sys.stderr)
        return None


def _k_diffusion(
    function: Callable[..., Tensor], model: Model, x: Tensor, sigmas: Tensor
) -> Tensor:
    return function(model, x, sigmas, disable=True)


def _at(x: Tensor, sigma: Tensor) -> Tensor:
    return sigma.to(x.device, x.dtype).expand(len(x))


def _euler(scheduler: Any, model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    scheduler.set_timesteps(sigmas=sigmas.tolist(), device=x.device)
    return _integrate(scheduler, model, x)


def _heun(scheduler: Any, model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Run the Heun scheduler. It has no argument for levels, so they are put into its fields, inner ones twice."""
    scheduler.set_timesteps(len(sigmas) - 1, device=x.device)
    levels = sigmas.float().cpu()
    scheduler.sigmas = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    return _integrate(scheduler, model, x)


def _integrate(scheduler: Any, model: Model, x: Tensor) -> Tensor:
    """Run the loop of a pipeline, without its input scaling, which is for another kind of network."""
    # without this the scheduler warns that its input was not scaled
    scheduler.is_scale_input_called = True
    scheduler.set_begin_index(0)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            denoised = model(x, _at(x, scheduler.sigmas[i]))
            x = scheduler.step(denoised, t, x, return_dict=False)[0]
    return x


def _edm_euler(scheduler: Any, model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    scheduler.set_timesteps(len(sigmas) - 1, device=x.device)
    # schedulers keep their levels on the CPU, so that no step waits for a GPU
    scheduler.sigmas = sigmas.float().cpu()
    scheduler.is_scale_input_called = True
    scheduler.set_begin_index(0)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            denoised = model(x, _at(x, scheduler.sigmas[i]))
            # otherwise the scheduler would take the denoised state for the output of a bare network
            x = scheduler.step(denoised, t, x, return_dict=False, pred_original_sample=denoised)[0]
    return x


def _dpm_solver(scheduler: Any, model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Run the DPM solver. It scales its state to variance one, x / sqrt(1 + sigma^2); the network gets x back."""
    scheduler.set_timesteps(len(sigmas) - 1, device=x.device)
    scheduler.sigmas = sigmas.float().cpu()
    scheduler.set_begin_index(0)
    scales = (1 + scheduler.sigmas.double() ** 2).sqrt().tolist()
    x = x / scales[0]
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            denoised = model(x * scales[i], _at(x, scheduler.sigmas[i]))
            x = scheduler.step(denoised, t, x, return_dict=False)[0]
    return x


_DIFFUSERS: dict[str, dict[str, tuple[Callable[..., Tensor], Callable[[Any], Any]]]] = {
    "euler": {
        "Euler": (_euler, lambda d: d.EulerDiscreteScheduler(prediction_type="sample")),
        "EDMEuler": (_edm_euler, lambda d: d.EDMEulerScheduler()),
    },
    "heun": {"Heun": (_heun, lambda d: d.HeunDiscreteScheduler(prediction_type="sample"))},
    "dpmpp_2m": {
        "DPMSolverMultistep": (
            _dpm_solver,
            lambda d: d.DPMSolverMultistepScheduler(prediction_type="sample"),
        )
    },
}
