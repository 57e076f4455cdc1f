"""Test that rounds interleave, inputs rotate and statistics are per call. No test looks at a speed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from bench.harness import inputs, timing


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that only the timed functions advance."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    stopped = Clock()
    monkeypatch.setattr(timing, "time", stopped)
    return stopped


def test_rounds_interleave_and_every_copy_is_warmed_and_rotated(clock, effort):
    log = []

    def logging(name, seconds):
        def call(copy):
            log.append((name, copy))
            clock.now += seconds

        return call

    implementations = {"a": logging("a", 0.1), "b": logging("b", 0.2)}
    copies = [(0,), (1,)]
    timings = timing.time_side_by_side(implementations, copies, torch.device("cpu"), effort)
    assert (timings["a"].median, timings["a"].rounds) == (pytest.approx(0.1), 3)
    assert timings["b"].median == pytest.approx(0.2)
    warm = [("a", 0), ("a", 1), ("a", 0), ("b", 0), ("b", 1), ("b", 0)]
    rounds = ["a", "b", "b", "a", "a", "b"]
    assert log[:6] == warm
    assert [name for name, _ in log[6:]] == rounds
    assert [copy for name, copy in log[6:] if name == "a"] == [1, 0, 1]


def test_short_calls_are_grouped_and_percentiles_are_per_call(clock):
    durations = itertools.chain([1e-3] * 9, itertools.cycle([2e-3]))

    def call():
        clock.now += next(durations)

    effort = timing.Effort(seconds=0.0, rounds=2, sample_seconds=4e-3)
    measured = timing.time_side_by_side({"ours": call}, [()], torch.device("cpu"), effort)["ours"]
    # A warm-up, a probe and four calls that fill a sample leave three calls at 1 ms.
    assert measured.rounds == 2
    assert measured.median == pytest.approx(((3 * 1e-3 + 2e-3) / 4 + 2e-3) / 2)
    assert measured.p20 < measured.median < measured.p80


def test_long_calls_need_no_warming_and_end_at_the_limit(clock):
    calls = []

    def call(copy):
        calls.append(copy)
        clock.now += 2.0

    copies = [(0,), (1,), (2,)]
    for limit, rounds in ((100.0, 15), (7.0, 5), (1.0, timing.FEWEST)):
        calls.clear()
        effort = timing.Effort(seconds=0.0, rounds=15, limit=limit)
        timings = timing.time_side_by_side({"ours": call}, copies, torch.device("cpu"), effort)
        assert timings["ours"].rounds == len(calls) == rounds


def test_garbage_collection_is_restored(effort):
    import gc

    def fails():
        raise RuntimeError

    calls = iter([lambda: None] * 2)
    with pytest.raises(RuntimeError):
        timing.time_side_by_side(
            {"ours": lambda: next(calls, fails)()}, [()], torch.device("cpu"), effort
        )
    assert gc.isenabled()


@pytest.mark.parametrize(("cache", "copies"), [(10**9, 1), (3200, 1), (3199, 8), (900, 4), (10, 2)])
def test_copies_exceed_the_cache_or_stay_alone(cache, copies):
    original = (torch.ones(100), 7)
    rotated = inputs.rotation(original, cache)
    assert len(rotated) == copies
    pointers = {copy[0].data_ptr() for copy in rotated}
    assert len(pointers) == copies
    assert all(torch.equal(copy[0], original[0]) and copy[1] == 7 for copy in rotated)


def test_unchanged_sees_one_element_and_takes_nan_for_nan():
    tree = {"x": torch.tensor([1.0, math.nan]), "i": [torch.tensor([2])]}
    before = inputs.copy(tree)
    assert inputs.unchanged(tree, before)
    tree["i"][0][0] = 3
    assert not inputs.unchanged(tree, before)
    assert inputs.size_in_bytes(tree) == 16


class FakeGraph:
    """A stand-in for a graph whose replay does the job again."""

    def __init__(self, job, inputs):
        self.job, self.inputs = job, inputs

    def replay(self):
        self.job(*self.inputs)


def test_graphs_are_replayed_one_for_each_copy(monkeypatch):
    log = []
    jobs = {"a": lambda x: log.append(("a", x)), "b": lambda x: log.append(("b", x))}
    monkeypatch.setattr(timing, "_graph", lambda job, inputs: (FakeGraph(job, inputs), None))
    replays, numbers = timing.captured(jobs, [(10,), (20,)])
    assert numbers == [(0,), (1,)]
    for name in ("b", "a"):
        for number in numbers:
            replays[name](*number)
    assert log == [("b", 10), ("b", 20), ("a", 10), ("a", 20)]


def test_no_graphs_where_one_job_cannot_be_captured(monkeypatch):
    def capture(job, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(timing, "_graph", capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert timing.captured({"a": min}, [(1,)]) is None
