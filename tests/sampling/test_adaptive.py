"""DPM-Solver over a range of levels: its tolerances, noise, progress, and the errors of bad input."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture

STD = 0.7
NORMAL = GaussianMixture([[0.0, 0.0]], [STD])
MIXTURE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2])
BOTH = [sampling.sample_dpm_fast, sampling.sample_dpm_adaptive]


def start():
    return 10 * torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(sampler, model=MIXTURE, x=None, sigma_min=0.05, sigma_max=10.0, **options):
    if sampler is sampling.sample_dpm_fast:
        options = {"n": 15} | options
    x = start() if x is None else x
    return sampler(model, x, sigma_min, sigma_max, disable=True, **options)


def exact(x, sigma, sigma_next):
    return x * math.sqrt((STD**2 + sigma_next**2) / (STD**2 + sigma**2))


@pytest.mark.parametrize("order", [2, 3])
def test_smaller_tolerances_bring_the_exact_result_nearer(order):
    errors, calls = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        x, info = run(
            sampling.sample_dpm_adaptive,
            NORMAL,
            order=order,
            rtol=tolerance,
            atol=tolerance,
            return_info=True,
        )
        errors.append(float((x - exact(start(), 10.0, 0.05)).abs().max()))
        calls.append(info["nfe"])
        assert info["steps"] == info["n_accept"] + info["n_reject"]
        assert info["nfe"] == order * info["steps"]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    assert calls == sorted(calls)


@pytest.mark.parametrize("sampler", BOTH)
def test_noise_may_rise(sampler):
    fine = {"n": 120} if sampler is sampling.sample_dpm_fast else {"rtol": 1e-5, "atol": 1e-5}
    x = run(sampler, NORMAL, 0.05 * start(), sigma_min=10.0, sigma_max=0.05, **fine)
    torch.testing.assert_close(x, exact(0.05 * start(), 0.05, 10.0), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match=r"eta must be 0 where the noise rises, got eta = 1.0"):
        run(sampler, sigma_min=10.0, sigma_max=0.05, eta=1.0)


@pytest.mark.parametrize("sampler", BOTH)
def test_seeds_repeat_noise(sampler):
    whole = run(sampler, eta=1.0, seed=4)
    assert torch.equal(run(sampler, eta=1.0, seed=4), whole)
    assert not torch.equal(run(sampler, eta=1.0, seed=5), whole)
    torch.manual_seed(0)
    first = run(sampler, eta=1.0)
    torch.manual_seed(0)
    assert torch.equal(run(sampler, eta=1.0), first)
    assert torch.equal(
        run(sampler, eta=1.0, s_noise=0.0, seed=1), run(sampler, eta=1.0, s_noise=0.0)
    )
    with pytest.raises(ValueError, match="noise_sampler or seed"):
        run(sampler, eta=1.0, seed=1, noise_sampler=lambda *_: start())


def test_the_seeds_of_samples_are_their_own_where_the_steps_are_fixed():
    whole = run(sampling.sample_dpm_fast, eta=1.0, seed=[1, 2, 3, 4, 5])
    again = run(sampling.sample_dpm_fast, x=start()[[4, 2]], eta=1.0, seed=[5, 3])
    assert torch.equal(again, whole[[4, 2]])


@pytest.mark.parametrize("sampler", BOTH)
def test_a_callback_sees_times_and_changes_nothing_by_reading(sampler):
    seen = []
    x = run(sampler, callback=seen.append)
    assert torch.equal(x, run(sampler))
    for report in seen:
        torch.testing.assert_close(report["sigma"], report["t"].neg().exp())
        assert {"x", "i", "t", "t_up", "sigma_hat", "denoised"} <= report.keys()
    assert [report["i"] for report in seen] == list(range(len(seen)))


@pytest.mark.parametrize("sampler", BOTH)
def test_a_start_is_not_changed_by_a_callback(sampler):
    x = start()
    run(sampler, x=x, callback=lambda seen: seen["x"].zero_())
    assert torch.equal(x, start())


@pytest.mark.parametrize("sampler", BOTH)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigma_min": 0.0}, ValueError, "sigma_min must be positive"),
        ({"sigma_max": -1.0}, ValueError, "sigma_max must be positive"),
        ({"sigma_max": 1e200}, ValueError, "sigma_max must be from"),
        ({"x": torch.zeros(3)}, ValueError, r"x must be \[B, \*shape\]"),
        ({"x": start() / 0}, ValueError, "x must be finite"),
        ({"model": lambda x, s: (x, s)}, TypeError, "tuple"),
        ({"model": lambda x, s: x[:, :1]}, ValueError, r"\[5, 1\]"),
        ({"extra_args": {"label": 1}}, TypeError, "label"),
    ],
)
def test_bad_input_is_refused(sampler, options, error, message):
    with pytest.raises(error, match=message):
        run(sampler, **options)


def test_equal_levels():
    with pytest.raises(ValueError, match="sigma_min and sigma_max must differ, got 2 for both"):
        run(sampling.sample_dpm_fast, sigma_min=2.0, sigma_max=2.0)
    x = start()
    same = run(sampling.sample_dpm_adaptive, x=x, sigma_min=2.0, sigma_max=2.0)
    assert torch.equal(same, x)
    assert same is not x


def test_an_adaptive_run_stops_where_it_cannot_go_on():
    def broken(x, sigma):
        return torch.where(sigma[:, None] < 5, math.nan, x / 2)

    with pytest.raises(ValueError, match="the model returned NaN or infinity at sigma = "):
        run(sampling.sample_dpm_adaptive, broken)
    noisy = torch.Generator().manual_seed(0)

    def random(x, sigma):
        return torch.randn(x.shape, generator=noisy, dtype=x.dtype)

    with pytest.raises(ValueError, match="atol = 1e-08 and rtol = 0 are too small"):
        run(sampling.sample_dpm_adaptive, random, rtol=0.0, atol=1e-8)
    with pytest.raises(ValueError, match="rtol and atol must not both be 0"):
        run(sampling.sample_dpm_adaptive, rtol=0.0, atol=0.0)
    with pytest.raises(TypeError, match="return_info must be True or False"):
        run(sampling.sample_dpm_adaptive, return_info=3)


def test_nan_of_a_model_is_reported_by_fixed_steps():
    with pytest.warns(sampling.NonFiniteWarning, match="5 of 5 samples"):
        run(sampling.sample_dpm_fast, lambda x, sigma: x * math.nan)


def test_a_step_size_controller():
    controller = sampling.PIDStepSizeController(0.1, 0.0, 1.0, 0.0, order=2, eps=1e-8)
    assert not controller.propose_step(100.0)
    assert controller.h == pytest.approx(0.1 * (1 + math.atan(0.1 - 1)), rel=1e-6)
    assert controller.propose_step(torch.tensor(0.25))
    assert controller.h == pytest.approx(
        0.1 * (1 + math.atan(0.1 - 1)) * (1 + math.atan(2 - 1)), rel=1e-6
    )
    assert not sampling.PIDStepSizeController(0.1, 0.3, 0.2, 0.1).propose_step(math.inf)
    with pytest.raises(ValueError, match="error"):
        controller.propose_step(math.nan)


def test_the_solver_object_counts_its_calls():
    calls, reports = [], []
    solver = sampling.DPMSolver(
        MIXTURE, eps_callback=lambda: calls.append(1), info_callback=reports.append
    )
    times = (solver.t(torch.tensor(10.0)), solver.t(torch.tensor(0.05)))
    x = solver.dpm_solver_fast(start(), *times, 7)
    assert torch.equal(x, run(sampling.sample_dpm_fast, n=7))
    assert (len(calls), len(reports)) == (7, 3)
    x, info = solver.dpm_solver_adaptive(start(), *times, order=2)
    assert torch.equal(x, run(sampling.sample_dpm_adaptive, order=2))
    assert len(calls) == 7 + info["nfe"]
    noised, _ = solver.dpm_solver_adaptive(start(), *times, eta=1.0)
    assert not torch.equal(noised, run(sampling.sample_dpm_adaptive))


def test_the_number_of_levels_belongs_to_the_number_of_calls():
    solver = sampling.solvers.DPMSolverFast(7)
    sigmas = torch.logspace(1, -1, 4, dtype=torch.float64)
    calls = []

    def model(x, sigma):
        calls.append(1)
        return MIXTURE(x, sigma)

    sampling.sample(model, start(), sigmas, solver, disable=True)
    assert len(calls) == 7
    with pytest.raises(ValueError, match=r"makes 3 steps: sigmas must be \[4\], got \[3\]"):
        sampling.sample(model, start(), sigmas[:-1], solver, disable=True)


@pytest.mark.parametrize("sampler", BOTH)
def test_an_empty_batch_gives_an_empty_result(sampler):
    assert run(sampler, x=start()[:0]).shape == (0, 2)
