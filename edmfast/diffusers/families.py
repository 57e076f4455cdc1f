"""The schedulers of diffusers whose configurations are accepted, with the settings of each and their defaults.

A configuration names its class in `_class_name`. A setting that it lacks has the default that this class has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}
LATENT_BETAS = {**BETAS, "beta_start": 0.00085, "beta_end": 0.012}
_SPACING = {"timestep_spacing": "linspace", "steps_offset": 0}
_CURVES = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_THRESHOLD = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_FLOW = {
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
_EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
_ORDER = {"solver_order": 2, "prediction_type": "epsilon", **_THRESHOLD}
_DPM = {
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
}
_SECOND_ORDER = {**LATENT_BETAS, **_CURVES, "prediction_type": "epsilon", **_SPACING}

VP, VE, EDM, FLOW = "vp", "ve", "edm", "flow"


@dataclass(frozen=True)
class Family:
    """One scheduler class of diffusers.

    frame: the coordinates of its states. "vp": alpha x_0 + sigma eps; "ve": x_0 + sigma eps, of a network that was
        trained on "vp" states; "edm": x_0 + sigma eps; "flow": (1 - sigma) x_0 + sigma eps.
    order: the model calls of a step, as pipelines read it.
    settings: the names and defaults of its settings.
    whole_timesteps: the timesteps are integers.
    pairs: `step` returns the predicted clean states beside the next states.
    """

    name: str
    frame: str
    settings: Mapping[str, Any]
    order: int = 1
    whole_timesteps: bool = False
    pairs: bool = True


def _family(name: str, frame: str, settings: dict[str, Any], **facts: Any) -> Family:
    return Family(name, frame, settings, **facts)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            _family(
                "EulerDiscreteScheduler",
                VE,
                {
                    **BETAS,
                    **_CURVES,
                    **_SPACING,
                    "prediction_type": "epsilon",
                    "interpolation_type": "linear",
                    "sigma_min": None,
                    "sigma_max": None,
                    "timestep_type": "discrete",
                    "rescale_betas_zero_snr": False,
                    "final_sigmas_type": "zero",
                },
            ),
            _family(
                "EulerAncestralDiscreteScheduler",
                VE,
                {
                    **BETAS,
                    **_SPACING,
                    "prediction_type": "epsilon",
                    "rescale_betas_zero_snr": False,
                },
            ),
            _family(
                "HeunDiscreteScheduler",
                VE,
                {**_SECOND_ORDER, "clip_sample": False, "clip_sample_range": 1.0},
                order=2,
            ),
            _family("KDPM2DiscreteScheduler", VE, _SECOND_ORDER, order=2),
            _family("KDPM2AncestralDiscreteScheduler", VE, _SECOND_ORDER, order=2),
            _family(
                "LMSDiscreteScheduler",
                VE,
                {**BETAS, **_CURVES, "prediction_type": "epsilon", **_SPACING},
            ),
            _family("EDMEulerScheduler", EDM, _EDM),
            _family("EDMDPMSolverMultistepScheduler", EDM, {**_EDM, **_ORDER, **_DPM}, pairs=False),
            _family(
                "DPMSolverMultistepScheduler",
                VP,
                {
                    **BETAS,
                    **_ORDER,
                    **_DPM,
                    **_CURVES,
                    "use_lu_lambdas": False,
                    **_FLOW,
                    "lambda_min_clipped": -float("inf"),
                    "variance_type": None,
                    **_SPACING,
                    "rescale_betas_zero_snr": False,
                },
                whole_timesteps=True,
                pairs=False,
            ),
            _family(
                "DPMSolverSinglestepScheduler",
                VP,
                {
                    **BETAS,
                    **_ORDER,
                    "algorithm_type": "dpmsolver++",
                    "solver_type": "midpoint",
                    "lower_order_final": False,
                    "final_sigmas_type": "zero",
                    **_CURVES,
                    **_FLOW,
                    "lambda_min_clipped": -float("inf"),
                    "variance_type": None,
                },
                whole_timesteps=True,
                pairs=False,
            ),
            _family(
                "UniPCMultistepScheduler",
                VP,
                {
                    **BETAS,
                    **_ORDER,
                    "predict_x0": True,
                    "solver_type": "bh2",
                    "lower_order_final": True,
                    "disable_corrector": [],
                    "solver_p": None,
                    **_CURVES,
                    **_FLOW,
                    **_SPACING,
                    "final_sigmas_type": "zero",
                    "rescale_betas_zero_snr": False,
                    "sigma_min": None,
                    "sigma_max": None,
                    "shift_terminal": None,
                },
                whole_timesteps=True,
                pairs=False,
            ),
            _family(
                "DEISMultistepScheduler",
                VP,
                {
                    **BETAS,
                    **_ORDER,
                    "algorithm_type": "deis",
                    "solver_type": "logrho",
                    "lower_order_final": True,
                    **_CURVES,
                    **_FLOW,
                    **_SPACING,
                },
                whole_timesteps=True,
                pairs=False,
            ),
            _family(
                "DDIMScheduler",
                VP,
                {
                    **BETAS,
                    "clip_sample": True,
                    "set_alpha_to_one": True,
                    "steps_offset": 0,
                    "prediction_type": "epsilon",
                    **_THRESHOLD,
                    "clip_sample_range": 1.0,
                    "timestep_spacing": "leading",
                    "rescale_betas_zero_snr": False,
                },
                whole_timesteps=True,
            ),
            _family(
                "IPNDMScheduler",
                VP,
                {"num_train_timesteps": 1000, "trained_betas": None},
                pairs=False,
            ),
            _family(
                "FlowMatchEulerDiscreteScheduler",
                FLOW,
                {
                    "num_train_timesteps": 1000,
                    "shift": 1.0,
                    "use_dynamic_shifting": False,
                    "base_shift": 0.5,
                    "max_shift": 1.15,
                    "base_image_seq_len": 256,
                    "max_image_seq_len": 4096,
                    "invert_sigmas": False,
                    "shift_terminal": None,
                    **_CURVES,
                    "time_shift_type": "exponential",
                    "stochastic_sampling": False,
                },
                pairs=False,
            ),
        )
    }
)
