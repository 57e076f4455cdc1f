"""The input and the prediction of a network of diffusers at a noise level, by the configuration of its scheduler.

All solvers work with x = x_0 + sigma eps. A network was trained on states alpha x, at a timestep t:

    vp      alpha = 1/sqrt(1 + sigma²)               t where sqrt((1 - alpha_bar_t)/alpha_bar_t) = sigma
    edm     alpha = 1/sqrt(sigma² + sigma_data²)     t = ln(sigma)/4
    flow    alpha = 1/(1 + sigma)                    t = T sigma/(1 + sigma)

vp has one noise level for each of the T training timesteps; between them t is linear in ln(sigma), and beyond the
ends it stays at the first or the last. The denoised states are linear in x and in the output F of the network:

    epsilon           D = x - sigma F
    v_prediction      D = alpha² x - alpha sigma F          (vp, and for flows the same with their alpha)
    sample            D = F
    flow_prediction   D = alpha x - alpha sigma F           (F = eps - x_0)
    edm               D = alpha² sigma_data² x ± alpha sigma sigma_data F   (+ for epsilon, - for v_prediction)

Sources: Song et al. 2021, arXiv 2010.02502; Salimans and Ho 2022, arXiv 2202.00512 (v); Karras et al. 2022, arXiv
2206.00364, table 1; Lipman et al. 2023, arXiv 2210.02747 (flow).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.numbers import as_float, as_int
from edmfast.diffusers.coordinates import PREDICTIONS
from edmfast.diffusers.families import BETAS, EDM, FLOW, LATENT_BETAS, VE, VP
from edmfast.diffusers.levels.betas import alphas_cumprod_of

# a network of a "vp" law predicts a flow for no scheduler whose networks are known here
_PREDICTIONS = {**PREDICTIONS, VP: PREDICTIONS[VE]}
_WITH_LATENT = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
"""The schedulers whose configuration has the betas of latent diffusion where it names none."""


@dataclass(frozen=True)
class Training:
    """The training of a network: its kind of levels and what it predicts.

    kind: "vp", "edm" or "flow". prediction: what it predicts. log_sigmas: for vp, float64 [T], rising; ln(sigma)
    of all timesteps. timesteps: T. sigma_data: for edm. sigma_range: the lowest and the highest noise level of
    training. quarter_log: a vp network that receives ln(sigma)/4 as its timestep. reversed_time: a flow whose
    times run from noise to data.
    """

    kind: str
    prediction: str
    timesteps: int = 1000
    log_sigmas: Tensor | None = None
    sigma_data: float = 0.5
    sigma_range: tuple[float, float] = (0.0, math.inf)
    quarter_log: bool = False
    reversed_time: bool = False
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def counted(self) -> bool:
        """True where timesteps are counted and may be rounded; False where they are ln(sigma)/4."""
        return self.kind != EDM and not self.quarter_log

    def alpha(self, sigma: Tensor) -> Tensor:
        """Return the factor of x in the input of the network, like sigma."""
        if self.kind == FLOW:
            return 1 / (1 + sigma)
        width = 1.0 if self.kind == VP else self.sigma_data
        return (sigma.square() + width**2).rsqrt()

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoised states from x, the output of the network, and sigma, which broadcasts against x."""
        alpha = self.alpha(sigma)
        if self.kind == EDM:
            sign = 1.0 if self.prediction == "epsilon" else -1.0
            skip = (alpha * self.sigma_data).square()
            return skip * x + (sign * self.sigma_data) * (alpha * sigma) * output
        if self.prediction == "sample":
            # a compiled network may use the memory of its output again
            return output.clone()
        if self.prediction == "epsilon":
            return x - sigma * output
        if self.prediction == "v_prediction":
            return alpha.square() * x - alpha * sigma * output
        velocity = -output if self.reversed_time else output
        return alpha * x - alpha * sigma * velocity

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the timesteps at noise levels, float64 like sigma."""
        sigma = sigma.double()
        if not self.counted:
            return sigma.log() / 4
        if self.kind == FLOW:
            noise = sigma / (1 + sigma)
            return self.timesteps * (1 - noise if self.reversed_time else noise)
        table, log_sigma = self._table(sigma.device), sigma.log()
        low = torch.searchsorted(table, log_sigma.contiguous(), right=True) - 1
        low = low.clamp(0, len(table) - 2)
        weight = (log_sigma - table[low]) / (table[low + 1] - table[low])
        return low + weight.clamp(0, 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the noise levels at timesteps, float64 like timestep: the inverse of `timestep`."""
        timestep = timestep.double()
        if not self.counted:
            return (4 * timestep).exp()
        if self.kind == FLOW:
            noise = timestep / self.timesteps
            noise = 1 - noise if self.reversed_time else noise
            return noise / (1 - noise)
        table = self._table(timestep.device)
        low = timestep.floor().long().clamp(0, len(table) - 2)
        weight = (timestep - low).clamp(0, 1)
        return torch.lerp(table[low], table[low + 1], weight).exp()

    def _table(self, device: torch.device) -> Tensor:
        """Return ln(sigma) of all timesteps on a device, to which it is copied once."""
        assert self.log_sigmas is not None
        table = self._tables.get(device)
        if table is None:
            table = self.log_sigmas.to(device)
            # a tensor of a trace is of no use after it
            if type(table) is Tensor and get_proxy_mode() is None:
                self._tables[device] = table
        return table


