"""The grid of a family: its tables before a run, and the levels of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edmfast.diffusers.families import EDM, Family
from edmfast.diffusers.levels import flow_levels, tables
from edmfast.diffusers.levels.betas import tables_of
from edmfast.diffusers.levels.curves import CURVES, Array, training_sigmas
from edmfast.diffusers.levels.tables import Levels, Request

# The families whose levels can be asked for by timesteps and by sigmas.
BY_TIMESTEPS = {
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMatchEulerDiscreteScheduler",
}
BY_SIGMAS = {
    "EulerDiscreteScheduler",
    "EDMEulerScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
}
BY_MU = {
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
}
_STARTS_WITH_A_RUN = {
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "IPNDMScheduler",
}


class Grid:
    """The noise levels of a family with its settings.

    betas, alphas_cumprod: float32 [num_train_timesteps] for families with a table of betas, otherwise None.
    alphas: float32, the signal of the levels of the last run of `IPNDMScheduler`.
    """

    betas: Tensor | None = None
    alphas_cumprod: Tensor | None = None
    alphas: Tensor | None = None

    def __init__(self, family: Family, settings: Mapping[str, Any]) -> None:
        self.family, self.settings = family, settings
        self.shift = settings.get("shift", 1.0)
        if "beta_schedule" in settings:
            keep_zero = family.name == "DDIMScheduler"
            self.betas, self.alphas_cumprod = tables_of(settings, keep_zero)

    def at_first(self) -> tuple[Tensor, Tensor | None]:
        """Return (timesteps, sigmas) before a run: those of training."""
        name, train = self.family.name, self.settings["num_train_timesteps"]
        falling = torch.arange(train - 1, -1, -1)
        if name == "FlowMatchEulerDiscreteScheduler":
            sigmas = flow_levels.untrained(self.settings)
            return sigmas * train, sigmas
        if self.family.frame == EDM:
            kind = "euler" if name == "EDMEulerScheduler" else "dpm"
            ramp = torch.arange(train + 1, dtype=torch.float64) / train
            found = tables.edm(
                self.settings,
                Request(sigmas=ramp) if kind == "euler" else Request(count=train),
                kind,
            )
            if kind == "dpm":
                found.sigmas[-1] = 0
            return found.timesteps, found.sigmas
        if name in _STARTS_WITH_A_RUN:
            found = self._levels(Request(count=train))
            return found.timesteps, found.sigmas
        if name == "DDIMScheduler":
            return falling, None
        sigmas = torch.from_numpy(self.training())
        if self.family.frame == "vp":
            return falling.float(), sigmas
        dtype = torch.float64 if name == "EulerAncestralDiscreteScheduler" else torch.float32
        sigmas = torch.cat([sigmas.flip(0), torch.zeros(1)])
        if self._continuous():
            return 0.25 * sigmas[:-1].log(), sigmas
        return falling.to(dtype), sigmas

    def levels(self, request: Request) -> Levels:
        """Return the levels of a run.

        Raises:
            ValueError: a request that the family does not take.
        """
        self._check(request)
        return self._levels(request)

    def training(self) -> Array:
        """Return the levels of all timesteps of training, float32 and rising."""
        assert self.alphas_cumprod is not None
        return training_sigmas(self.alphas_cumprod)

    def _continuous(self) -> bool:
        continuous = self.settings.get("timestep_type") == "continuous"
        return continuous and self.settings["prediction_type"] == "v_prediction"

    def _levels(self, request: Request) -> Levels:
        name, settings = self.family.name, self.settings
        if name == "FlowMatchEulerDiscreteScheduler":
            given = request.count, request.sigmas, request.timesteps, request.mu
            return tables.single(*flow_levels.flow_match(settings, *given, self.shift))
        if name == "IPNDMScheduler":
            assert request.count is not None
            timesteps, sigmas, self.alphas = tables.angles(settings["trained_betas"], request.count)
            return tables.single(timesteps, sigmas)
        if name == "DDIMScheduler":
            assert request.count is not None
            timesteps = tables.whole_timesteps(settings, request.count)
            return Levels(timesteps, torch.empty(0), (), ())
        if self.family.frame == EDM:
            kind = "euler" if name == "EDMEulerScheduler" else "dpm"
            return tables.edm(settings, request, kind)
        training = self.training()
        if name == "EulerDiscreteScheduler":
            return tables.euler(settings, training, request)
        if name in ("EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"):
            return tables.ancestral(settings, training, request)
        if name == "HeunDiscreteScheduler":
            return tables.heun(settings, training, request)
        if name in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"):
            return tables.kdpm2(settings, training, request, "Ancestral" in name)
        if name == "UniPCMultistepScheduler":
            return tables.unipc(settings, training, request)
        assert self.alphas_cumprod is not None
        signal, noise = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        return tables.multistep(settings, training, request, signal.log() - noise.log())

    def _check(self, request: Request) -> None:
        name, settings = self.family.name, self.settings
        for key, names in (("timesteps", BY_TIMESTEPS), ("sigmas", BY_SIGMAS), ("mu", BY_MU)):
            if getattr(request, key) is not None and name not in names:
                raise ValueError(f"set_timesteps takes no {key} for the configuration of {name}")
        if request.count is None and request.timesteps is None and request.sigmas is None:
            raise ValueError("set_timesteps needs num_inference_steps, timesteps or sigmas")
        both = request.timesteps is not None or request.sigmas is not None
        flow = name == "FlowMatchEulerDiscreteScheduler"
        if both and request.count is not None and not flow and name != "UniPCMultistepScheduler":
            raise ValueError(
                "set_timesteps takes one of num_inference_steps, timesteps and sigmas, not two of them"
            )
        if request.timesteps is not None and request.sigmas is not None and not flow:
            raise ValueError("set_timesteps takes timesteps or sigmas, not both")
        for key in (*CURVES, "use_lu_lambdas"):
            if request.timesteps is not None and settings.get(key) and not flow:
                raise ValueError(f"set_timesteps takes no timesteps with {key}=True")
        needs_flow = name == "UniPCMultistepScheduler" and not settings["use_flow_sigmas"]
        if request.sigmas is not None and needs_flow:
            raise ValueError("set_timesteps takes sigmas with use_flow_sigmas=True only")
        dynamic = settings.get("use_dynamic_shifting", False)
        if request.mu is not None and not dynamic and not flow:
            raise ValueError("mu needs use_dynamic_shifting=True in the configuration")
        if dynamic and request.mu is None and (flow or name == "UniPCMultistepScheduler"):
            raise ValueError(
                "mu must be given, since the configuration has use_dynamic_shifting=True"
            )
