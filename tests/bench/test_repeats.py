"""Test that a case counts as slower where most of several full runs say so, for each number of threads."""

from __future__ import annotations

import json

import pytest

from bench.report import kinds, records, repeats


def run(ratios, threads=1, hour=1, **changes):
    """Return a run as bench.run writes it; a ratio of None is a failure."""
    cases = [
        {
            "name": name,
            "ratio": ratio,
            "best_baseline": None if ratio is None else "compile",
            "timings": {} if ratio is None else {"ours": {"median": 1.0 / ratio}},
            "anatomy": None,
            "bytes": 10**9,
            "flops": 0,
            "peak_bytes": {},
        }
        for name, ratio in ratios.items()
    ]
    header = {
        "device": "cpu",
        "device_name": "Some CPU",
        "threads": threads,
        "quick": False,
        "only": "",
        "left_out": [],
        "complete": True,
        "date": f"2026-01-02T0{hour}:00:00+00:00",
        "commit": "abc1234567",
        "versions": {"torch": "2.13.0"},
        "floors": {"bandwidth": 1e9, "gemm": {}},
    }
    return header | {"cases": cases} | changes


def slower(*runs):
    return {
        case["name"]: found
        for case in repeats.together(runs)["cases"]
        if (found := repeats.slower(case))
    }


def test_two_of_three_runs_decide():
    runs = [
        run({"a": 0.9, "b": 0.9, "c": 1.0}),
        run({"a": 0.8, "b": 1.1, "c": 1.0}),
        run({"a": 1.2, "b": 1.2, "c": 1.0}),
    ]
    assert slower(*runs) == {"a": {"1": 0.9}}


def test_numbers_of_threads_are_judged_apart():
    ones = [run({"a": ratio}) for ratio in (1.1, 1.1, 1.1)]
    twos = [run({"a": ratio}, threads=2) for ratio in (0.9, 0.7, 0.8)]
    assert slower(*ones, *twos) == {"a": {"2": 0.8}}
    (row,) = repeats.lines(repeats.together([*ones, *twos]))
    assert row[:2] == ("a", "2 threads: 0.90, 0.70, 0.80 (compile)")
    assert "70% of the copy bandwidth" in row[2]


def test_a_failed_case_is_slower():
    assert slower(run({"a": None})) == {"a": {"1": 0.0}}
    assert repeats.lines(repeats.together([run({"a": None})]))[0][1] == "1 thread: failed ()"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"commit": "ffffffffff"}, "differ in commit"),
        ({"device_name": "Another CPU"}, "differ in device_name"),
        ({"quick": True}, "is quick"),
        ({"only": "a"}, "without some of the cases"),
        ({"left_out": ["b"]}, "without some of the cases"),
        ({"complete": False}, "unfinished"),
    ],
)
def test_runs_that_cannot_stand_beside_each_other(changes, why):
    with pytest.raises(ValueError, match=why):
        repeats.together([run({"a": 1.0}), run({"a": 1.0}, **changes)])


def test_filed_and_shown(tmp_path, capsys):
    paths = []
    for hour in (1, 2):
        paths.append(tmp_path / f"{hour}.json")
        paths[-1].write_text(json.dumps(run({"a": 0.5, "b": 2.0}, hour=hour)))
    results = tmp_path / "results"
    assert repeats.main([*map(str, paths), "--json", str(results)]) == 1
    assert "1 of 2 cases are slower" in capsys.readouterr().out
    (record,) = records.load(results)
    assert (record.kind, record.device) == ("repeats", "cpu-some-cpu")
    shown = kinds.repeats(record, [])
    assert "Full runs of one commit: 2 on 1 thread. 1 of 2 cases" in shown
    assert "| a | 1 thread: 0.50, 0.50 (compile) | not known |" in shown
    paths[1].write_text(json.dumps(run({"a": 1.5}, quick=True)))
    with pytest.raises(SystemExit) as refused:
        repeats.main([str(path) for path in paths])
    assert refused.value.code == 2
