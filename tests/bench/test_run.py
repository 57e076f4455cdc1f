"""The command line end to end on a tiny case, with the floors of an imagined machine."""

from __future__ import annotations

import json

import pytest
import torch

from bench import floors, run
from bench.result import Result, duration, table
from bench.timing import Timing


@pytest.fixture(autouse=True)
def imagined_machine(monkeypatch, effort):
    measured = floors.Floors(bandwidth=1e9, gemm={"torch.float32": 1e9})
    monkeypatch.setattr(floors, "measure", lambda *_: measured)
    monkeypatch.setattr(run, "QUICK", effort)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_right_case_is_timed_printed_and_written(case, tmp_path, capsys):
    path = tmp_path / "new" / "out.json"
    assert run.main(["--quick", "--json", str(path)], [case()]) == 0
    printed = capsys.readouterr().out
    assert "scale/100" in printed
    assert "twice" in printed
    written = json.loads(path.read_text())
    assert {"device", "device_name", "threads", "commit", "versions", "floors"} <= set(written)
    (found,) = written["cases"]
    assert found["best_baseline"] == "twice"
    timings = found["timings"]
    assert found["ratio"] == timings["twice"]["median"] / timings["ours"]["median"]
    assert found["floor_fraction"] == pytest.approx(8e-7 / timings["ours"]["median"])
    assert timings["ours"]["p20"] <= timings["ours"]["median"] <= timings["ours"]["p80"]


def test_a_wrong_case_is_refused(case, tmp_path, capsys):
    calls = []

    def wrong(x, factor):
        calls.append(1)
        return x

    path = tmp_path / "out.json"
    cases = [case(ours=wrong), case(name="scale/right")]
    assert run.main(["--quick", "--json", str(path)], cases) == 1
    assert len(calls) == 1
    printed = capsys.readouterr().out
    assert "FAILED ours" in printed
    refused, right = json.loads(path.read_text())["cases"]
    assert refused["timings"] == {}
    assert refused["ratio"] is None
    assert right["failures"] == {}
    assert right["ratio"] > 0


def test_a_wrong_baseline_is_not_timed_and_fails_the_run(case, capsys):
    baselines = {"wrong": lambda x, factor: x, "right": torch.mul}
    assert run.main(["--quick"], [case(baselines=baselines)]) == 1
    printed = capsys.readouterr().out
    assert "FAILED wrong" in printed
    assert "right" in printed


def test_missed_goals_do_not_fail_the_run(case, capsys):
    assert run.main(["--quick"], [case(goal=1e9)]) == 0
    assert "1e+09x" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--device", "cuda"]])
def test_nothing_to_run(arguments, case, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main(arguments, [case()]) == 2
    assert "bench: no" in capsys.readouterr().err


def test_bad_threads(case):
    with pytest.raises(SystemExit):
        run.main(["--threads", "0"], [case()])


def test_automatic_place(case, monkeypatch, tmp_path):
    monkeypatch.setattr(run.machine, "ROOT", tmp_path)
    monkeypatch.setattr(run.machine, "commit", lambda: "abc123")
    monkeypatch.setattr(run.machine, "device_name", lambda device: "Some CPU (R) 7")
    assert run.main(["--quick", "--json", "auto"], [case()]) == 0
    (path,) = tmp_path.glob("bench/results/*/*.json")
    assert path.parent.name == "cpu-some-cpu-r-7"
    assert path.name.endswith("-abc123.json")


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
    given = case(baselines={"rival": min, "bound": max}, goals={"bound": 0.77}, goal=3.0)
    result = Result(given, {}, timings, floor_seconds=1e-6)
    assert result.best_baseline == "rival"
    assert result.ratio == pytest.approx(4.0)
    assert result.goal_met == met
    assert result.to_json()["bounds"] == {"bound": pytest.approx(bound / 2e-6)}
    rival, line = (row.split() for row in table([result]).splitlines()[1:])
    assert rival[-4:] == ["4.00x", "3x", "yes", "50%"]
    assert line[-4:] == ["bound", f"{bound / 2e-6:.2f}x", "0.77x", "yes" if met else "no"]


def test_the_share_outside_a_part_and_the_rate_of_evaluations(case):
    timings = {
        name: Timing(seconds, seconds, seconds, 9)
        for name, seconds in {"ours": 2e-3, "rival": 8e-3, "part": 1.5e-3}.items()
    }
    fields = {"baselines": {"rival": min, "part": max}, "goals": {"part": 0.9}}
    given = case(**fields, inner="part", evaluations=600)
    result = Result(given, {}, timings, floor_seconds=1e-3)
    assert table([result]).splitlines()[-1].strip() == (
        "25.0% of our time is outside 'part', 3e+05 evaluations/s"
    )
    written = result.to_json()
    assert written["share_outside"] == pytest.approx(0.25)
    assert written["evaluation_rate"] == pytest.approx(3e5)
    failed = Result(given, {"ours": "wrong"})
    assert (failed.share_outside, failed.evaluation_rate) == (None, None)
    without = Result(given, {"part": "wrong"}, {"ours": timings["ours"]})
    assert without.share_outside is None
    assert table([without]).count("evaluations/s") == 1


def test_a_slow_case_has_fewer_rounds(case, tmp_path):
    for rounds, taken in ((0, 3), (2, 2), (7, 3)):
        run.main(["--quick", "--json", str(tmp_path / "out.json")], [case(rounds=rounds)])
        (found,) = json.loads((tmp_path / "out.json").read_text())["cases"]
        assert found["timings"]["ours"]["rounds"] == taken


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (1.234e-3, "1.23 ms"), (5e-5, "50 us"), (7e-9, "7 ns")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
