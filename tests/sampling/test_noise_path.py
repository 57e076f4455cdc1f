"""The Brownian path has the exact moments of Brownian motion, and it is one path at every grid."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from edmfast import sampling
from edmfast.sampling.noise import BrownianPath, Independent
from edmfast.sampling.noise.brownian import increment, unit_normal
from edmfast.sampling.noise.octaves import place_of

STEP = 2.0**-18
"""The longest step of the grid, relative to the time."""


def on_grid(time):
    """Return the point of the grid next to a time."""
    power = 2.0 ** math.floor(math.log2(abs(time)))
    return round(time / power / STEP) * STEP * power


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
def test_increments_on_the_grid_have_the_exact_moments(sides):
    """All moments of Gaussian increments follow from their weights of independent normals."""
    for times in random_times(200, sides):
        a, b, c = map(on_grid, times)
        first, second, whole = increment(a, b), increment(b, c), increment(a, c)
        assert variance(first) == pytest.approx(b - a, rel=1e-12)
        assert variance(whole) == pytest.approx(c - a, rel=1e-12)
        assert abs(covariance(first, second)) < 1e-13 * (c - a)
        assert covariance(first, whole) == pytest.approx(b - a, rel=1e-10)


@pytest.mark.parametrize("sides", [(1,), (-1,), (1, -1)], ids=["positive", "negative", "both"])
def test_increments_add_up_and_have_nearly_exact_moments_at_all_times(sides):
    for a, b, c in random_times(200, sides):
        first, second, whole = increment(a, b), increment(b, c), increment(a, c)
        assert difference(total(first, second), whole) < 1e-13 * math.sqrt(c - a)
        assert difference(increment(b, a), {k: -weight for k, weight in first.items()}) == 0
        step = STEP * max(abs(a), abs(b), abs(c))
        assert b - a - step / 2 <= variance(first) <= b - a + 1e-12 * (c - a)
        assert 0 <= covariance(first, second) + 1e-12 * (c - a) <= step / 4 + 2e-12 * (c - a)


def test_draws_times_the_root_of_their_length_add_up():
    for a, b, c in random_times(200):
        parts = [
            dict(zip(names, (w * math.sqrt(end - start) for w in weights), strict=True))
            for start, end in ((a, b), (b, c), (a, c))
            for names, weights in [unit_normal(start, end)]
        ]
        assert difference(total(*parts[:2]), parts[2]) < 1e-12 * math.sqrt(c - a)


def test_overlapping_intervals_have_the_covariance_of_their_overlap():
    first, second = increment(0.25, 5.0), increment(1.75, 40.0)
    assert covariance(first, second) == pytest.approx(5.0 - 1.75, rel=1e-12)


def test_a_path_is_continuous_in_its_times():
    """A time that is rounded to float32 meets the same path, up to the slope of a step of the grid."""
    for a, _, c in random_times(100):
        near = a * (1 + 2.0**-24)
        moved = total(increment(a, c), {k: -weight for k, weight in increment(near, c).items()})
        assert variance(moved) <= 1.01 * (near - a) ** 2 / (STEP / 2 * a)


def test_places_are_exact():
    rng = random.Random(2)
    for time in [
        0.0,
        1.0,
        -3.0,
        2.0**-40,
        math.nextafter(4.0, 0.0),
        *(rng.expovariate(0.1) for _ in range(99)),
    ]:
        place = place_of(time)
        start = 2.0 ** (place.cell - 31) if place.cell else 0.0
        assert 0 <= place.steps < 2**18
        assert start + place.steps * place.spacing == abs(time)
        assert place.negative == (time < 0)
        assert place.spacing == 2.0**-18 * (start or 2.0**-30)


def test_values_of_octaves_are_single_normals():
    """Whole octaves have one node each, and a midpoint has the two of its Schauder functions."""
    assert sorted(increment(1.0, 4.0).values()) == [1.0, math.sqrt(2.0)]
    assert sorted(increment(1.0, 1.5).values()) == [0.5, 0.5]
    assert 30 < len(increment(0.9, 1.1)) <= 2 * 19 + 1


def test_nodes_are_distinct_and_fit_60_bits():
    positive, negative = increment(1e-12, 1e6), increment(-1e6, -1e-12)
    assert len({*positive, *negative}) == len(positive) + len(negative) > 120
    assert all(2**32 <= node < 2**60 for node in {*positive, *negative})
    assert all(2**59 <= node < 2**60 for node in increment(1.0, 1.0 + 1e-9))


def test_an_interval_within_a_step_has_a_normal_of_its_own():
    end = 1.0 + 1e-9
    forth, back = increment(1.0, end), increment(end, 1.0)
    assert variance(forth) == pytest.approx(end - 1.0, rel=1e-12)
    assert back == {node: -weight for node, weight in forth.items()}
    assert increment(1.0, 1.0 + 2e-9).keys() != forth.keys()


@pytest.mark.parametrize("steps", [0.5, 1.3, 3.7, 40.2, 63.0])
def test_draws_of_short_intervals_have_variance_one(steps):
    _, weights = unit_normal(1.0 + 0.4 * STEP, 1.0 + (0.4 + steps) * STEP)
    assert sum(w * w for w in weights) == pytest.approx(1.0, abs=1e-12)


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
        return sum(noise(a, b) * math.sqrt(a - b) for a, b in itertools.pairwise(levels))

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
    root = math.sqrt(first - last)
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
