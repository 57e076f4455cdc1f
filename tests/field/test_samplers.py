"""Test that problems publicly reported for the samplers of diffusion models do not occur here."""

from __future__ import annotations

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture

NAMES = ["sample_euler", "sample_heun", "sample_dpmpp_2m", "sample_euler_ancestral"]
MIXTURE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.6])
START = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 8


def run(name, sigmas, x=START, model=MIXTURE.denoise, **options):
    sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
    return getattr(sampling, name)(model, x, sigmas, disable=True, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_last_level_of_zero_gives_the_denoised_state(name):
    """diffusers 9007: a final sigma of 0 gave NaN. Here the last step ends at the denoised state."""
    seen = []
    x = run(name, [8.0, 2.0, 0.5, 0.0], callback=seen.append)
    assert torch.isfinite(x).all()
    torch.testing.assert_close(x, seen[-1]["denoised"])


@pytest.mark.parametrize("name", NAMES)
def test_one_step_is_one_call(name):
    """keras-cv 2373: sampling with a single step divided by zero. Here one level and 0 denoise once."""
    sigmas = sampling.get_sigmas_karras(1, 0.1, 8.0)
    assert sigmas.tolist() == [8.0, 0.0]
    torch.testing.assert_close(run(name, sigmas), MIXTURE.denoise(START, 8.0))
    edm = sampling.edm_sampler(lambda x, sigma: 0 * x, START, num_steps=1)
    assert not edm.any()


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", NAMES)
def test_as_many_steps_as_were_asked_for(name, steps):
    """InvokeAI 900: samplers made one step too many or too few. Here n levels are n steps and n callbacks."""
    calls, seen = [], []

    def model(x, sigma):
        calls.append(float(sigma[0]))
        return MIXTURE.denoise(x, sigma)

    sigmas = sampling.get_sigmas_karras(steps, 0.1, 8.0)
    assert len(sigmas) == steps + 1
    run(name, sigmas, model=model, callback=lambda info: seen.append(info["i"]))
    assert seen == list(range(steps))
    assert len(calls) == (2 * steps - 1 if name == "sample_heun" else steps)
    assert calls[0] == 8.0


@pytest.mark.parametrize("name", NAMES)
def test_a_repeated_last_level_changes_nothing(name):
    """diffusers 6477: a repeated last sigma gave NaN in multistep solvers. Here its step has no length, and every
    other repetition is an error.
    """
    torch.manual_seed(2)
    once = run(name, [8.0, 2.0, 0.0])
    torch.manual_seed(2)
    torch.testing.assert_close(run(name, [8.0, 2.0, 2.0, 0.0]), once, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match=r"sigmas\[1\]"):
        run(name, [8.0, 8.0, 2.0, 0.0])


@pytest.mark.parametrize("name", ["sample_euler", "sample_heun"])
def test_a_preview_does_not_change_the_samples(name):
    """stable-diffusion 50, InvokeAI 5985: a callback that made a picture changed the run. Here, as in
    k-diffusion, the slope is computed before the callback sees the denoised state.
    """
    sigmas = sampling.get_sigmas_karras(8, 0.1, 8.0)
    changed = run(name, sigmas, callback=lambda info: info["denoised"].clamp_(0, 1))
    assert torch.equal(changed, run(name, sigmas))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_may_be_painted_in_by_the_callback(name):
    """stable-diffusion 50 also lost what a callback wrote into x. Here the next step starts from it."""
    target = torch.tensor([0.25, -0.5], dtype=torch.float64)

    def paint(info):
        info["x"].copy_(target.expand_as(info["x"]))

    arguments = {"eta": 0.0} if "ancestral" in name else {}
    x = run(name, [8.0, 7.999999], callback=paint, **arguments)
    assert (x - target).abs().max() < 1e-4
    assert not torch.equal(START, target.expand_as(START))


@pytest.mark.parametrize("name", ["sample_euler", "sample_heun", "sample_dpmpp_2m"])
def test_rising_levels_invert_a_run(name):
    """diffusers 10748: rising sigmas inverted a run wrongly or not at all. Here they lead back to the samples."""
    levels = torch.logspace(-1, 0.9, 400, dtype=torch.float64)
    clean = START / 8
    noise = run(name, levels, clean)
    back = run(name, levels.flip(0), noise)
    assert (noise - clean).abs().max() > 0.5
    assert (back - clean).abs().max() < 0.1
