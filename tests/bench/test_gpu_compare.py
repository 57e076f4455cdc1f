"""Test the comparison of operators with the CPU, the jobs of the core and the rehearsal, without a GPU."""

import json
import math
import subprocess
import sys

import pytest
import torch

from bench.gpu import compare, core, core_jobs, listed, live, rehearsal, sanitize
from bench.gpu.core_jobs import JOBS
from bench.harness import machine, registry
from bench.harness.floors import Floors
from bench.harness.timing import Timing
from edmfast import _extension

CPU = torch.device("cpu")


def test_errors():
    right = torch.tensor([3.0, 4.0, math.nan, -math.inf])
    assert compare.error_of(right, right.clone()) == 0.0
    off = torch.tensor([3.0, 4.5, math.nan, -math.inf])
    assert compare.error_of(off, right) == pytest.approx(0.1)
    places = [right.roll(1), right.double(), right[None], right.nan_to_num(), -right]
    assert all(compare.error_of(wrong, right) == math.inf for wrong in places)
    whole = torch.tensor([1, 2])
    assert compare.error_of(whole, whole) == 0.0
    assert compare.error_of(whole + 1, whole) == math.inf


@pytest.mark.parametrize(("error", "ok"), [(0.0, True), (1e-4, True), (1e-3, False), (1.0, False)])
def test_the_bound_of_float32(error, ok):
    right = torch.ones(100)
    record = compare.compared([right * (1 + error), right], [right, right])
    assert (record["ok"], record["same"]) == (ok, error == 0.0)
    assert json.dumps(record)


def test_other_outputs_are_wrong():
    right = torch.ones(3)
    assert not compare.compared([right], [right, right])["ok"]
    record = compare.compared([right.double()], [right])
    assert (record["ok"], record["worst"]) == (False, "inf")  # JSON has no infinity


def test_every_operator_is_compared():
    kinds = {name.split()[0]: compare.kind(name) for name in compare.calls()}
    assert {name for name, kind in kinds.items() if kind == "cuda"} == {
        *sanitize.OPERATORS,
        "resample",
    }
    assert {"attention", "group_norm", "mlp_potential", "potential"} <= {*kinds} - {
        *sanitize.OPERATORS
    }
    names = compare.items(compare.KINDS, warm=True)
    assert {*names} > {*compare.calls()}
    # items of one process follow each other
    processes = [compare.process_of(name) for name in names]
    assert len({*processes}) == sum(
        a != b for a, b in zip(processes, ["", *processes], strict=False)
    )


@pytest.mark.parametrize("name", ["noise", "potential"])
def test_an_operator_agrees_with_itself(name):
    assert compare.call(name, "cpu", small=True) | {"ok": True, "same": True, "worst": 0.0} == (
        compare.call(name, "cpu", small=True)
    )


def test_the_command_reports_each_operator(tmp_path, monkeypatch, capsys):
    answers = {"noise": 1.0, "propagate": 2.0}

    def made(name, value):
        def make(device):
            if name == "propagate" and device != "cpu":
                raise RuntimeError("no kernel image\nis available")
            return value

        return make

    monkeypatch.setattr(compare, "calls", lambda: {n: made(n, v) for n, v in answers.items()})
    monkeypatch.setattr(
        compare, "_tested", lambda: type("M", (), {"outputs": lambda v: [torch.tensor(v)]})
    )
    options = ["--kind", "cuda", "--one-process", "--device", "cuda"]
    assert compare.main([str(tmp_path), *options]) == 1
    printed = capsys.readouterr().out
    assert "RuntimeError: no kernel image\n" in printed
    assert "1 of 2 agree" in printed
    records = listed.records(tmp_path / "compare-one-process.jsonl")
    assert [record["state"] for record in records.values()] == ["done", "failed"]


def test_the_core_is_what_the_goals_are_about():
    names = [job.name for job in JOBS]
    for words in (
        "weigh/1x1048576",
        "weigh/1x67108864",
        "propagate/256x12288",
        "propagate/4096x12288",
    ):
        assert words in names
    assert "attention/bf16 orders 8x12x1024x64" in names
    assert "mlp_potential/1048576x64" in names
    assert [name for name in names if name.startswith("smc")] == [
        *("smc step eager", "smc step captured", "smc step compiled")
    ]
    assert len(names) == 10
    assert {job.name for job in JOBS if job.warmed} <= {*names}


