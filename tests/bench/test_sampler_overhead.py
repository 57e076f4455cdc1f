"""Test that the gates of runs beside a kept tensor accept right answers only."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bench.cases import linear_combination as combination
from bench.cases import sampler_overhead, scheduler_overhead

CPU = torch.device("cpu")
CASES = {case.name: case for case in sampler_overhead.CASES}


@pytest.mark.parametrize("name", CASES)
def test_right_answers_pass_and_wrong_ones_are_stopped(name):
    case = CASES[name]
    x, sigmas, kept = case.make_inputs(case.shape, torch.float32, CPU)
    truth = case.reference(x, sigmas, kept)
    answer = case.ours(x, sigmas, kept)
    case.check(answer, truth)
    for wrong in (case.ours(x, sigmas, 1.01 * kept), kept, answer + 1e-3):
        with pytest.raises(AssertionError):
            case.check(wrong, truth)


def test_the_samplers_of_k_diffusion_are_found_without_its_training():
    pytest.importorskip("torchdiffeq", reason="the samplers of k-diffusion import it")
    pytest.importorskip("torchsde", reason="the samplers of k-diffusion import it")
    if importlib.util.find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is not installed")
    for case in sampler_overhead.CASES:
        assert "k-diffusion" in case.baselines
        least = 3.0 if "dpmpp_2m " in case.name or "dpmpp_3m_sde" in case.name else 1.0
        assert case.goals == {"k-diffusion": least}
    assert len(sampler_overhead.CASES) == len(sampler_overhead.METHODS)


def test_the_noise_of_a_step_must_have_its_law():
    (case,) = [c for c in combination.CASES if c.name == "linear_combination/noisy 4x3x64x64"]
    inputs = case.make_inputs(case.shape, torch.float32, CPU)
    truth = case.reference(*inputs)
    for job in (case.ours, *case.baselines.values()):
        case.check(job(*inputs), truth)
    without, _ = truth
    noise = case.ours(*inputs).sum - without
    for wrong in (without, without + 1.05 * noise, without + noise.roll(1, 0)[:1]):
        with pytest.raises(AssertionError):
            case.check(wrong.float(), truth)
    with pytest.raises(AssertionError):
        case.check(combination.Noisy((without - noise).float()), truth)


@pytest.mark.parametrize("name", scheduler_overhead.NAMES)
def test_the_schedulers_of_diffusers_end_where_ours_do(name):
    pytest.importorskip("diffusers", reason="the rival of this benchmark")
    (case,) = [case for case in scheduler_overhead.CASES if f"/{name} " in case.name]
    sample, output = case.make_inputs(case.shape, torch.float32, CPU)
    truth = case.reference(sample, output)
    for job in (case.ours, *case.baselines.values()):
        case.check(job(sample, output), truth)
    for wrong in (case.ours(sample, 1.01 * output), truth + 0.01):
        with pytest.raises(AssertionError):
            case.check(wrong, truth)
