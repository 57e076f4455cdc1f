"""The protocol of a scheduler: its configuration, its steps in pipelines' ways, and its errors."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.diffusers.schedulers import (
    ALL,
    EdmfastScheduler,
    diffusers,
    pair,
    ramp,
    toy_model,
    trajectory,
)


def test_importing_the_package_does_not_import_diffusers():
    program = "import sys, edmfast, edmfast.diffusers; print('diffusers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("name", ALL)
def test_the_settings_and_defaults_are_those_of_diffusers(name):
    theirs = getattr(diffusers, name)()
    ours = EdmfastScheduler(name)
    assert isinstance(ours, diffusers.SchedulerMixin)
    for key, value in theirs.config.items():
        if not key.startswith("_"):
            assert ours.config[key] == value
            assert getattr(ours.config, key) == value
    assert ours.order == theirs.order
    assert len(ours) == len(theirs)
    assert {*ours.compatibles} - {EdmfastScheduler} == {*theirs.compatibles} - {type(theirs)} | (
        {type(theirs)} if ours.compatibles else set()
    )


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_without_its_class_tells_it(name):
    config = getattr(diffusers, name)().config
    assert "_class_name" not in config
    if name.startswith("KDPM2"):
        with pytest.raises(
            ValueError, match=r"KDPM2DiscreteScheduler and KDPM2Ancestral.* family="
        ):
            EdmfastScheduler.from_config(config)
    else:
        assert EdmfastScheduler.from_config(config).config["_diffusers_class"] == name


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_the_index_of_a_timestep(name):
    theirs, ours = pair(name)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(6)
    for t in theirs.timesteps:
        assert ours.index_for_timestep(t) == theirs.index_for_timestep(t)
    schedule = torch.tensor([999.0, 500.0, 500.0, 0.0])
    for t in schedule:
        expected = theirs.index_for_timestep(t, schedule)
        assert ours.index_for_timestep(t, schedule) == expected
    with pytest.raises(ValueError, match=r"scheduler\.timesteps, got 1\.5"):
        ours.index_for_timestep(1.5)


def test_a_run_whose_first_timestep_occurs_twice():
    """Such a run begins at the second one, as in diffusers, which ends in NaN there."""
    settings = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    ends = []
    for scheduler in pair("KDPM2DiscreteScheduler", use_karras_sigmas=True, **settings):
        scheduler.set_timesteps(5)
        assert scheduler.timesteps[2] == scheduler.timesteps[0]
        scheduler.set_begin_index(0)
        x = ramp() * scheduler.init_noise_sigma
        ends.append(trajectory(scheduler, x)[-1] / x.abs().max())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"ended after its 9 .* unless set_begin_index\(0\)"):
        trajectory(scheduler, ramp())


@pytest.mark.parametrize("name", ALL)
def test_saving_and_loading(name, tmp_path):
    count = {"num_train_timesteps": 500}
    ours = EdmfastScheduler(name, **count)
    ours.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "scheduler_config.json").read_text())["num_train_timesteps"] == 500
    )
    loaded = EdmfastScheduler.from_pretrained(tmp_path)
    assert {**loaded.config, **count}.items() >= {
        key: value for key, value in ours.config.items() if not key.startswith("_")
    }.items()
    for scheduler in (ours, loaded):
        scheduler.set_timesteps(5)
    x = ramp()
    assert torch.equal(trajectory(ours, x)[-1], trajectory(loaded, x)[-1])
    # and back to the class of diffusers
    back = getattr(diffusers, name).from_config(loaded.config)
    back.set_timesteps(5)
    assert torch.equal(back.timesteps, loaded.timesteps)


def test_another_class_takes_the_settings_that_it_knows():
    config = diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True).config
    config = {**config, "_class_name": "PNDMScheduler"}
    with pytest.raises(ValueError, match=r"PNDMScheduler.*family="):
        EdmfastScheduler.from_config(config)
    ours = EdmfastScheduler.from_config(config, family="DPMSolverMultistepScheduler")
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert ours.config.beta_schedule == "scaled_linear"
    assert ours.config.skip_prk_steps is True
    changed = EdmfastScheduler.from_config(ours.config, use_karras_sigmas=True)
    assert changed.config.use_karras_sigmas is True


@pytest.mark.parametrize(
    ("name", "settings", "error", "match"),
    [
        ("DDPMScheduler", {}, ValueError, "DDPMScheduler"),
        ("DDIMScheduler", {"solver_order": 2}, TypeError, "solver_order"),
        ("DPMSolverMultistepScheduler", {"solver_order": 4}, ValueError, "solver_order=4"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "x"}, ValueError, "algorithm_type='x'"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, ValueError, "sigma_min"),
        ("UniPCMultistepScheduler", {"solver_p": object()}, ValueError, "solver_p"),
        ("UniPCMultistepScheduler", {"shift_terminal": 0.1}, ValueError, "shift_terminal"),
        ("DEISMultistepScheduler", {"prediction_type": "flow_prediction"}, ValueError, "flow"),
        ("EulerDiscreteScheduler", {"prediction_type": "x"}, ValueError, "prediction_type='x'"),
        ("EulerDiscreteScheduler", {"beta_schedule": "x"}, ValueError, "beta_schedule.*'x'"),
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            ValueError,
            "only one of",
        ),
        (
            "EDMDPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            ValueError,
            "solver_order=3",
        ),
    ],
)
def test_settings_that_are_not_supported_are_named(name, settings, error, match):
    with pytest.raises(error, match=match):
        EdmfastScheduler(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "request_", "match"),
    [
        ("EulerDiscreteScheduler", {}, {}, "num_inference_steps, timesteps or sigmas"),
        ("EulerDiscreteScheduler", {}, {"num_inference_steps": 0}, "num_inference_steps"),
        ("EulerDiscreteScheduler", {}, {"num_inference_steps": 2, "sigmas": [1.0, 0.0]}, "not two"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {"timesteps": [5]}, "use_karras"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "x"}, {"num_inference_steps": 2}, "'x'"),
        ("DDIMScheduler", {}, {"num_inference_steps": 1001}, "1001"),
        ("DDIMScheduler", {}, {"timesteps": [5]}, "takes no timesteps"),
        ("UniPCMultistepScheduler", {}, {"sigmas": [1.0]}, "use_flow_sigmas"),
        ("DPMSolverMultistepScheduler", {}, {"num_inference_steps": 2, "mu": 1.0}, "mu"),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True},
            {"num_inference_steps": 2},
            "mu must be given",
        ),
        (
            "FlowMatchEulerDiscreteScheduler",
            {},
            {"sigmas": [1.0], "timesteps": [1.0, 0.5]},
            "length",
        ),
    ],
)
def test_requests_that_are_not_supported_are_named(name, settings, request_, match):
    with pytest.raises(ValueError, match=match):
        EdmfastScheduler(name, **settings).set_timesteps(**request_)


def test_steps_that_are_wrong_are_named():
    scheduler, x = EdmfastScheduler("EulerDiscreteScheduler"), ramp()
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.set_timesteps(2)
    t = scheduler.timesteps
    with pytest.raises(TypeError, match="model_output must be a tensor, got tuple"):
        scheduler.step((x,), t[0], x)
    with pytest.raises(ValueError, match=r"\[4, 3, 8, 8\], got \[4, 6, 8, 8\]"):
        scheduler.step(torch.cat([x, x], 1), t[0], x)
    with pytest.raises(ValueError, match="integer"):
        scheduler.step(x, 999, x)
    with pytest.raises(ValueError, match=r"scheduler\.timesteps, got 3\.5"):
        scheduler.step(x, 3.5, x)
    with pytest.raises(ValueError, match="variance_noise"):
        scheduler.step(x, t[0], x, variance_noise=x)
    for moment in t:
        x = scheduler.step(x, moment, x).prev_sample
    with pytest.raises(ValueError, match="ended after its 2 model calls"):
        scheduler.step(x, t[0], x)
    scheduler.set_timesteps(2)
    scheduler.set_begin_index(2)
    with pytest.raises(ValueError, match="step_index must be 0 to 1"):
        scheduler.step(x, t[0], x)
    with pytest.raises(ValueError, match="s_churn"):
        heun = EdmfastScheduler("HeunDiscreteScheduler")
        heun.set_timesteps(2)
        heun.step(x, heun.timesteps[0], x, s_churn=1.0)
    heun.set_timesteps(2)
    with pytest.raises(ValueError, match="even call"):
        heun.set_begin_index(1)
        heun.step(x, heun.timesteps[1], x)


@pytest.mark.parametrize("name", ALL)
def test_the_signatures_are_those_that_pipelines_look_for(name):
    ours, theirs = EdmfastScheduler(name), getattr(diffusers, name)()
    for method in ("set_timesteps", "step"):
        wanted = {*inspect.signature(getattr(theirs, method)).parameters}
        unusual = {"num_train_timesteps", "order", "per_token_timesteps", "pred_original_sample"}
        assert wanted - unusual <= {*inspect.signature(getattr(ours, method)).parameters}


@pytest.mark.parametrize("name", ALL)
def test_results_of_a_step(name):
    theirs, ours = pair(name)
    x = ramp()
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(4)
    results = []
    for scheduler in (theirs, ours):
        t = scheduler.timesteps[0]
        scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        torch.manual_seed(0)
        results.append(scheduler.step(toy_model(scale(x, t), t), t, x))
    expected, found = results
    torch.testing.assert_close(found.prev_sample, expected.prev_sample, rtol=1e-4, atol=1e-4)
    assert found[0] is found["prev_sample"] is found.to_tuple()[0] is found.prev_sample
    if "pred_original_sample" in expected:
        clean = expected.pred_original_sample
        torch.testing.assert_close(found.pred_original_sample, clean, rtol=1e-4, atol=1e-4)
        assert found[1] is found["pred_original_sample"]
    ours.set_timesteps(4)
    t = ours.timesteps[0]
    scaled = ours.scale_model_input(x, t)
    plain = ours.step(toy_model(scaled, t), t, x, return_dict=False)
    theirs.set_timesteps(4)
    if hasattr(theirs, "scale_model_input"):
        theirs.scale_model_input(x, t)
    assert isinstance(plain, tuple)
    assert len(plain) == len(theirs.step(toy_model(scaled, t), t, x, return_dict=False))
    assert plain[0].shape == x.shape


def test_predicted_samples_are_not_read_from_changed_tensors():
    scheduler, x = EdmfastScheduler("EulerDiscreteScheduler"), ramp()
    scheduler.set_timesteps(4)
    output = scheduler.step(x, scheduler.timesteps[0], x)
    x.zero_()
    with pytest.raises(RuntimeError, match="in place"):
        _ = output.pred_original_sample
    with torch.inference_mode():
        y = ramp()
        assert scheduler.step(y, scheduler.timesteps[1], y).pred_original_sample.shape == y.shape


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_scheduler_is_copied_in_the_middle_of_a_run(name):
    scheduler, x = EdmfastScheduler(name), ramp()
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(toy_model(x, t), t, x).prev_sample
    twin = copy.deepcopy(scheduler)
    ends = []
    for one in (scheduler, twin):
        y = x
        for t in one.timesteps[3:]:
            y = one.step(toy_model(y, t), t, y).prev_sample
        ends.append(y)
    assert torch.equal(*ends)
    assert scheduler.step_index == twin.step_index == len(scheduler.timesteps)


@pytest.mark.parametrize(
    "name",
    [
        "EulerAncestralDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DDIMScheduler",
    ],
)
def test_the_generator_advances_as_in_diffusers(name):
    settings = {"algorithm_type": "sde-dpmsolver++"} if "DPMSolverM" in name else {}
    options = {"eta": 0.5} if name == "DDIMScheduler" else {}
    generators = []
    for scheduler in pair(name, **settings):
        scheduler.set_timesteps(5)
        generators.append(torch.Generator().manual_seed(3))
        trajectory(scheduler, ramp(), generator=generators[-1], **options)
    assert torch.equal(*(generator.get_state() for generator in generators))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_noise_of_half_precision_is_that_of_diffusers(dtype):
    """A batch whose size is no multiple of 16 has other normals in half precision than in single."""
    ends, generators = [], []
    for scheduler in pair("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True):
        scheduler.set_timesteps(4)
        generators.append(torch.Generator().manual_seed(3))
        x = ramp(dtype)[:1, :, :3, :3]
        ends.append(trajectory(scheduler, x, generator=generators[-1])[0])
    assert torch.equal(*(generator.get_state() for generator in generators))
    torch.testing.assert_close(*ends, rtol=1e-2, atol=1e-2)


def test_one_generator_for_each_sample():
    ends = []
    for scheduler in pair("EulerAncestralDiscreteScheduler"):
        scheduler.set_timesteps(5)
        each = [torch.Generator().manual_seed(seed) for seed in range(4)]
        ends.append(trajectory(scheduler, ramp(), generator=each)[-1])
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-4)


def test_global_noise_and_given_noise():
    for given in (False, True):
        ends = []
        for scheduler in pair("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"):
            torch.manual_seed(5)
            scheduler.set_timesteps(5)
            options = {"variance_noise": torch.ones_like(ramp())} if given else {}
            x = ramp()
            for t in scheduler.timesteps:
                x = scheduler.step(toy_model(x, t), t, x, **options).prev_sample
            ends.append(x)
        torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


def test_seeds_for_each_sample_do_not_depend_on_the_batch():
    x = ramp()
    ends = []
    for rows in (slice(0, 4), slice(1, 3)):
        scheduler = EdmfastScheduler("EulerAncestralDiscreteScheduler")
        scheduler.set_timesteps(5)
        scheduler.set_noise_seed([11, 12, 13, 14][rows])
        ends.append(trajectory(scheduler, x[rows])[-1])
    assert torch.equal(ends[0][1:3], ends[1])
    assert not torch.equal(ends[0][0] - ends[0][1], x[0] - x[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_precisions(name, dtype):
    theirs, ours = pair(name)
    states = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(10)
        states.append(trajectory(scheduler, ramp(dtype)))
    for expected, found in zip(*states, strict=True):
        assert found.dtype == expected.dtype == dtype
        bound = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float64: 1e-5}[dtype]
        torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


def test_a_sample_in_single_and_an_output_in_half_precision():
    x, output = ramp(), ramp(torch.float16)
    for name, dtype in (
        ("EulerDiscreteScheduler", torch.float16),
        ("HeunDiscreteScheduler", torch.float32),
    ):
        for scheduler in pair(name):
            scheduler.set_timesteps(4)
            scheduler.scale_model_input(x, scheduler.timesteps[0])
            assert scheduler.step(output, scheduler.timesteps[0], x).prev_sample.dtype == dtype


def test_learned_variances_are_dropped():
    x = ramp()
    ends = []
    for scheduler in pair("DPMSolverMultistepScheduler", variance_type="learned_range"):
        scheduler.set_timesteps(5)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(torch.cat([toy_model(y, t), y], 1), t, y).prev_sample
        ends.append(y)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


def test_samples_that_are_changed_between_steps():
    """Inpainting replaces the samples after every step; a step then starts from the new ones."""
    for name in ("DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"):
        ends = []
        for scheduler in pair(name):
            scheduler.set_timesteps(6)
            x = ramp() * scheduler.init_noise_sigma
            for k, t in enumerate(scheduler.timesteps):
                model = toy_model(scheduler.scale_model_input(x, t), t)
                x = scheduler.step(model, t, x).prev_sample
                if k % 2:
                    x[:, :, :4] = 0.5 * ramp()[:, :, :4]
                else:
                    x = x + 0.1
            ends.append(x)
        torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


def heun_between_its_calls(change_output):
    """Run a step of Heun's method whose middle samples are changed in place, by both schedulers."""
    ends = []
    for scheduler in pair("HeunDiscreteScheduler"):
        scheduler.set_timesteps(4)
        x = ramp() * scheduler.init_noise_sigma
        t = scheduler.timesteps
        output = toy_model(scheduler.scale_model_input(x, t[0]), t[0])
        y = scheduler.step(output, t[0], x).prev_sample
        y[:, :, :3] = 1.0
        if change_output:
            output.zero_()
        y = scheduler.step(toy_model(scheduler.scale_model_input(y, t[1]), t[1]), t[1], y)
        ends.append(y.prev_sample)
    return ends