@pytest.mark.parametrize("job", [*JOBS[:4], *JOBS[5:8]], ids=lambda job: job.name)
def test_jobs_run_at_small_sizes(job):
    job.warm(CPU, True)
    record = job.run(CPU, Floors(1e10, {"torch.float32": 1e11}), True)
    assert record["ok"], record
    assert not record["failures"]
    assert record["ours"] > 0
    assert record["best"] in record["others"]
    assert "compile" not in record["others"]
    assert json.dumps(record)
    text = core.line(job.name, {"state": "done", **record})
    assert text.startswith(f"{job.name}: ")


@pytest.mark.slow
@pytest.mark.parametrize("job", [JOBS[4], *JOBS[8:]], ids=lambda job: job.name)
def test_compiled_jobs_run_at_small_sizes(job):
    test_jobs_run_at_small_sizes(job)


def test_a_record_has_the_ratio_and_the_fraction_of_the_floor():
    timings = {
        name: Timing(t, t, t, 3) for name, t in {"ours": 2.0, "eager": 6.0, "part": 1.0}.items()
    }
    record = core_jobs.record_of(timings, {"ours": "graphs"}, 1.0, ["part"])
    assert (record["best"], record["ratio"], record["fraction"]) == ("eager", 3.0, 0.5)
    assert core_jobs.record_of({}, {}, 1.0)["ratio"] is None


def test_a_wrong_answer_of_ours_is_not_timed():
    (case,) = (c for c in registry.load(["bench.cases.noise"]) if c.shape == (1, 100_000, 2))
    wrong = core_jobs.of_case(case, 10, (1, 10, 2))
    assert wrong.run(CPU, None, True)["ok"]
    broken = core_jobs.of_case(core_jobs.replace(case, ours=lambda x: x), 10, (1, 10, 2))
    record = broken.run(CPU, None, True)
    assert not record["ok"]
    assert "AssertionError" in record["error"]
    assert "AssertionError" in core.line("noise", {"state": "done", **record})


def test_floors_are_known_to_later_processes(tmp_path):
    path = tmp_path / "core.jsonl"
    assert core.known_floors(path) is None
    listed.write(path, core.FLOORS, "done", ok=True, bandwidth=2.0, gemm={"torch.float32": 3.0})
    assert core.known_floors(path) == Floors(2.0, {"torch.float32": 3.0})


def test_which_kernels_should_be_live():
    right = dict.fromkeys(live.CUDA, "cuda") | dict.fromkeys(live.TRITON, "triton")
    assert live.wrong(right) == {}
    del right["noise"]
    assert live.wrong(right | {"attention": "reference"}) == {
        "noise": "absent",
        "attention": "reference",
    }
    named = live.implementations()
    assert {*live.CUDA, *live.TRITON} <= {*named}
    if not torch.cuda.is_available():
        assert set(named.values()) == {"reference"}
    assert _extension.kernel_status()


def test_a_rehearsal_replaces_the_gpu(tmp_path):
    """In a process of its own: what asks for a GPU gets the CPU, events and graphs read a clock."""
    program = """
import torch
assert torch.cuda.is_available() and torch.cuda.get_device_properties(0).major == 9
assert torch.device("cuda").type == "cuda"
x = torch.ones(3, device="cuda")
y = x.to(torch.device("cuda"), torch.float64)
assert y.device.type == "cpu" and y.dtype == torch.float64 and x.cuda().sum() == 3
torch.randn(3, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
graph = torch.cuda.CUDAGraph()
with torch.cuda.stream(torch.cuda.Stream()), torch.cuda.graph(graph):
    z = x + 1
begin.record(); graph.replay(); end.record()
torch.cuda.synchronize()
assert begin.elapsed_time(end) > 0
import shutil, subprocess
assert subprocess.run(["compute-sanitizer", "--tool", "memcheck", "true"]).returncode == 0
"""
    environment = rehearsal.environment(machine.ROOT, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment},
        cwd=machine.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
