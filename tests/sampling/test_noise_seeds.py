"""Seeds in every form give one key for all samples or one for each, and wrong ones are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast._internal.seeds import as_seeds
from edmfast.sampling.noise import BrownianPath, Independent, noise_of_run

X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    "seed",
    [
        [1, 2**64 - 1, -(2**63)],
        (1, -1, 2**63),
        torch.tensor([1, -1, -(2**63)]),
        np.array([1, -1, -(2**63)]),
        [np.int64(1), torch.tensor(-1), -(2**63)],
    ],
)
def test_every_form_of_one_seed_a_sample_is_a_tensor(seed):
    seeds = as_seeds(seed, X)
    assert seeds.dtype == torch.int64
    assert seeds.tolist() == [1, -1, -(2**63)]


@pytest.mark.parametrize("seed", [7, np.uint64(7), torch.tensor(7), np.array(7)])
def test_one_seed_serves_all_samples(seed):
    assert as_seeds(seed, X).tolist() == [7]
    assert as_seeds(2**64 - 1, X).tolist() == [-1]


@pytest.mark.parametrize(
    ("seed", "error", "words"),
    [
        ([1, 2], ValueError, r"seed must be .* each of the 3 samples, got 2 seeds"),
        (torch.zeros(3, 1).long(), ValueError, r"seed must be .* 3 samples, got shape \[3, 1\]"),
        ([1, 2, 0.5], TypeError, r"seed\[2\] must be an integer"),
        ([1, 2, True], TypeError, r"seed\[2\]"),
        ([1, 2**64, 3], ValueError, r"seed\[1\] must fit 64 bits"),
        (torch.zeros(3), TypeError, r"seed\[0\] must be an integer"),
        ("123", TypeError, "seed must be an integer"),
        (0.5, TypeError, "seed must be an integer"),
    ],
)
def test_a_wrong_seed_is_named(seed, error, words):
    with pytest.raises(error, match=words):
        as_seeds(seed, X)


def test_samples_with_their_own_seeds_have_the_noise_of_runs_of_their_own():
    drawn = sampling.noise_sampler(X, seed=[4, 6, 4])
    alone = [sampling.noise_sampler(X[:1], seed=seed) for seed in (4, 6, 4)]
    for _ in range(2):
        assert torch.equal(drawn(2.0, 1.0), torch.cat([noise(2.0, 1.0) for noise in alone]))
    for first in (0, 9):
        single = sampling.noise_sampler(X[:1], seed=[4], first_sample=first)
        assert torch.equal(single(2.0, 1.0), sampling.noise_sampler(X[:1], seed=4)(2.0, 1.0))
    with pytest.raises(TypeError, match="seed must be an integer, or one for each sample"):
        sampling.noise_sampler(X, seed=None)


def test_a_run_takes_the_source_of_a_sampler_of_this_package():
    noise = sampling.noise_sampler(X, seed=5)
    noise(2.0, 1.0)
    source = noise_of_run(noise, X, calls=3)
    assert isinstance(source, Independent)
    assert source.nodes(0, 2.0, 1.0) == ((1,), (1.0,))
    # The run takes three draws, so a later run goes on after them.
    assert noise_of_run(noise, X, calls=1).nodes(0, 2.0, 1.0) == ((4,), (1.0,))
    path = sampling.BrownianTreeNoiseSampler(X, 0.1, 10.0, seed=[1, 2, 3])
    assert noise_of_run(path, X, calls=2) is path.source


def test_noise_is_independent_or_a_path_by_default():
    torch.manual_seed(2)
    drawn = int(torch.randint(2**63 - 1, ()))
    after = torch.get_rng_state()
    for path, kind in ((False, Independent), (True, BrownianPath)):
        torch.manual_seed(2)
        source = noise_of_run(None, X, path=path, calls=4)
        assert type(source) is kind
        assert source.seeds.tolist() == [drawn]
        assert torch.equal(torch.get_rng_state(), after)
        noise_of_run(None, X, path=path, calls=0)
        assert torch.equal(torch.get_rng_state(), after)
        assert noise_of_run(None, X, path=path, seed=[1, 2, 3], calls=4).seeds.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "noise",
    [
        sampling.noise_sampler(torch.zeros(4, 2), seed=1),
        sampling.BrownianTreeNoiseSampler(torch.zeros(4, 2), 0.1, 10.0, seed=1),
    ],
)
def test_a_sampler_for_other_states_is_refused(noise):
    with pytest.raises(ValueError, match=r"the noise must be floating \[3, 2\] on cpu like x"):
        noise_of_run(noise, X, calls=1)
    with pytest.raises(ValueError, match="give noise_sampler or seed, got both"):
        noise_of_run(noise, torch.zeros(4, 2), seed=3, calls=1)


def test_a_foreign_sampler_is_checked():
    noise = noise_of_run(lambda *_: torch.ones(3, 2, dtype=torch.float64), X, calls=1)
    assert torch.equal(noise(2.0, 1.0), torch.ones(3, 2))
    with pytest.raises(TypeError, match="the noise must be a tensor like x"):
        noise_of_run(lambda *_: 1.0, X, calls=1)(2.0, 1.0)
