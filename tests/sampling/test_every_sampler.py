"""Test what all samplers with levels share: callbacks, grids of every kind, models that fail, seeds and dtypes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture

PLAIN = ["sample_euler", "sample_heun", "sample_dpm_2", "sample_dpmpp_2m", "sample_lms"]
NOISY = [
    "sample_euler_ancestral",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_sde",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_3m_sde",
]
NAMES = PLAIN + NOISY
SLOPE_FIRST = {"sample_euler", "sample_heun", "sample_dpm_2", "sample_lms"}
SIGMAS = sampling.get_sigmas_karras(7, 0.05, 10.0).double()
MIXTURE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2])


def start(dtype=torch.float64):
    return 10 * torch.randn(5, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))


def run(name, x=None, sigmas=SIGMAS, model=MIXTURE.denoise, **options):
    x = start() if x is None else x
    if name in NOISY and not {"noise_sampler", "seed", "eta"} & options.keys():
        options["seed"] = 3
    return getattr(sampling, name)(model, x, sigmas, disable=True, **options)


def both(seen):
    seen["x"].mul_(1.1)
    seen["denoised"].mul_(0.9)


def clamp(seen):
    seen["denoised"].clamp_(0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_change_what_they_may(name):
    plain = run(name)
    assert torch.equal(run(name, callback=lambda seen: None), plain)
    assert torch.equal(run(name, callback=clamp), plain) == (name in SLOPE_FIRST)
    x = start()
    assert not torch.equal(run(name, x, callback=both), plain)
    assert torch.equal(x, start())


@pytest.mark.parametrize("name", NAMES)
def test_one_step_to_zero_denoises_once(name):
    calls = []

    def model(x, sigma):
        calls.append(sigma)
        return MIXTURE.denoise(x, sigma)

    x = run(name, sigmas=torch.tensor([10.0, 0.0], dtype=torch.float64), model=model)
    torch.testing.assert_close(x, MIXTURE.denoise(start(), 10.0), rtol=1e-13, atol=0)
    assert len(calls) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_may_end_above_zero(name):
    x = run(name, sigmas=SIGMAS[:-1])
    assert x.isfinite().all()
    assert not torch.equal(x, run(name))


@pytest.mark.parametrize("name", NAMES)
def test_levels_rise_where_there_is_no_noise(name):
    sigmas = SIGMAS[:-1].flip(0)
    options = {"eta": 0.0} if name in NOISY else {}
    noised = run(name, 0.1 * start(), sigmas, **options)
    # A sample that was carried to its noise and back comes home at the accuracy of the grid.
    assert noised.abs().max() > 3
    if name in NOISY:
        with pytest.raises(ValueError, match="sigmas must decrease strictly"):
            run(name, sigmas=sigmas)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_level_may_be_there_twice(name):
    # Without noise a step without length changes nothing.
    once = torch.tensor([10.0, 3.0, 1.0, 0.3], dtype=torch.float64)
    twice = torch.cat([once, once[-1:]])
    options = {"eta": 0.0} if name in NOISY else {}
    expected = run(name, sigmas=once, **options)
    torch.testing.assert_close(run(name, sigmas=twice, **options), expected, rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="decrease strictly"):
        run(name, sigmas=torch.tensor([3.0, 3.0, 1.0]))
    if name == "sample_lms":
        with pytest.raises(ValueError, match="LinearMultistep has no step where a level is there"):
            run(name, sigmas=torch.cat([twice, torch.zeros(1)]))


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_before_the_end_is_refused(name):
    with pytest.raises(ValueError, match=r"sigmas\[1\] = 0.0"):
        run(name, sigmas=torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1])
def test_a_grid_without_a_step_is_refused_with_advice(name, count):
    message = rf"got shape \({count},\): .*pass the level of x and the one to reach"
    with pytest.raises(ValueError, match=message):
        run(name, sigmas=SIGMAS[:count])


def test_states_without_an_axis_beside_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"a batch axis and at least one more, got \(5,\)"):
        run("sample_euler", start()[:, 0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda x, sigma: (x, sigma), TypeError, "returned a tuple|got a tuple|tuple"),
        (lambda x, sigma: None, TypeError, "NoneType"),
        (lambda x, sigma: x[:, :1], ValueError, r"\[5, 1\]"),
        (lambda x, sigma: x[:2], ValueError, r"\[2, 2\]"),
        (lambda x, sigma: x.long(), TypeError, "int64"),
    ],
)
def test_a_model_that_returns_no_states_is_refused(name, model, error, message):
    with pytest.raises(error, match=message):
        run(name, model=model)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_of_conditions_is_named(name):
    def model(x, sigma, label):
        return MIXTURE.denoise(x, sigma) + label[:, None]

    message = "^label has 3 rows for a batch of 5: a condition has one row per sample"
    with pytest.raises(ValueError, match=message):
        run(name, model=model, extra_args={"label": torch.zeros(3)})
    with pytest.raises(TypeError, match="accepts the conditions label, given labels"):
        run(name, model=model, extra_args={"labels": torch.zeros(5)})
    run(name, model=model, extra_args={"label": torch.zeros(1)})


@pytest.mark.parametrize("name", NAMES)
def test_nan_of_the_model_is_reported(name):
    def model(x, sigma):
        return torch.where(torch.arange(len(x))[:, None] == 1, math.nan, x / 2)

    with pytest.warns(sampling.NonFiniteWarning, match="1 of 5 samples are not finite"):
        run(name, model=model)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_may_return_another_floating_dtype(name):
    x = run(name, model=lambda x, sigma: MIXTURE.denoise(x, sigma).float())
    assert x.dtype == torch.float64
    torch.testing.assert_close(x, run(name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64(name):
    x = run(name, start(torch.float32))
    assert x.dtype == torch.float32
    # The starts of the two dtypes are different draws, so the float32 start is used in both.
    wide = run(name, start(torch.float32).double())
    assert (x - wide).abs().max() < 2e-5


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_asked_for_with_the_levels_of_the_step(name):
    asked = []

    def noise(sigma, sigma_next):
        asked.append((float(sigma), float(sigma_next)))
        return torch.zeros(5, 2, dtype=torch.float64)

    run(name, noise_sampler=noise)
    steps = list(pairwise(SIGMAS[:-1].tolist()))
    if name == "sample_dpmpp_sde":
        middles = [(s, math.sqrt(s * u)) for s, u in steps]
        steps = [pair for both_halves in zip(middles, steps, strict=True) for pair in both_halves]
    assert np.array(asked) == pytest.approx(np.array(steps), rel=1e-12)


@pytest.mark.parametrize("name", NOISY)
def test_seeds_make_samples_independent_of_their_batch(name):
    whole = run(name, seed=[4, 5, 6, 7, 8])
    again = run(name, start()[[3, 0]], seed=[7, 4])
    assert torch.equal(again, whole[[3, 0]])
    assert not torch.equal(run(name, seed=[4, 5, 6, 7, 9])[4], whole[4])
    with pytest.raises(ValueError, match="for each of the 5 samples, got 2 seeds"):
        run(name, seed=[4, 5])
    with pytest.raises(ValueError, match="noise_sampler or seed"):
        run(name, seed=1, noise_sampler=lambda *_: start())


@pytest.mark.parametrize("name", ["sample_dpmpp_sde", "sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"])
def test_the_noise_of_the_sde_is_a_path(name):
    def noised(count):
        sigmas = torch.logspace(1, -1, count + 1, dtype=torch.float64)
        return run(name, sigmas=sigmas, seed=2)

    finest = noised(512)
    assert (noised(256) - finest).abs().max() < 0.1


def test_a_midpoint_elsewhere_and_another_rule_change_the_result():
    assert not torch.equal(run("sample_dpmpp_sde", r=0.3, seed=3), run("sample_dpmpp_sde"))
    heun = run("sample_dpmpp_2m_sde", solver_type="heun", seed=3)
    assert not torch.equal(heun, run("sample_dpmpp_2m_sde"))
    with pytest.raises(
        ValueError, match="solver_type must be one of 'midpoint', 'heun', got 'euler'"
    ):
        run("sample_dpmpp_2m_sde", solver_type="euler")


def test_integers_of_numpy_and_torch_are_orders():
    for order in (np.int64(2), torch.tensor(2)):
        assert torch.equal(run("sample_lms", order=order), run("sample_lms", order=2))


@pytest.mark.parametrize("name", ["sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral"])
def test_an_eta_above_one_may_move_to_zero(name):
    # All noise of the next level is then fresh, and a step is one denoising. DPM-2 leaves the noise out.
    sigmas = torch.tensor([10.0, 1.0], dtype=torch.float64)
    noise = torch.ones(5, 2, dtype=torch.float64)
    x = run(name, sigmas=sigmas, eta=50.0, noise_sampler=lambda *_: noise)
    added = 0.0 if "dpm_2" in name else 1.0
    torch.testing.assert_close(x, MIXTURE.denoise(start(), 10.0) + added, rtol=1e-13, atol=1e-13)