def test_middle_samples_of_heun_that_are_changed_in_place():
    torch.testing.assert_close(*heun_between_its_calls(False), rtol=1e-5, atol=1e-4)
    with pytest.raises(RuntimeError, match="between the two calls"):
        heun_between_its_calls(True)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_second_run_begins_anew(name):
    scheduler, ends = EdmfastScheduler(name), []
    for _ in range(2):
        scheduler.set_timesteps(np.int64(4))
        ends.append(trajectory(scheduler, ramp())[-1])
    assert torch.equal(*ends)
    # pipelines that repeat a step set its number back, and the samples go on from there
    scheduler.set_timesteps(4)
    x, t = ramp(), scheduler.timesteps
    once = scheduler.step(toy_model(x, t[0]), t[0], x).prev_sample
    scheduler._step_index -= 1
    assert torch.equal(once, scheduler.step(toy_model(x, t[0]), t[0], x).prev_sample)


def test_a_tuple_computes_the_clean_samples_when_they_are_read():
    scheduler, x = EdmfastScheduler("EulerDiscreteScheduler"), ramp()
    outputs = []
    for _ in range(4):
        scheduler.set_timesteps(4)
        outputs.append(scheduler.step(x, scheduler.timesteps[0], x, return_dict=False))
    scheduler.set_timesteps(4)
    clean = scheduler.step(x, scheduler.timesteps[0], x).pred_original_sample
    after, found = outputs[0]
    assert torch.equal(after, outputs[0][0])
    for other in (found, outputs[1][1], outputs[2][-1], [*outputs[3]][1], tuple(outputs[3])[1]):
        assert torch.equal(other, clean)
    assert len(outputs[0]) == 2
    assert outputs[0][:1][0] is after
    assert torch.equal(copy.deepcopy(outputs[1])[1], clean)


def test_steps_keep_the_layout_and_are_differentiable():
    scheduler = EdmfastScheduler("HeunDiscreteScheduler")
    scheduler.set_timesteps(2)
    x = ramp().to(memory_format=torch.channels_last).requires_grad_()
    y = x
    for t in scheduler.timesteps:
        y = scheduler.step(0.5 * y, t, y).prev_sample
    assert y.is_contiguous(memory_format=torch.channels_last)
    (slope,) = torch.autograd.grad(y.sum(), x)
    # the steps are linear in the samples for this network
    torch.testing.assert_close(slope * x, y)
