"""Our noise samplers work in k-diffusion's functions, and those of k-diffusion in ours."""

from __future__ import annotations

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture
from tests.installed import k_diffusion

MODEL = GaussianMixture([[0.5, -1.0, 2.0], [-2.0, 1.0, 0.0]], [0.7, 0.4])
SIGMAS = sampling.get_sigmas_karras(8, 0.05, 10.0)
X = 10.0 * torch.randn(6, 3, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def kd():
    return k_diffusion("sampling")


def brownian(package, **options):
    return package.BrownianTreeNoiseSampler(X, SIGMAS[-2], SIGMAS[0], **options)


def both_ways(tree, reversed_tree):
    w = tree(torch.tensor(1.0), torch.tensor(3.0))
    assert torch.equal(tree(torch.tensor(3.0), torch.tensor(1.0)), -w)
    assert torch.equal(reversed_tree(torch.tensor(1.0), torch.tensor(3.0)), -w)
    assert w.shape == X.shape
    return tree.batched


@pytest.mark.parametrize("seed", [3, [3, 4, 5, 6, 7, 8]], ids=["one", "each"])
def test_trees_have_the_same_signs_and_attributes(kd, seed):
    low, high = torch.tensor(0.05), torch.tensor(10.0)
    answers = {
        both_ways(
            package.BatchedBrownianTree(X, low, high, seed=seed),
            package.BatchedBrownianTree(X, high, low, seed=seed),
        )
        for package in (kd, sampling)
    }
    assert answers == {isinstance(seed, list)}


@pytest.mark.parametrize("seed", [3, [3, 4, 5, 6, 7, 8]], ids=["one", "each"])
@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "euler_ancestral"])
def test_our_path_serves_k_diffusion(kd, name, seed):
    sample = getattr(kd, f"sample_{name}")
    x, sigmas = X.double(), SIGMAS.double()

    def path():
        return sampling.BrownianTreeNoiseSampler(x, sigmas[-2], sigmas[0], seed=seed)

    end, again = (sample(MODEL, x, sigmas, disable=True, noise_sampler=path()) for _ in range(2))
    assert torch.equal(end, again)
    ours = getattr(sampling, f"sample_{name}")(MODEL, x, sigmas, disable=True, noise_sampler=path())
    torch.testing.assert_close(ours, end, rtol=1e-12, atol=1e-12)


def test_independent_noise_serves_k_diffusion(kd):
    x, sigmas = X.double(), SIGMAS.double()
    runs = [
        package.sample_euler_ancestral(
            MODEL, x, sigmas, disable=True, noise_sampler=sampling.noise_sampler(x, seed=4)
        )
        for package in (kd, sampling)
    ]
    torch.testing.assert_close(*runs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"transform": lambda sigma: sigma.log()}])
def test_the_noise_of_k_diffusion_serves_our_samplers(kd, options):
    noises = [brownian(kd, seed=9, **options) for _ in range(2)]
    ours = sampling.sample_euler_ancestral(
        MODEL, X, SIGMAS, disable=True, noise_sampler=noises[0], eta=0.7
    )
    theirs = kd.sample_euler_ancestral(
        MODEL, X, SIGMAS, disable=True, noise_sampler=noises[1], eta=0.7
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    noise = kd.default_noise_sampler(X)
    assert sampling.sample_euler_ancestral(
        MODEL, X, SIGMAS, disable=True, noise_sampler=noise
    ).isfinite().all()  # fmt: skip
