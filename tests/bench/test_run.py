"""Test the command line end to end on a tiny case, with the floors of an imagined machine."""

from __future__ import annotations

import json

import pytest
import torch

from bench import run
from bench.harness import floors


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
    (result,) = written["cases"]
    assert result["best_baseline"] == "twice"
    timings = result["timings"]
    assert result["ratio"] == timings["twice"]["median"] / timings["ours"]["median"]
    assert result["floor_fraction"] == pytest.approx(8e-7 / timings["ours"]["median"])
    assert timings["ours"]["p20"] <= timings["ours"]["median"] <= timings["ours"]["p80"]


def test_a_wrong_case_is_refused(case, tmp_path, capsys):
    calls = []

    def wrong(x, factor):
        calls.append(1)
        return x

    path = tmp_path / "out.json"
    cases = [case(ours=wrong), case(name="scale/right")]
    assert run.main(["--quick", "--json", str(path)], cases) == 3
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
    assert run.main(["--quick"], [case(baselines=baselines)]) == 3
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


def test_a_slow_case_has_fewer_rounds(case, tmp_path):
    for rounds, expected in ((0, 3), (2, 2), (7, 3)):
        run.main(["--quick", "--json", str(tmp_path / "out.json")], [case(rounds=rounds)])
        (result,) = json.loads((tmp_path / "out.json").read_text())["cases"]
        assert result["timings"]["ours"]["rounds"] == expected


def test_every_case_is_written_as_soon_as_it_is_measured(case, tmp_path, monkeypatch):
    path, seen = tmp_path / "out.json", []
    real = run.run_case

    def watched(*arguments, **options):
        seen.append(len(json.loads(path.read_text())["cases"]) if path.exists() else 0)
        return real(*arguments, **options)

    monkeypatch.setattr(run, "run_case", watched)
    cases = [case(name=f"scale/{index}") for index in range(3)]
    assert run.main(["--quick", "--json", str(path)], cases) == 0
    assert seen == [0, 1, 2]


def test_no_case_is_started_beyond_the_budget(case, tmp_path, capsys):
    path = tmp_path / "out.json"
    cases = [case(name="scale/first"), case(name="scale/second")]
    assert run.main(["--quick", "--budget", "-1", "--json", str(path)], cases) == 0
    assert "no time was left for: scale/first; scale/second" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert (written["left_out"], written["cases"]) == (["scale/first", "scale/second"], [])


def test_a_case_that_cannot_be_made_fails_alone(case, tmp_path):
    def broken(shape, dtype, device):
        raise RuntimeError("out of memory")

    path = tmp_path / "out.json"
    cases = [case(make_inputs=broken), case(name="scale/right")]
    assert run.main(["--quick", "--json", str(path)], cases) == 3
    failed, right = json.loads(path.read_text())["cases"]
    assert failed["failures"] == {"the case itself": "RuntimeError: out of memory"}
    assert (failed["goal_met"], right["failures"]) == (False, {})


def test_memory_and_anatomy_are_told(case, tmp_path):
    run.main(["--quick", "--json", str(tmp_path / "out.json")], [case(direction="backward")])
    (result,) = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert set(result["peak_bytes"]) == {"ours", "twice"}
    assert result["anatomy"]["parts"][0]["name"] == "aten::mul"
    assert (result["direction"], result["timer"]) == ("backward", "clock")


def test_graphs_want_a_gpu(case):
    with pytest.raises(SystemExit):
        run.main(["--graphs"], [case()])


def test_a_case_that_cannot_be_measured_fails_alone(case, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(run.memory, "peak_of_call", broken)
    path = tmp_path / "out.json"
    assert run.main(["--quick", "--json", str(path)], [case()]) == 3
    (result,) = json.loads(path.read_text())["cases"]
    assert result["failures"] == {"the measurement": "RuntimeError: no memory left"}
    assert (result["ratio"], result["goal_met"]) == (None, False)


def test_what_comes_first_and_that_the_run_came_to_its_end(case, tmp_path, monkeypatch):
    path, ends = tmp_path / "out.json", []
    real = run.run_case

    def watched(current, *arguments, **options):
        ends.append((current.name, path.exists() and json.loads(path.read_text())["complete"]))
        return real(current, *arguments, **options)

    monkeypatch.setattr(run, "run_case", watched)
    cases = [case(name=name) for name in ("a/1", "b/1", "c/1", "d/1")]
    assert run.main(["--quick", "--first", "d/,b/", "--json", str(path)], cases) == 0
    assert ends == [("d/1", False), ("b/1", False), ("a/1", False), ("c/1", False)]
    assert json.loads(path.read_text())["complete"]
