"""Test the variance-preserving schedules, their grids and the labels of discrete times."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.sampling import (
    CosineVP,
    DiscreteVP,
    LinearVP,
    discrete_time_labels,
    get_sigmas_exponential,
    get_sigmas_vp,
    get_sigmas_vp_grid,
)
from edmfast.sampling.schedules.vp_schedules import VPSchedule

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
DISCRETE = DiscreteVP(tuple(torch.cumprod(1 - BETAS, 0).tolist()))
SCHEDULES = [LinearVP(), LinearVP(0.5, 12.0), CosineVP(), DISCRETE]


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_time_is_the_inverse_of_sigma(schedule):
    times = torch.linspace(2e-3, schedule.last_time, 50)
    torch.testing.assert_close(schedule.time(schedule.sigma(times)), times, rtol=1e-9, atol=1e-12)
    assert (schedule.sigma(times).diff() > 0).all()


def test_linear_schedule_is_the_integral_of_its_rate():
    # ln alpha = -1/2 int_0^t (0.1 + 19.9 s) ds
    time = torch.tensor([0.3])
    log_alpha = -0.5 * (0.1 * 0.3 + 19.9 * 0.3**2 / 2)
    want = math.sqrt(1 - math.exp(2 * log_alpha)) / math.exp(log_alpha)
    assert LinearVP().sigma(time).item() == pytest.approx(want, rel=1e-13)


def test_cosine_schedule_is_its_formula():
    angle = 0.408 / 1.008 * math.pi / 2
    alpha = math.cos(angle) / math.cos(0.008 / 1.008 * math.pi / 2)
    want = math.sqrt(1 - alpha**2) / alpha
    assert CosineVP().sigma(torch.tensor([0.4])).item() == pytest.approx(want, rel=1e-12)


def test_discrete_schedule_has_its_levels_and_is_linear_between_them():
    products = torch.tensor(DISCRETE.alphas_cumprod)
    levels = torch.sqrt((1 - products) / products)
    torch.testing.assert_close(DISCRETE.sigma(torch.arange(1, 1001) / 1000), levels)
    middle = DISCRETE.log_alpha(torch.tensor([0.5005]))
    torch.testing.assert_close(middle, (products[499] * products[500]).log()[None] / 4)


def test_discrete_schedule_leaves_out_levels_of_pure_noise():
    step = torch.arange(1001) / 1000
    bar = torch.cos((step + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    products = torch.cumprod(1 - betas, 0)
    schedule = DiscreteVP(tuple(products.tolist()))
    kept = torch.tensor(schedule.alphas_cumprod)
    assert 990 < len(kept) < 1000
    assert 0.5 * math.log(kept[-1] / (1 - kept[-1])) >= -5.1
    dropped = products[len(kept)]
    assert 0.5 * math.log(dropped / (1 - dropped)) < -5.1


def test_grids():
    schedule = LinearVP()
    torch.testing.assert_close(get_sigmas_vp_grid(7), get_sigmas_vp(7), rtol=1e-12, atol=0)
    high, low = schedule.sigma(torch.tensor([1.0, 1e-3])).tolist()
    logsnr = get_sigmas_vp_grid(7, "logsnr")
    torch.testing.assert_close(logsnr, get_sigmas_exponential(7, low, high), rtol=1e-12, atol=0)
    quadratic = get_sigmas_vp_grid(11, "time_quadratic", denoise_to_zero=False)
    times = torch.linspace(1, math.sqrt(1e-3), 11) ** 2
    torch.testing.assert_close(quadratic, schedule.sigma(times), rtol=1e-12, atol=0)
    power = get_sigmas_vp_grid(11, 2.0, denoise_to_zero=False)
    torch.testing.assert_close(power, quadratic, rtol=1e-12, atol=0)
    cosine = get_sigmas_vp_grid(5, "logsnr", CosineVP(), t_end=1e-2)
    assert cosine[0].item() == pytest.approx(CosineVP().sigma(torch.tensor(0.9946)).item())
    assert cosine[-1] == 0
    assert len(cosine) == 6


def test_labels_of_discrete_times():
    labels = discrete_time_labels(torch.tensor([1.0, 0.5, 1e-3, 1e-4]))
    torch.testing.assert_close(labels, torch.tensor([999.0, 499.0, 0.0, 0.0]))
    torch.testing.assert_close(discrete_time_labels([1.0], 100), torch.tensor([990.0]))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: LinearVP(1.0, 0.5), ValueError, "beta_max must exceed beta_min"),
        (lambda: CosineVP(0.0), ValueError, "s must be"),
        (lambda: DiscreteVP((0.5, 0.7)), ValueError, "alphas_cumprod must fall"),
        (lambda: DiscreteVP((1.0, 0.7)), ValueError, "alphas_cumprod must fall"),
        (lambda: DiscreteVP((1e-6, 1e-7)), ValueError, "2 usable levels"),
        (lambda: get_sigmas_vp_grid(5, "cubic"), ValueError, "spacing must be"),
        (lambda: get_sigmas_vp_grid(5, schedule="linear"), TypeError, "schedule must be"),
        (lambda: get_sigmas_vp_grid(5, t_end=2.0), ValueError, "t_end must lie below"),
        (lambda: discrete_time_labels(torch.ones(2, dtype=torch.int64)), TypeError, "times must"),
        (lambda: get_sigmas_vp_grid(5, t_start=1.5), ValueError, "t_start must be at most"),
        (lambda: VPSchedule().sigma(torch.ones(1)), NotImplementedError, None),
    ],
)
def test_bad_input_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
