"""Probes of random signs: those of one particle cancel the terms of neighbours in images."""

import pytest
import torch

from edmfast import smc
from edmfast.analytic import MixtureOfGaussians
from edmfast.ops import rng_state
from edmfast.smc.feynman_kac.signs import random_signs
from edmfast.smc.populations.local import Populations
from edmfast.targets import Tempered

ALL = Populations(0, "systematic")


def signs(count, level=0, shape=(3, 4, 6), populations=2, first=0, **options):
    x = torch.zeros(populations, 5, *shape)
    rng = rng_state(7, level, x.device)
    return random_signs(x, count, rng, Populations(first, "systematic"), **options)


def products(v, down, right):
    """Return the mean over the probes of v_i v_j for neighbours (down, right) apart, [P, N, C, ...]."""
    rows, columns = v.shape[-2] - down, v.shape[-1] - right
    return (v[..., :rows, :columns] * v[..., down:, right:]).mean(2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_they_are_signs_of_mean_zero(count):
    v = signs(count, shape=(3, 8, 8), populations=20)
    assert v.shape == (20, 5, count, 3, 8, 8)
    assert bool((v.abs() == 1).all())
    assert v.mean((0, 1, 3, 4, 5)).abs().max() < 0.03


def test_two_probes_cancel_direct_neighbours_and_four_diagonal_ones():
    assert not products(signs(2), 0, 1).any()
    assert not products(signs(2), 1, 0).any()
    assert products(signs(2), 1, 1).any()
    for down, right in ((0, 1), (1, 0), (1, 1)):
        assert not products(signs(4), down, right).any()
        assert not products(signs(8), down, right).any()
        assert products(signs(4, coloured=False), down, right).any()


def test_two_levels_with_one_probe_each_cancel_direct_neighbours():
    both = torch.cat([signs(1, level=6), signs(1, level=7)], 2)
    assert not products(both, 0, 1).any()
    assert not products(both, 1, 0).any()
    apart = torch.cat([signs(1, level=7), signs(1, level=8)], 2)
    assert products(apart, 0, 1).any()


def test_more_than_four_probes_take_several_draws():
    v = signs(8)
    assert not torch.equal(v[:, :, :4], v[:, :, 4:])


def test_a_single_axis_has_no_neighbours():
    flat = signs(2, shape=(24,))
    assert torch.equal(flat, signs(2, shape=(24,), coloured=False))


def test_a_population_has_its_signs_in_any_company():
    for count in (1, 3):
        assert torch.equal(signs(count)[1:], signs(count, populations=1, first=1))


@pytest.mark.parametrize(
    ("count", "least", "most"), [(1, 0.95, 1.05), (2, 0.2, 0.5), (4, 0.05, 0.2)]
)
def test_noise_of_an_image_whose_neighbours_are_alike(levels, count, least, most):
    """The traces of a Gaussian agree, so that all variance is noise; a flat state has independent probes."""
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    covariance = torch.exp(-torch.cdist(grid, grid).square() / 4) + 0.05 * torch.eye(16)
    target = Tempered(_Gaussian(MixtureOfGaussians(torch.zeros(1, 16), covariance[None])), 2.0)
    image, flat = (
        smc.sample(target, shape, levels(8), particles=4000, weights=smc.Reversal(count))
        .log_weight_sd.square()
        .sum()
        for shape in ((1, 4, 4), (16,))
    )
    assert least < float(image / flat) < most


class _Gaussian:
    """A denoiser that hides its exact trace."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x, sigma):
        return self.model.denoise(x, sigma)
