"""Test `pytest bench/` on tiny cases: it gates, then times, and writes a file that bench.compare reads."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch

from bench import test_cases
from bench.harness import gate, machine, registry
from bench.report import measured

ROOT = Path(__file__).parents[2]
FEW = ("--benchmark-max-time=0.002", "--benchmark-min-rounds=4")


@pytest.fixture
def suite(monkeypatch, capsys):
    """Return a function that runs pytest on cases and returns its exit code, outcomes by test and output."""

    class Outcomes(dict):
        def pytest_runtest_logreport(self, report):
            if report.when == "call":
                self[report.nodeid.split("[", 1)[1].rstrip("]")] = report.outcome

    def run(cases, *options):
        monkeypatch.setattr(registry, "load", lambda: cases)
        # pytest-benchmark times nothing in a process of pytest-xdist; these runs are not shared
        monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
        seen = Outcomes()
        arguments = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "--capture=no"]
        code = pytest.main([*arguments, str(ROOT / "bench"), *options], plugins=[seen])
        printed = capsys.readouterr()
        return int(code), dict(seen), printed.out + printed.err

    return run


def counted(calls, name, f):
    def call(*inputs):
        calls.append((name, inputs[0].data_ptr(), torch.get_num_threads()))
        return f(*inputs)

    return call


def test_right_implementations_are_timed_and_wrong_ones_are_not(suite, case, tmp_path):
    calls, made = [], []

    def make_inputs(shape, dtype, device):
        made.append(shape)
        return torch.linspace(-1, 1, *shape, dtype=dtype, device=device), 2.0

    def wrong(x, factor):
        return x

    bound = {"twice": torch.mul, "part": torch.mul, "wrong": counted(calls, "other", wrong)}
    cases = [
        case(
            name="a/1",
            make_inputs=make_inputs,
            baselines=bound,
            goals={"part": 1e-9},
            bounds=("part",),
            flops=7,
        ),
        case(
            name="b/1",
            make_inputs=make_inputs,
            ours=counted(calls, "ours", wrong),
            baselines={"right": counted(calls, "right", torch.mul)},
        ),
    ]
    path = tmp_path / "out.json"
    code, outcomes, printed = suite(cases, *FEW, f"--benchmark-json={path}")
    assert code == 1
    passed = dict.fromkeys(["a/1-ours", "a/1-twice", "a/1-part"], "passed")
    assert outcomes == passed | {
        "a/1-wrong": "failed",
        "b/1-ours": "failed",
        "b/1-right": "skipped",
    }
    assert "wrong: AssertionError: Tensor-likes are not close!" in printed
    assert "benchmark 'a/1': 3 tests" in printed
    assert made == [(100,)] * 2
    # Only the gate has called the implementations that are not timed.
    assert sorted(name for name, *_ in calls) == ["other", "ours", "right"]
    tests = json.loads(path.read_text())["benchmarks"]
    assert {test["group"] for test in tests} == {"a/1"}
    about = next(test for test in tests if test["params"]["implementation"] == "ours")["extra_info"]
    assert about.items() >= {"bytes": 800, "flops": 7, "goal": 1.0, "threads": 1}.items()
    assert (
        about.items() >= {"direction": "forward", "device": "cpu", "goals": {"part": 1e-9}}.items()
    )
    run = measured.read(path)
    timed_case = run.cases["a/1"]
    assert (run.kind, run.device_name) == (
        "pytest-benchmark",
        machine.device_name(torch.device("cpu")),
    )
    assert timed_case.rivals == {"twice"}
    assert timed_case.ratio == timed_case.times["twice"].median / timed_case.times["ours"].median
    assert timed_case.goal_met == (timed_case.ratio >= 1)
    for spread in timed_case.times.values():
        assert 0 < spread.p20 <= spread.median <= spread.p80


def test_disabled_benchmarks_are_called_once_after_the_gate(suite, case):
    calls = []
    counted_case = case(ours=counted(calls, "ours", torch.mul))
    code, outcomes, _ = suite([counted_case], "--benchmark-disable", "--threads=2")
    assert (code, outcomes) == (0, {"scale/100-ours": "passed", "scale/100-twice": "passed"})
    assert [threads for *_, threads in calls] == [2, 2]


def test_a_slow_case_has_its_rounds_and_takes_turns_among_inputs(suite, case, monkeypatch):
    monkeypatch.setattr(machine, "cache_bytes", lambda device: 900)
    calls = []
    slow_case = case(ours=counted(calls, "ours", torch.mul), rounds=3)
    code, *_ = suite([slow_case], *FEW)
    addresses = [address for _, address, _ in calls]
    # The calls are the gate, a first call on each of four copies, and three rounds.
    assert (code, len(addresses)) == (0, 1 + 4 + 3)
    assert len(set(addresses[1:5])) == 4
    assert addresses[5:] == addresses[1:4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads=0"], "--threads must be at least 1, got 0"),
        (["--only=nothing"], "no case for cpu contains 'nothing'"),
        (["--device=cuda"], "no CUDA device is available"),
        (["--device=tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_options(suite, case, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, outcomes, printed = suite([case()], *options)
    assert code in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR)
    assert outcomes == {}
    assert message in printed


def test_the_gate_forgets_a_case_before_the_next(case):
    alive = []

    def make_inputs(shape, dtype, device):
        alive.append(kept is not None and kept() is not None)
        return torch.ones(shape, dtype=dtype, device=device), 2.0

    kept = None
    first, second = case(make_inputs=make_inputs), case(name="scale/2", make_inputs=make_inputs)
    check = gate.Gate(torch.device("cpu"))
    copies, wrong = check(first)
    assert wrong == {}
    assert check(first)[0] is copies
    kept = weakref.ref(copies[0][0])
    del copies
    assert kept() is not None
    check(second)
    assert alive == [False, False]


def test_a_call_on_a_gpu_waits_for_its_end(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(device.type))
    call = test_cases._synchronised(events.append, [("a",), ("b",)], torch.device("cuda"))
    assert [call(), call(), call()] == [None] * 3
    assert events == ["a", "cuda", "b", "cuda", "a", "cuda"]


def test_the_suite_is_no_part_of_the_tests():
    assert 'testpaths = ["tests"]' in (ROOT / "pyproject.toml").read_text()
