"""Generators use all 64 bits of a seed and pass small seeds on to torch as they are."""

import pytest
import torch

from edmfast._internal.generators import generator


def draw(seed):
    return torch.randn(4, generator=generator(seed))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_draw_what_torch_draws(seed):
    assert torch.equal(draw(seed), torch.randn(4, generator=torch.Generator().manual_seed(seed)))


def test_every_bit_of_a_seed_counts():
    seeds = [7 ^ (1 << bit) for bit in range(64)] + [7, -1, -2, -(2**63)]
    draws = {tuple(draw(seed).tolist()) for seed in seeds}
    assert len(draws) == len(seeds)


def test_a_negative_seed_is_the_same_64_bits():
    assert torch.equal(draw(-1), draw(2**64 - 1))
    assert not torch.equal(draw(-1), draw(2**32 - 1))
