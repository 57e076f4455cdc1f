"""Callbacks that only read change no bit; callbacks that change tensors in place act as in k-diffusion.

The formulas here are those of the published algorithms, with the callback where k-diffusion has it: after the
slope in `sample_euler`, `sample_heun`, `sample_dpm_2` and `sample_lms`, and before it in the others.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture

SLOPE_FIRST = ["sample_euler", "sample_heun", "sample_dpm_2", "sample_lms"]
NAMES = [*SLOPE_FIRST, "sample_dpmpp_2m", "sample_euler_ancestral", "sample_dpmpp_2m_sde"]
SIGMAS = sampling.get_sigmas_karras(9, 0.05, 10.0).double()
MIXTURE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2])


def start():
    return torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 10


def noise(*_levels):
    return torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)


def euler(x, callback):
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        slope = (x - denoised) / now
        callback({"x": x, "i": i, "denoised": denoised})
        x = x + slope * (after - now)
    return x


def heun(x, callback):
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        slope = (x - denoised) / now
        callback({"x": x, "i": i, "denoised": denoised})
        if after > 0:
            end = x + slope * (after - now)
            slope = (slope + (end - MIXTURE.denoise(end, after)) / after) / 2
        x = x + slope * (after - now)
    return x


def dpm_2(x, callback):
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        slope = (x - denoised) / now
        callback({"x": x, "i": i, "denoised": denoised})
        if after > 0:
            middle = (now * after).sqrt()
            end = x + slope * (middle - now)
            slope = (end - MIXTURE.denoise(end, middle)) / middle
        x = x + slope * (after - now)
    return x


def lms(x, callback):
    slopes = []
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        slopes.append((x - denoised) / now)
        callback({"x": x, "i": i, "denoised": denoised})
        x = x + slopes[-1] * (after - now)
        if i > 0:
            # The line through two slopes, integrated from now to after.
            bend = (slopes[-1] - slopes[-2]) / (now - SIGMAS[i - 1])
            x = x + bend * (after - now) ** 2 / 2
    return x


def dpmpp_2m_sde(x, callback):
    previous = None
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        callback({"x": x, "i": i, "denoised": denoised})
        if after == 0:
            return denoised
        share = 1 - (after / now) ** 2
        target = denoised
        if previous is not None:
            ratio = math.log(now / after) / math.log(SIGMAS[i - 1] / now)
            target = denoised + ratio / 2 * (denoised - previous)
        x = (1 - share) * x + share * target + noise() * after * share.sqrt()
        previous = denoised
    return x


def dpmpp_2m(x, callback):
    previous = None
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        callback({"x": x, "i": i, "denoised": denoised})
        target = denoised
        if previous is not None and after > 0:
            share = math.log(now / after) / math.log(SIGMAS[i - 1] / now) / 2
            target = (1 + share) * denoised - share * previous
        x = after / now * x + (1 - after / now) * target
        previous = denoised
    return x


def euler_ancestral(x, callback):
    for i, (now, after) in enumerate(pairwise(SIGMAS)):
        denoised = MIXTURE.denoise(x, now)
        down, up = sampling.get_ancestral_step(now, after)
        callback({"x": x, "i": i, "denoised": denoised})
        x = x + (x - denoised) / now * (down - now) + noise() * up
    return x


FORMULAS = dict(
    zip(NAMES, [euler, heun, dpm_2, lms, dpmpp_2m, euler_ancestral, dpmpp_2m_sde], strict=True)
)


def run(name, x, callback):
    arguments = {"noise_sampler": noise} if "ancestral" in name or "sde" in name else {}
    arguments |= {"order": 2} if "lms" in name else {}
    sampler = getattr(sampling, name)
    return sampler(MIXTURE.denoise, x, SIGMAS, callback=callback, disable=True, **arguments)


def preview(seen):
    seen["denoised"].clamp_(0, 1)


def inpaint(seen):
    seen["x"][:, 0] = 0.25


def inpaint_through_numpy(seen):
    seen["x"].numpy()[:, 0] = 0.25


def nudge_at_the_last_step(seen):
    if seen["i"] == len(SIGMAS) - 2:
        seen["x"].add_(0.5)
        seen["denoised"].zero_()


def both(seen):
    seen["x"].mul_(1.1)
    seen["denoised"].mul_(0.9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "callback", [preview, inpaint, inpaint_through_numpy, nudge_at_the_last_step, both]
)
def test_in_place_changes_act_as_in_the_published_order(name, callback):
    expected = FORMULAS[name](start(), callback)
    torch.testing.assert_close(run(name, start(), callback), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_callback_that_only_reads_changes_no_bit(name):
    plain = run(name, start(), None)
    assert torch.equal(run(name, start(), lambda seen: None), plain)
    if name in SLOPE_FIRST:
        assert torch.equal(run(name, start(), preview), plain)
    else:
        assert not torch.equal(run(name, start(), preview), plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_callback_cannot_change_the_start_of_the_caller(name):
    x = start()
    run(name, x, both)
    assert torch.equal(x, start())


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_work_in_inference_mode(name):
    with torch.inference_mode():
        inside = run(name, start(), inpaint)
    assert torch.equal(inside, run(name, start(), inpaint))
