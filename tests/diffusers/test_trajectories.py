"""The samples of every step are those of diffusers, in float32 and with coefficients in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.diffusers.schedulers import ALL, SINGLE, difference, pair, ramp, trajectory

PREDICTIONS = ("epsilon", "v_prediction", "sample")
CURVES = ({}, *({key: True} for key in ("use_karras_sigmas", "use_exponential_sigmas")))
SPACINGS = (
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
)
VE = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")
KDPM2 = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
VP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")


def check(name, steps, options=None, **config):
    """Assert equality with diffusers, and that its own rounding explains what is more in float32."""
    exact = difference(name, steps, dtype=torch.float64, double=True, options=options, **config)
    assert exact < (3e-6 if name in SINGLE else 1e-9)
    # A step from pure noise to data divides by alpha = 1/157, and so it magnifies the rounding of float32.
    bound = 1e-5 if steps > 3 else 1e-3
    assert difference(name, steps, options=options, **config) < bound


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize("name", ALL)
def test_defaults(name, steps):
    check(name, steps)


@pytest.mark.parametrize("name", [*VE, *KDPM2, *VP])
@pytest.mark.parametrize("spacing", SPACINGS, ids=lambda s: s["timestep_spacing"])
@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_spacings_and_curves(name, spacing, curve):
    check(name, 10, **spacing, **curve)


@pytest.mark.parametrize("name", [*VE, *VP, "DPMSolverSinglestepScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions(name, prediction):
    check(name, 10, prediction_type=prediction)


@pytest.mark.parametrize("name", [*KDPM2, "EulerAncestralDiscreteScheduler", "EDMEulerScheduler"])
def test_velocities(name):
    check(name, 10, prediction_type="v_prediction")


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_orders_of_dpm_solvers(name, algorithm, kind, order):
    settings = {"solver_order": order, "algorithm_type": algorithm, "solver_type": kind}
    exact = 3e-6 if name in SINGLE else 1e-9
    for steps in (5, 16):
        found = difference(name, steps, dtype=torch.float64, double=True, **settings)
        assert found < exact
        assert difference(name, steps, **settings) < 3e-5


@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize(("algorithm", "order"), [("dpmsolver", 3), ("sde-dpmsolver", 2)])
@pytest.mark.filterwarnings("ignore:algorithm_type", "ignore::FutureWarning")
def test_dpm_solvers_that_predict_noise(algorithm, order, kind):
    check(
        "DPMSolverMultistepScheduler",
        16,
        solver_order=order,
        algorithm_type=algorithm,
        solver_type=kind,
        final_sigmas_type="sigma_min",
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"lower_order_final": False},
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"use_lu_lambdas": True},
        {"lambda_min_clipped": -5.1},
        {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"thresholding": True, "sample_max_value": 1.5},
        {"thresholding": True, "sample_max_value": 0.5},
        {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
    ],
    ids=str,
)
def test_settings_of_dpm_solver(settings):
    check("DPMSolverMultistepScheduler", 10, solver_order=3, **settings)


@pytest.mark.parametrize("form", ["bh1", "bh2"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, clean, form):
    settings = {"solver_order": order, "solver_type": form, "predict_x0": clean}
    name = "UniPCMultistepScheduler"
    for end in ({}, {"final_sigmas_type": "sigma_min"}):
        # A step of first order to 0 is infinity times 0 there, and finite here.
        if order > 1 or end:
            found = difference(name, 10, dtype=torch.float64, double=True, **settings, **end)
            assert found < 1e-9
            assert difference(name, 10, **settings, **end) < 3e-5


def test_unipc_without_some_corrections():
    check("UniPCMultistepScheduler", 10, solver_order=3, disable_corrector=[0, 3])


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "EDMDPMSolverMultistepScheduler"])
def test_orders_of_others(name, order):
    check(name, 10, solver_order=order)
    check(name, 16, solver_order=order, lower_order_final=False)


@pytest.mark.parametrize(
    "options", [{}, {"eta": 0.7}, {"eta": 1.0, "use_clipped_model_output": True}], ids=str
)
@pytest.mark.parametrize(
    "settings",
    [{"clip_sample": False}, {}, {"thresholding": True, "sample_max_value": 2.0}],
    ids=str,
)
def test_ddim(settings, options):
    for prediction, spacing in itertools.product(PREDICTIONS, ("leading", "trailing", "linspace")):
        kind = {"prediction_type": prediction, "timestep_spacing": spacing}
        check("DDIMScheduler", 10, options, **settings, **kind)


@pytest.mark.parametrize(
    "options", [{"s_churn": 5.0}, {"s_churn": 40.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.01}]
)
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EDMEulerScheduler"])
def test_churn(name, options):
    for prediction in ("epsilon", "v_prediction"):
        check(name, 10, options, prediction_type=prediction)


@pytest.mark.parametrize(
    "settings",
    [{"shift": 3.0}, {"invert_sigmas": True}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True}],
    ids=str,
)
def test_flows(settings):
    assert difference("FlowMatchEulerDiscreteScheduler", 10, **settings) < 1e-6


def test_flows_with_noise():
    name = "FlowMatchEulerDiscreteScheduler"
    assert difference(name, 10, stochastic_sampling=True) < 1e-6


def test_heun_with_clipping():
    check("HeunDiscreteScheduler", 10, clip_sample=True, clip_sample_range=2.0)


@pytest.mark.parametrize("settings", [{}, {"final_sigmas_type": "sigma_min"}], ids=str)
def test_edm_with_another_schedule(settings):
    for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"):
        check(name, 10, sigma_schedule="exponential", **settings)


@pytest.mark.parametrize("name", ALL)
def test_a_run_that_begins_inside(name):
    if name == "DDIMScheduler":
        pytest.skip("it has no number of the step, and begins at any timestep")
    for begin in (2, 8):
        assert difference(name, 10, begin=begin) < 1e-5
        exact = difference(name, 10, dtype=torch.float64, double=True, begin=begin)
        assert exact < (3e-6 if name in SINGLE else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", VP)
@pytest.mark.parametrize("curve", [*CURVES, {"use_beta_sigmas": True}], ids=str)
@pytest.mark.parametrize("flow", [False, True])
def test_every_prediction_with_every_curve(name, curve, flow):
    if curve and flow:
        pytest.skip("one of the two decides the levels")
    curve = {"use_flow_sigmas": True, "flow_shift": 3.0} if flow else curve
    bound = 3e-6 if name in SINGLE else 1e-9
    for prediction, limit in itertools.product((*PREDICTIONS, "flow_prediction"), (False, True)):
        if prediction == "flow_prediction" and "DEIS" in name and not flow:
            continue
        for spacing, steps in itertools.product(SPACINGS, (2, 10, 16)):
            settings = {**curve, **spacing, "prediction_type": prediction, "thresholding": limit}
            found = difference(name, steps, dtype=torch.float64, double=True, **settings)
            assert found < bound
            # The integrals of DEIS and their differences lose digits in the float32 of diffusers.
            assert difference(name, steps, **settings) < 2e-4


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("UniPCMultistepScheduler", {"solver_order": 1, "solver_type": "bh1"}),
        ("UniPCMultistepScheduler", {"solver_order": 3, "lower_order_final": False}),
        (
            "EDMDPMSolverMultistepScheduler",
            {"solver_type": "heun", "lower_order_final": False, "final_sigmas_type": "sigma_min"},
        ),
        ("DEISMultistepScheduler", {"use_karras_sigmas": True, "lower_order_final": False}),
    ],
)
def test_steps_to_zero_and_of_no_length_are_finite(name, settings):
    """Several of these are NaN in diffusers: infinity times 0, or 0 / 0."""
    _, ours = pair(name, **settings)
    for steps in (1, 2, 10):
        ours.set_timesteps(steps)
        states = trajectory(ours, ramp() * ours.init_noise_sigma)
        assert all(state.isfinite().all() for state in states)
