"""Test the ratios, the goals and the lines of the table on timings written by hand."""

from __future__ import annotations

import pytest

from bench.harness.result import Result
from bench.harness.table import duration, memory, table
from bench.harness.timing import Timing
from bench.report import reasons


def test_numbers_of_a_result(case):
    timings = {
        "ours": Timing(2e-6, 1e-6, 3e-6, 9),
        "slow": Timing(9e-6, 9e-6, 9e-6, 9),
        "fast": Timing(5e-6, 5e-6, 5e-6, 9),
    }
    result = Result(case(goal=3.0), {}, timings, floor_seconds=8e-7)
    assert result.best_baseline == "fast"
    assert result.ratio == pytest.approx(2.5)
    assert result.floor_fraction == pytest.approx(0.4)
    row = table([result]).splitlines()[1].split("  ")
    cells = [cell.strip() for cell in row if cell.strip()]
    assert cells == [
        *["scale/100", "2 us (1 us - 3 us)", "5 us (5 us - 5 us)", "fast"],
        *["2.50x", "3x", "no", "40%"],
    ]


@pytest.mark.parametrize(("bound", "met"), [(1.9e-6, True), (1.1e-6, False)])
def test_a_bound_has_its_own_goal_and_line(case, bound, met):
    timings = {
        name: Timing(seconds, seconds, seconds, 9)
        for name, seconds in {"ours": 2e-6, "rival": 8e-6, "bound": bound}.items()
    }
    bounded = case(
        baselines={"rival": min, "bound": max}, goals={"bound": 0.77}, bounds=("bound",), goal=3.0
    )
    result = Result(bounded, {}, timings, floor_seconds=1e-6)
    assert result.best_baseline == "rival"
    assert result.ratio == pytest.approx(4.0)
    assert result.goal_met == met
    assert result.to_json()["bounds"] == {"bound": pytest.approx(bound / 2e-6)}
    rival, line = (row.split() for row in table([result]).splitlines()[1:-1])
    assert rival[-4:] == ["4.00x", "3x", "yes", "50%"]
    assert line[-4:] == ["bound", f"{bound / 2e-6:.2f}x", "0.77x", "yes" if met else "no"]


def test_the_share_outside_a_part_and_the_rate_of_evaluations(case):
    timings = {
        name: Timing(seconds, seconds, seconds, 9)
        for name, seconds in {"ours": 2e-3, "rival": 8e-3, "part": 1.5e-3}.items()
    }
    fields = {"baselines": {"rival": min, "part": max}, "goals": {"part": 0.9}}
    whole = case(**fields, inner="part", evaluations=600)
    result = Result(whole, {}, timings, floor_seconds=1e-3)
    assert table([result]).splitlines()[-2].strip() == (
        "25.0% of our time is outside 'part', 3e+05 evaluations/s"
    )
    written = result.to_json()
    assert written["share_outside"] == pytest.approx(0.25)
    assert written["evaluation_rate"] == pytest.approx(3e5)
    failed = Result(whole, {"ours": "wrong"})
    assert (failed.share_outside, failed.evaluation_rate) == (None, None)
    without = Result(whole, {"part": "wrong"}, {"ours": timings["ours"]})
    assert without.share_outside is None
    assert table([without]).count("evaluations/s") == 1


@pytest.mark.parametrize(("peak", "met"), [(300, True), (200, False), (None, True)])
def test_a_goal_of_memory(case, peak, met):
    timings = {name: Timing(1e-3, 1e-3, 1e-3, 9) for name in ("ours", "twice")}
    small = case(baselines={"twice": min}, memory_goals={"twice": 1.5}, goal=1.0)
    result = Result(small, {}, timings, 0.0, peaks={"ours": 200, "twice": peak})
    assert result.goal_met == met
    written = result.to_json()
    assert written["memory_ratios"] == ({} if peak is None else {"twice": peak / 200})
    missed = [] if met else ["1.00x less memory than twice (goal 1.5x)"]
    assert reasons.missed(written) == missed


@pytest.mark.parametrize(("device", "met"), [("cpu", True), ("cuda", False)])
def test_a_goal_against_the_floor_belongs_to_a_device(case, device, met):
    timings = {name: Timing(1e-3, 1e-3, 1e-3, 9) for name in ("ours", "twice")}
    with_floor_goal = case(floor_goals={"cuda": 0.85})
    result = Result(with_floor_goal, {}, timings, floor_seconds=8e-4, device=device)
    assert result.goal_met == met
    lines = table([result]).splitlines()
    assert any(line.split() == ["the", "floor", "80%", "85%", "no"] for line in lines) != met
    assert lines[-1] == f"goals: {met:d} met, {not met:d} missed{'' if met else ': scale/100'}"


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (1.234e-3, "1.23 ms"), (5e-5, "50 us"), (7e-9, "7 ns")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, ""), (3, "3 B"), (4096, "4.1 kB"), (25e6, "25 MB"), (3e9, "3 GB")]
)
def test_memory(size, text):
    assert memory(size) == text


def test_a_job_without_a_floor_has_no_part_of_it(case):
    timings = {name: Timing(2e-6, 1e-6, 3e-6, 9) for name in ("ours", "twice")}
    result = Result(case(bytes=0), {}, timings)
    assert result.floor_fraction is None
    assert result.goal_met
    assert "%" not in table([result])
