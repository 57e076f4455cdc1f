"""The Brownian path has the exact moments of Brownian motion, and it is one path at every grid."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from edmfast import sampling
from edmfast.sampling.noise import BrownianPath, Independent
from edmfast.sampling.noise.brownian import increment
from edmfast.sampling.noise.octaves import nearest, time_of


def on_grid(time):
    return time_of(nearest(time))


def variance(weights):
    return sum(weight**2 for weight in weights.values())


def covariance(first, second):
    return sum(weight * second[node] for node, weight in first.items() if node in second)


def difference(first, second):
    return max(abs(first.get(k, 0.0) - second.get(k, 0.0)) for k in first.keys() | second.keys())


def total(first, second):
    return {k: first.get(k, 0.0) + second.get(k, 0.0) for k in first.keys() | second.keys()}


def random_times(count, sides=(1,)):
    rng = random.Random(1)
    times = [rng.choice(sides) * math.exp(rng.uniform(-7, 5)) for _ in range(3 * count)]
    return [sorted(times[i : i + 3]) for i in range(0, len(times), 3)]


@pytest.mark.parametrize("sides", [(1,), (-1,), (1, -1)], ids=["positive", "negative", "both"])
def test_increments_add_up_and_have_the_exact_moments(sides):
    """All moments of Gaussian increments follow from their weights of independent normals."""
    for a, b, c in random_times(200, sides):
        (first, u), (second, v), (whole, w) = increment(a, b), increment(b, c), increment(a, c)
        assert (u, v, w) == tuple(
            on_grid(end) - on_grid(start) for start, end in ((a, b), (b, c), (a, c))
        )
        assert variance(first) == pytest.approx(u, rel=1e-12)
        assert variance(whole) == pytest.approx(w, rel=1e-12)
        assert abs(covariance(first, second)) < 1e-13 * w
        assert covariance(first, whole) == pytest.approx(u, rel=1e-10)
        assert difference(total(first, second), whole) < 1e-13 * math.sqrt(w)
        assert difference(increment(b, a)[0], {k: -weight for k, weight in first.items()}) == 0


def test_overlapping_intervals_have_the_covariance_of_their_overlap():
    first, second = increment(0.3, 5.0)[0], increment(1.7, 40.0)[0]
    overlap = on_grid(5.0) - on_grid(1.7)
    assert covariance(first, second) == pytest.approx(overlap, rel=1e-12)


@pytest.mark.parametrize("time", [0.0, 1.0, 0.75, -3.0, 2.0**-40, 1 + 2.0**-16, 80.0])
def test_a_point_of_the_grid_is_its_own_time(time):
    assert on_grid(time) == time


def test_times_move_by_a_relative_amount_to_a_point_of_the_grid():
    rng = random.Random(2)
    for _ in range(500):
        time = math.exp(rng.uniform(-20, 20))
        assert abs(on_grid(time) - time) <= 2.0**-17 * time
        assert on_grid(on_grid(time)) == on_grid(time)
    below_an_octave = math.nextafter(4.0, 0.0)
    assert on_grid(below_an_octave) == 4.0


def test_values_of_octaves_are_single_normals():
    """Whole octaves have one node each, and a midpoint has the two of its Schauder functions."""
    assert sorted(increment(1.0, 4.0)[0].values()) == [1.0, math.sqrt(2.0)]
    assert sorted(increment(1.0, 1.5)[0].values()) == [0.5, 0.5]
    assert len(increment(0.9, 1.1)[0]) <= 2 * 17 + 1


def test_nodes_are_distinct_and_fit_60_bits():
    nodes = set(increment(1e-12, 1e6)[0]) | set(increment(-1e6, -1e-12)[0])
    assert len(nodes) == len(increment(1e-12, 1e6)[0]) + len(increment(-1e6, -1e-12)[0])
    assert all(2**32 <= node < 2**60 for node in nodes)
    assert all(2**59 <= node < 2**60 for node in increment(1.0, 1.0 + 1e-9)[0])


def test_an_interval_below_the_grid_has_a_normal_of_its_own():
    end = 1.0 + 1e-9
    forth, length = increment(1.0, end)
    back, _ = increment(end, 1.0)
    assert length == end - 1.0
    assert variance(forth) == pytest.approx(length, rel=1e-12)
    assert back == {node: -weight for node, weight in forth.items()}
    assert increment(1.0, 1.0 + 2e-9)[0].keys() != forth.keys()


def path(**options):
    return BrownianPath(torch.tensor([3]), **options)


def test_a_source_gives_unit_normals_of_the_interval_in_host_numbers():
    nodes, weights = path().nodes(0, 2.0, 1.0)
    assert (nodes, weights) == path().nodes(5, 2.0, 1.0)
    assert all(type(n) is int and type(w) is float for n, w in zip(nodes, weights, strict=True))
    assert sum(w * w for w in weights) == pytest.approx(1.0, abs=1e-12)
    assert path(sign=-1).nodes(0, 2.0, 1.0) == (nodes, tuple(-w for w in weights))
    assert path().nodes(0, 1.0, 2.0) == (nodes, tuple(-w for w in weights))
    squared = path(clock=lambda sigma: sigma**2)
    assert squared.nodes(0, 3.0, 1.0) == path().nodes(0, 9.0, 1.0)
    assert path().nodes(0, 1.0, 1.0)[1] == (1.0,)


def test_a_clock_must_be_finite():
    with pytest.raises(ValueError, match="sigma_to must have a finite time, got inf"):
        path(clock=lambda sigma: math.inf if sigma == 0 else sigma).nodes(0, 1.0, 0.0)


def test_independent_draws_have_one_node_each():
    source = Independent(torch.tensor([3]), first_call=2)
    assert [source.nodes(call, 2.0, 1.0) for call in (0, 1)] == [((2,), (1.0,)), ((3,), (1.0,))]


def brownian(x, **options):
    return sampling.BrownianTreeNoiseSampler(x, 0.01, 50.0, **options)


def test_draws_have_the_moments_of_the_path():
    """Estimate the covariances of four draws, of which two are disjoint and two are halves of one."""
    noise = brownian(torch.empty(5000, 4, dtype=torch.float64), seed=1)
    intervals = [(9.0, 4.0), (4.0, 0.5), (0.5, 0.02), (9.0, 0.02)]
    draws = torch.stack([noise(*interval).flatten() for interval in intervals])
    lengths = torch.tensor([start - end for start, end in intervals])
    expected = torch.eye(4)
    expected[3, :3] = expected[:3, 3] = (lengths[:3] / lengths[3]).sqrt()
    estimated = draws @ draws.T / draws.shape[1]
    # The estimates have standard errors of at most sqrt(2 / 20000).
    assert (estimated - expected).abs().max() < 5 * math.sqrt(2 / 20000)
    assert draws.mean(1).abs().max() < 5 / math.sqrt(20000)


def test_draws_of_three_grids_are_those_of_one_path():
    x = torch.empty(3, 5, dtype=torch.float64)

    def reached(steps):
        noise, levels = brownian(x, seed=4), torch.linspace(40.0, 0.5, steps + 1).tolist()
        return sum(
            noise(a, b) * math.sqrt(on_grid(a) - on_grid(b)) for a, b in itertools.pairwise(levels)
        )

    whole = reached(1)
    assert 2 < whole.std() < 15
    for steps in (10, 20, 40):
        torch.testing.assert_close(reached(steps), whole, rtol=0, atol=1e-12)


def test_batch_mates_are_independent_and_a_sample_depends_on_its_seed_alone():
    x = torch.empty(4, 6)
    seeds = [5, 9, 5, -(2**63)]
    drawn = brownian(x, seed=seeds)(3.0, 1.0)
    alone = [brownian(x[:1], seed=seed)(3.0, 1.0)[0] for seed in seeds]
    assert torch.equal(drawn, torch.stack(alone))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    together = brownian(x, seed=5)(3.0, 1.0)
    assert torch.equal(together[0], alone[0])
    assert not torch.equal(together[1], together[0])
    assert torch.equal(brownian(x[:2], seed=5)(3.0, 1.0), together[:2])


def test_a_tree_returns_increments_with_k_diffusions_signs():
    x = torch.empty(2, 3, dtype=torch.float64)
    tree = sampling.BatchedBrownianTree(x, 0.1, 10.0, seed=8, tol=1e-6, pool_size=24)
    torch.testing.assert_close(tree(1.0, 2.0) + tree(2.0, 8.0), tree(1.0, 8.0))
    assert torch.equal(tree(2.0, 1.0), -tree(1.0, 2.0))
    assert torch.equal(sampling.BatchedBrownianTree(x, 10.0, 0.1, seed=8)(1.0, 2.0), tree(2.0, 1.0))
    assert torch.equal(tree(1.0, 1.0), torch.zeros(2, 3).double())
    assert not tree.batched
    assert sampling.BatchedBrownianTree(x, 0.1, 10.0, seed=[8, 9]).batched
    noise = brownian(x, seed=8)
    torch.testing.assert_close(noise(8.0, 2.0), tree(8.0, 2.0) / math.sqrt(6.0))
    fallen = brownian(x, seed=8, transform=lambda sigma: sigma.log().neg())
    risen = brownian(x, seed=8, transform=lambda sigma: sigma.log())
    first, last = math.log(8.0), math.log(2.0)
    root = math.sqrt(on_grid(first) - on_grid(last))
    torch.testing.assert_close(risen(8.0, 2.0), tree(first, last) / root)
    negated = sampling.BatchedBrownianTree(x, 2.0, -2.0, seed=8)
    torch.testing.assert_close(fallen(8.0, 2.0), negated(-first, -last) / root)


def test_torch_seed_repeats_a_path_and_one_draw_is_taken():
    x = torch.empty(2, 3)
    torch.manual_seed(6)
    first, after = brownian(x)(2.0, 1.0), torch.get_rng_state()
    assert not torch.equal(brownian(x)(2.0, 1.0), first)
    torch.manual_seed(6)
    assert torch.equal(brownian(x[:1])(2.0, 1.0), first[:1])
    assert torch.equal(torch.get_rng_state(), after)
    with pytest.raises(TypeError, match=r"cache_depth.*, got w1"):
        sampling.BatchedBrownianTree(x, 0.0, 1.0, w1=x)
