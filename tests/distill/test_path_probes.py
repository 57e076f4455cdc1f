"""The probes of a path are signs whose products cancel between levels, those of neighbours first."""

from __future__ import annotations

import pytest
import torch

from edmfast.distill.path_probes import PathProbes, interleaved_numbers


def probes_of(shape, seed=0):
    return PathProbes(torch.zeros(200, *shape), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1,), (11,), (3, 5), (2, 6, 4)])
def test_a_whole_period_gives_the_trace_exactly(shape):
    probes = probes_of(shape)
    signs = torch.stack([probes(index) for index in range(probes.period)]).flatten(2)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    products = torch.einsum("kni,knj->nij", signs, signs) / probes.period
    size = signs.shape[2]
    torch.testing.assert_close(products, torch.eye(size).expand(200, size, size))
    assert torch.equal(probes(1), probes(1 + probes.period))
    # one probe alone is a fair draw of independent signs
    assert signs[0].mean(0).abs().max() < 0.3
    assert not torch.equal(probes_of(shape, seed=1)(0), probes(0))


def test_a_period_is_not_longer_than_needed():
    assert probes_of((11,)).period == 16
    assert probes_of((3, 8, 8)).period == 256
    assert probes_of((1, 8, 8)).period == 64


def test_numbers_differ_and_interleave_the_axes():
    numbers = interleaved_numbers(torch.Size([3, 5, 4]))
    assert len(numbers.unique()) == 60
    assert interleaved_numbers(torch.Size([1, 2, 4])).tolist() == [[[0, 2, 4, 6], [1, 3, 5, 7]]]


def test_neighbours_in_an_image_cancel_within_four_probes():
    probes = probes_of((8, 8))
    signs = torch.stack([probes(index) for index in range(4, 8)])
    for axis in (2, 3):
        first, second = signs.narrow(axis, 0, 7), signs.narrow(axis, 1, 7)
        assert (first * second).sum(0).abs().max() == 0


def test_elements_of_one_axis_are_numbered_at_random():
    first, second = probes_of((64,)).numbers, probes_of((64,), seed=1).numbers
    assert sorted(first.tolist()) == list(range(64))
    assert not torch.equal(first, second)
