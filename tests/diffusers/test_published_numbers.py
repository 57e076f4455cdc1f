"""The sums and means that diffusers publishes in its own scheduler tests, for ten steps of its test model.

Source: tests/schedulers/test_scheduler_*.py of https://github.com/huggingface/diffusers, with their tolerances.
Those tests of Euler, Heun, LMS and KDPM2 step from the scaled input of the model, and so do these.
"""

from __future__ import annotations

import pytest
import torch

from tests.diffusers.schedulers import EdmfastScheduler, ramp, trajectory

OLD = {"num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02}
V = {"prediction_type": "v_prediction"}
KARRAS = {"use_karras_sigmas": True}
END = {"final_sigmas_type": "sigma_min"}
DPM = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
EDM = DPM
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}

SCALED = [
    ("EulerDiscreteScheduler", {}, 10.0807, 0.0131),
    ("EulerDiscreteScheduler", KARRAS, 124.52299499511719, 0.16213932633399963),
    ("EulerDiscreteScheduler", V, 0.0002, 2.2676e-06),
    ("HeunDiscreteScheduler", {}, 0.1233, 0.0002),
    ("HeunDiscreteScheduler", V, 4.6934e-07, 6.1112e-10),
    ("HeunDiscreteScheduler", KARRAS, 0.00015, 1.9869554535034695e-07),
    ("LMSDiscreteScheduler", {}, 1006.388, 1.31),
    ("LMSDiscreteScheduler", V, 0.0017, 2.2676e-06),
    ("LMSDiscreteScheduler", KARRAS, 3812.9927, 4.9648),
    ("KDPM2DiscreteScheduler", {}, 20.4125, 0.0266),
    ("EulerAncestralDiscreteScheduler", {}, 152.3192, 0.1983),
    ("EulerAncestralDiscreteScheduler", V, 108.4439, 0.1412),
    ("KDPM2AncestralDiscreteScheduler", {}, 13979.9433, 18.2030),
    ("KDPM2AncestralDiscreteScheduler", V, 331.8133, 0.4320),
]
SUMS = [
    ("DDIMScheduler", {}, 172.0067),
    ("DDIMScheduler", V, 52.5302),
    ("DDIMScheduler", {"beta_start": 0.01, "set_alpha_to_one": True}, 149.8295),
    ("DDIMScheduler", {"beta_start": 0.01, "set_alpha_to_one": False}, 149.0784),
]
MEANS = [
    ("DPMSolverMultistepScheduler", DPM, 0.3301),
    ("DPMSolverMultistepScheduler", {**DPM, **THRESHOLD}, 1.1364),
    ("DPMSolverMultistepScheduler", {**DPM, **V}, 0.2251),
    ("DPMSolverMultistepScheduler", {**DPM, **V, **KARRAS}, 0.2096),
    ("DPMSolverMultistepScheduler", {**DPM, **V, "use_lu_lambdas": True}, 0.1554),
    ("DPMSolverSinglestepScheduler", END, 0.2791),
    ("DPMSolverSinglestepScheduler", {**END, **KARRAS}, 0.2248),
    ("DPMSolverSinglestepScheduler", {**END, **KARRAS, **V}, 0.0649),
    ("DPMSolverSinglestepScheduler", {**END, **V}, 0.1453),
    ("UniPCMultistepScheduler", END, 0.2464),
    ("UniPCMultistepScheduler", {**END, **KARRAS}, 0.2925),
    ("UniPCMultistepScheduler", {**END, **V}, 0.1014),
    ("UniPCMultistepScheduler", {**END, **V, **KARRAS}, 0.1966),
    ("DEISMultistepScheduler", {}, 0.23916),
    ("DEISMultistepScheduler", V, 0.091),
    ("EDMDPMSolverMultistepScheduler", EDM, 0.0001),
    ("EDMDPMSolverMultistepScheduler", {**EDM, **THRESHOLD}, 0.0080),
    ("EDMDPMSolverMultistepScheduler", {**EDM, **V}, 0.0092),
]
NOISED = [
    ("EulerAncestralDiscreteScheduler", OLD, 8, 56163.0508),
    ("KDPM2DiscreteScheduler", OLD, 8, 70408.4062),
    ("KDPM2AncestralDiscreteScheduler", OLD, 8, 93087.3437),
    ("DPMSolverMultistepScheduler", DPM, 5, 318.4111),
    ("DPMSolverSinglestepScheduler", END, 5, 269.2187),
    ("UniPCMultistepScheduler", END, 8, 315.5757),
    ("DEISMultistepScheduler", {}, 8, 315.3016),
    ("DDIMScheduler", {}, 8, 354.5418),
    ("EDMDPMSolverMultistepScheduler", EDM, 5, 8.1661),
]


def made(name, settings):
    scheduler = EdmfastScheduler(name, **settings)
    scheduler.set_timesteps(10)
    return scheduler


@pytest.mark.parametrize(("name", "settings", "total", "mean"), SCALED)
def test_of_scaled_inputs(name, settings, total, mean):
    scheduler = made(name, {**OLD, **settings})
    end = trajectory(scheduler, ramp() * scheduler.init_noise_sigma, scaled=True)[-1]
    assert end.abs().sum().item() == pytest.approx(total, abs=1e-2)
    assert end.abs().mean().item() == pytest.approx(mean, abs=1e-3)


def test_of_edm():
    scheduler = made("EDMEulerScheduler", {"num_train_timesteps": 256})
    end = trajectory(scheduler, ramp() * scheduler.init_noise_sigma)[-1]
    assert end.abs().sum().item() == pytest.approx(34.1855, abs=1e-3)


@pytest.mark.parametrize(("name", "settings", "total"), SUMS)
def test_of_ddim(name, settings, total):
    end = trajectory(made(name, settings), ramp())[-1]
    assert end.abs().sum().item() == pytest.approx(total, abs=1e-2)


@pytest.mark.parametrize(("name", "settings", "mean"), MEANS)
def test_of_means(name, settings, mean):
    scheduler = made(name, settings)
    x = ramp()
    for t in scheduler.timesteps:
        x = scheduler.step(x * t / (t + 1), t, x).prev_sample
    assert x.abs().mean().item() == pytest.approx(mean, abs=1e-3)


def test_of_a_start_inside_of_a_block():
    scheduler, x = EdmfastScheduler("DPMSolverSinglestepScheduler", **END), ramp()
    scheduler.set_timesteps(50)
    for t in scheduler.timesteps[3:]:
        x = scheduler.step(x * t / (t + 1), t, x).prev_sample
    assert x.abs().mean().item() == pytest.approx(0.2574, abs=1e-3)


@pytest.mark.parametrize(("name", "settings", "start", "total"), NOISED)
def test_of_noised_samples(name, settings, start, total):
    scheduler = made(name, settings)
    scaled = name.startswith(("Euler", "KDPM2"))
    x = ramp() * (scheduler.init_noise_sigma if scaled else 1.0)
    timesteps = scheduler.timesteps[start * scheduler.order :]
    x = scheduler.add_noise(x, ramp(flip=True), timesteps[:1])
    generator = torch.Generator().manual_seed(0)
    for t in timesteps:
        x = scheduler.scale_model_input(x, t) if scaled else x
        x = scheduler.step(x * t / (t + 1), t, x, generator=generator).prev_sample
    assert x.abs().sum().item() == pytest.approx(total, abs=1e-2)
