"""Draws that keep the ends of intervals are those of single increments, with half of their normals."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture
from edmfast.sampling.engine.draws import draws_from_counters, node_table
from edmfast.sampling.noise import BrownianPath, draws_of
from edmfast.sampling.noise.brownian import COMMON_NODES
from edmfast.sampling.noise.carried import PathDraw, draws_along, pays

LEVELS = sampling.get_sigmas_karras(12, 0.03, 20.0)[:-1].double().tolist()
STEPS = [(0.5 + k, interval) for k, interval in enumerate(pairwise(LEVELS))]
# DPM-Solver++ (SDE) asks for two intervals from each level.
FROM_EACH = [
    (1.0, interval) for a, b in pairwise(LEVELS) for interval in ((a, (a * b) ** 0.5), (a, b))
]
BACK_AND_FORTH = [(1.0, (2.1, 0.7)), (2.0, (0.7, 2.1)), (1.0, (2.1, 2.1)), (1.0, (2.1, 4.0))]
X = torch.randn(3, 8, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def path(seed=(3, 4, 5), **options):
    return BrownianPath(torch.tensor(seed), **options)


@pytest.mark.parametrize(
    "requests", [STEPS, FROM_EACH, BACK_AND_FORTH], ids=["steps", "sde", "back"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_kept_ends_change_no_draw(requests, sign):
    kept = draws_along(path(sign=sign), requests)
    single = draws_from_counters(path(sign=sign), requests)
    for one, other in zip(kept, single, strict=True):
        expected = other.combined([X, X], (1.0, -0.5))
        assert (expected - 0.5 * X).std() > 0.2
        torch.testing.assert_close(one.combined([X, X], (1.0, -0.5)), expected, rtol=0, atol=1e-11)


def test_a_run_draws_every_end_once():
    drawn, whole = list(draws_along(path(), STEPS)), list(draws_from_counters(path(), STEPS))
    ends = {id(end): len(end.normals.nodes) for draw in drawn for end, _ in draw.ends}
    normals = sum(ends.values()) + sum(len(draw.rest.nodes) for draw in drawn)
    assert len(ends) == len(STEPS) - 1
    assert normals < 0.6 * sum(len(draw.nodes) for draw in whole)


def test_values_are_dropped_after_their_last_draw():
    draws = list(draws_along(path(), STEPS))
    ends = [end for draw in draws for end, _ in draw.ends]
    for k, draw in enumerate(draws):
        draw.combined([X], (1.0,))
        assert sum(end.value is not None for end in {id(end): end for end in ends}.values()) <= 1
        assert k == len(draws) - 1 or draw.ends[0][0].value is not None
    assert all(end.value is None for end in ends)


def test_a_combination_that_is_computed_again_has_the_same_bits():
    for draw in draws_along(path(), STEPS[:3]):
        first = draw.combined([X], (1.0,))
        assert torch.equal(draw.combined([X], (1.0,)), first)


def test_ends_fit_beside_eight_tensors():
    draws = zip(draws_along(path(), STEPS), draws_from_counters(path(), STEPS), strict=True)
    numbers = [0.5**k for k in range(8)]
    for one, other in draws:
        expected = other.combined([X] * 8, numbers)
        torch.testing.assert_close(one.combined([X] * 8, numbers), expected, rtol=0, atol=1e-11)


def test_tables_of_two_grids_have_equal_sizes_and_the_same_draws():
    """A compiled graph is chosen by the sizes of its draws."""
    grids = [sampling.get_sigmas_karras(9, low, 20.0)[:-1].tolist() for low in (0.02, 0.1)]
    requests = [[(1.5, interval) for interval in pairwise(levels)] for levels in grids]
    first, second = (node_table(path(), each, COMMON_NODES) for each in requests)
    assert first.sizes == second.sizes == [COMMON_NODES] * 8
    for filled, single in zip(
        first.draws(path()), draws_from_counters(path(), requests[0]), strict=True
    ):
        assert len(single.nodes) < COMMON_NODES
        assert torch.equal(filled.combined([X], (1.0,)), single.combined([X], (1.0,)))


def test_large_states_on_the_cpu_keep_ends_whatever_their_batch_is():
    assert pays(X)
    assert pays(X[:1].float())
    assert not pays(X.bfloat16())
    assert not pays(X[:, :, :100])
    assert isinstance(next(draws_of(path(), STEPS, X, X)), PathDraw)
    assert not isinstance(next(draws_of(path(), STEPS, X.half(), X)), PathDraw)


def test_a_sample_has_the_same_bits_in_every_batch():
    model = GaussianMixture([[0.0] * 1024], [0.5])
    x, sigmas = 20.0 * X.flatten(1), torch.tensor(LEVELS)

    def run(rows):
        return sampling.sample_dpmpp_2m_sde(model, x[rows], sigmas, disable=True, seed=6)

    assert torch.equal(run(slice(0, 1)), run(slice(0, 3))[:1])
