"""Genealogies agree with a walk in plain Python, on small random trees."""

import dataclasses

import pytest
import torch

from edmfast import smc
from edmfast.smc.particles.genealogy import descendants, lineage, lineages, unique_trace

T, P, N = 7, 3, 9


@pytest.fixture(params=[True, False], ids=["last level kept", "last level resampled"])
def ancestors(request):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, N, (T, P, N), generator=generator, dtype=torch.int32)
    drawn[2, 1] = torch.arange(N)  # one population was not resampled at this level
    if request.param:
        drawn[-1] = torch.arange(N)
    return drawn


def walk(ancestors, p, i):
    """Return the indices at levels 0, ..., T-1 of the ancestor of final particle i."""
    path = []
    for t in reversed(range(T)):
        i = int(ancestors[t, p, i])
        path.append(i)
    return path[::-1]


def test_lineages_are_walks(ancestors):
    tree = lineages(ancestors)
    assert tree.dtype == torch.int64
    for p in range(P):
        for i in range(N):
            assert tree[:, p, i].tolist() == walk(ancestors, p, i)
            assert lineage(ancestors, p, i).tolist() == walk(ancestors, p, i)


def test_descendants_invert_lineages(ancestors):
    for p in range(P):
        for t in range(T):
            for j in range(N):
                expected = [i for i in range(N) if walk(ancestors, p, i)[t] == j]
                assert descendants(ancestors, t, p, j).tolist() == expected


def test_counts_of_distinct_ancestors(ancestors):
    trace = unique_trace(ancestors)
    for p in range(P):
        for t in range(T):
            assert int(trace[t, p]) == len({walk(ancestors, p, i)[t] for i in range(N)})


@pytest.mark.parametrize("resampling", ["systematic", "multinomial", "killing", "select"])
def test_a_run_records_its_genealogy(cold, levels, resampling):
    options = {"particles": N, "populations": P, "ess_threshold": 0.9, "resampling": resampling}
    run = smc.sample(
        cold,
        (2,),
        levels(T - 1),
        options=smc.RunOptions(genealogy=True),
        proposal="ancestral",
        **options,
    )
    kept = torch.arange(N).expand(T, P, N)
    assert torch.equal((run.ancestors == kept).all(2) | run.resampled, torch.ones(T, P).bool())
    assert run.resampled.any(0).all()
    for p in range(P):
        roots = list(range(N))
        for t in range(T):
            roots = [roots[int(run.ancestors[t, p, i])] for i in range(N)]
            assert int(run.survivors[t, p]) == len(set(roots))
    assert torch.equal(run.unique_trace()[0], run.survivors[-1])
    assert torch.equal(run.unique_trace()[0], run.unique_ancestors)
    assert torch.equal(run.unique_trace()[-1], torch.full((P,), N))


@pytest.fixture
def result(cold, levels):
    return smc.sample(cold, (2,), levels(6), particles=N, populations=P)


def test_a_result_with_recorded_ancestors(result, tmp_path, ancestors):
    recorded = dataclasses.replace(result, ancestors=ancestors)
    assert torch.equal(recorded.lineage(2, 5), lineage(ancestors, 2, 5))
    assert torch.equal(recorded.tree(), lineages(ancestors))
    assert torch.equal(recorded.descendants(3, 0, 1), descendants(ancestors, 3, 0, 1))
    assert torch.equal(recorded.unique_trace(), unique_trace(ancestors))
    for bad in ({"population": P}, {"particle": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be in 0"):
            recorded.lineage(**({"population": 0, "particle": 0} | bad))
    with pytest.raises(ValueError, match=r"level must be in 0\.\.6, got 7"):
        recorded.descendants(T, 0, 0)
    recorded.save(tmp_path / "p")
    back = smc.Particles.load(tmp_path / "p")
    assert torch.equal(back.ancestors, ancestors)
    assert back.ancestors.dtype == torch.int32
    assert recorded.plot(tmp_path / "p.png") is not None


def test_a_result_without_recorded_ancestors(result, tmp_path):
    assert result.ancestors is None
    for method in (
        lambda: result.lineage(0, 0),
        lambda: result.tree(),
        lambda: result.descendants(0, 0, 0),
        lambda: result.unique_trace(),
    ):
        with pytest.raises(ValueError, match=r"pass options=smc.RunOptions\(genealogy=True\)"):
            method()
    result.save(tmp_path / "p")
    back = smc.Particles.load(tmp_path / "p")
    assert back.ancestors is None
    assert torch.equal(back.x, result.x)
