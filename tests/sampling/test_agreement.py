"""Every sampler reproduces the trajectories of the public projects: values, model calls, callbacks."""

from __future__ import annotations

import pytest
import torch

from edmfast import sampling

CHURN = {"s_churn": 10, "s_tmin": 0.05, "s_tmax": 10, "s_noise": 1.007}
EDM_CHURN = {"S_churn": 20, "S_min": 0.05, "S_max": 10, "S_noise": 1.007}
K_DIFFUSION = [
    ("sample_euler", "", {}),
    ("sample_heun", "", {}),
    ("sample_dpmpp_2m", "", {}),
    ("sample_euler_ancestral", "", {}),
    ("sample_euler_ancestral", "_eta05", {"eta": 0.5, "s_noise": 1.003}),
    ("sample_euler", "_churn", CHURN),
    ("sample_heun", "_churn", CHURN),
    ("sample_dpm_2", "", {}),
    ("sample_dpm_2", "_churn", CHURN),
    ("sample_lms", "", {}),
    ("sample_lms", "_order2", {"order": 2}),
    ("sample_dpm_2_ancestral", "", {}),
    ("sample_dpmpp_2s_ancestral", "", {}),
    ("sample_dpmpp_2s_ancestral", "_eta0", {"eta": 0.0}),
    ("sample_dpmpp_sde", "", {}),
    ("sample_dpmpp_2m_sde", "", {}),
    ("sample_dpmpp_2m_sde", "_eta0", {"eta": 0.0}),
    ("sample_dpmpp_2m_sde", "_heun_eta0", {"eta": 0.0, "solver_type": "heun"}),
    ("sample_dpmpp_3m_sde", "", {}),
    ("sample_dpmpp_3m_sde", "_eta0", {"eta": 0.0}),
]


def test_every_stored_trajectory_has_a_test(stored):
    tested = {f"kd_{name}{variant}" for name, variant, _ in K_DIFFUSION}
    tested |= {"kd_sample_dpm_fast", "kd_sample_dpm_adaptive"}
    keys = {key.removesuffix("_denoised_last") for key in stored.arrays if key.startswith("kd_")}
    assert tested == keys


def assert_agrees(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("name", "variant", "arguments"), K_DIFFUSION)
def test_k_diffusion_trajectory(stored, denoiser, name, variant, arguments):
    if "ancestral" in name or "sde" in name:
        arguments = arguments | {"noise_sampler": stored.noise_by_call()}
    if "churn" in variant:
        arguments = arguments | {"noise_sampler": stored.noise_by_step()}
    seen = []
    x = getattr(sampling, name)(
        denoiser,
        stored.start(),
        stored["sigmas_karras"],
        callback=seen.append,
        disable=True,
        **arguments,
    )
    key = f"kd_{name}{variant}"
    assert_agrees(x, stored[key])
    assert_agrees(seen[-1]["denoised"], stored[f"{key}_denoised_last"])
    counts = stored.meta[key]
    assert (len(denoiser.sigmas), len(seen)) == (counts["nfe"], counts["callbacks"])
    assert [step["i"] for step in seen] == list(range(len(seen)))
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}
    gamma = min(arguments.get("s_churn", 0) / 18, 2**0.5 - 1)
    for step in seen:
        churned = 0.05 <= step["sigma"] <= 10
        torch.testing.assert_close(step["sigma_hat"], step["sigma"] * (1 + gamma if churned else 1))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("sample_dpm_fast", {"n": 18}), ("sample_dpm_adaptive", {"return_info": True})],
)
def test_k_diffusion_trajectory_over_a_range(stored, denoiser, name, arguments):
    meta = stored.meta
    result = getattr(sampling, name)(
        denoiser,
        stored.start(),
        meta["sigma_min"],
        meta["sigma_max"],
        disable=True,
        **arguments,
    )
    x, info = result if name == "sample_dpm_adaptive" else (result, {"nfe": 18})
    assert_agrees(x, stored[f"kd_{name}"])
    assert len(denoiser.sigmas) == meta[f"kd_{name}"]["nfe"] == info["nfe"]


@pytest.mark.parametrize(("key", "churn"), [("edm_sampler", {}), ("edm_sampler_churn", EDM_CHURN)])
def test_edm_trajectory(stored, denoiser, key, churn):
    meta = stored.meta
    x = sampling.edm_sampler(
        denoiser,
        stored["z"],
        randn_like=stored.noise_by_call(),
        num_steps=meta["n"],
        sigma_min=meta["sigma_min"],
        sigma_max=meta["sigma_max"],
        **churn,
    )
    assert_agrees(x, stored[key])
    assert len(denoiser.sigmas) == meta["edm_sampler"]["nfe"]


def test_edm2_trajectory(stored, denoiser):
    meta = stored.meta
    x = sampling.edm2_sampler(
        denoiser,
        stored["z"],
        num_steps=meta["n"],
        sigma_min=meta["sigma_min"],
        sigma_max=meta["sigma_max"],
        dtype=torch.float64,
        randn_like=stored.noise_by_call(),
        **EDM_CHURN,
    )
    assert_agrees(x, stored["edm2_sampler_churn"])
    assert len(denoiser.sigmas) == 2 * meta["n"] - 1