def scheduler_settings(scheduler: Any) -> dict[str, Any]:
    """Return the configuration of a scheduler as a dictionary, with the name of its class where it is known."""
    config = getattr(scheduler, "config", scheduler)
    # a saved configuration names its class, and that of a living scheduler may not
    own = {} if scheduler is config else {"_class_name": type(scheduler).__name__}
    return {**own, **config}


def training_of(scheduler: Any) -> Training:
    """Return how a network was trained, from the configuration of its scheduler or from the scheduler.

    Raises TypeError for anything else, and ValueError for a scheduler whose networks are not known here.
    """
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        raise TypeError(
            "scheduler_config must be the configuration of a scheduler, such as pipe.scheduler.config, or a "
            f"scheduler, got {type(scheduler).__name__}"
        )
    settings = scheduler_settings(scheduler)
    name = str(settings.get("_class_name", ""))
    has_betas, edm = "beta_schedule" in settings, "sigma_data" in settings
    if settings.get("use_flow_sigmas") or ("shift" in settings and not (has_betas or edm)):
        return _flow(settings, own="use_flow_sigmas" not in settings)
    # the scheduler of Stable Audio has the settings of EDM and another timestep, and no algorithm_type
    if edm and not has_betas and ("algorithm_type" in settings or "solver_order" not in settings):
        return _edm(settings)
    if not has_betas or "snr_shift_scale" in settings:
        raise ValueError(
            f"the networks of {name or 'this scheduler'} are not known here: its configuration must have a "
            "beta_schedule (DDPM, DDIM, Euler, DPM-Solver and others), be that of EDM, or be that of a flow"
        )
    betas = LATENT_BETAS if name.removesuffix("Scheduler") in _WITH_LATENT else BETAS
    return _vp({**betas, **settings})


def _vp(settings: Mapping[str, Any]) -> Training:
    alphas_cumprod = alphas_cumprod_of(settings)
    # the levels have the rounding of diffusers, and their logarithms are those of these numbers
    sigmas = (((1 - alphas_cumprod) / alphas_cumprod) ** 0.5).double()
    prediction = _prediction(VP, settings)
    continuous = settings.get("timestep_type") == "continuous" and prediction == "v_prediction"
    return Training(
        VP,
        prediction,
        timesteps=len(sigmas),
        log_sigmas=sigmas.log(),
        sigma_range=(float(sigmas[0]), float(sigmas[-1])),
        quarter_log=continuous,
    )


def _edm(settings: Mapping[str, Any]) -> Training:
    sigma_data = as_float("sigma_data", settings["sigma_data"], positive=True)
    ends = (float(settings.get("sigma_min", 0.002)), float(settings.get("sigma_max", 80.0)))
    return Training(EDM, _prediction(EDM, settings), sigma_data=sigma_data, sigma_range=ends)


def _flow(settings: Mapping[str, Any], own: bool) -> Training:
    """own: a scheduler of flows, whose networks predict the velocity without a setting for it."""
    prediction = "flow_prediction" if own else _prediction(FLOW, settings)
    count = as_int("num_train_timesteps", settings.get("num_train_timesteps", 1000), least=1)
    backwards = bool(settings.get("invert_sigmas", False))
    return Training(FLOW, prediction, timesteps=count, reversed_time=backwards)


def _prediction(kind: str, settings: Mapping[str, Any]) -> str:
    prediction = settings.get("prediction_type", "epsilon")
    prediction = "sample" if prediction == "original_sample" else prediction
    if prediction not in _PREDICTIONS[kind]:
        raise ValueError(
            f"prediction_type must be one of {', '.join(_PREDICTIONS[kind])} for this scheduler, "
            f"got {prediction!r}"
        )
    return str(prediction)
