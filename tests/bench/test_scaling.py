"""Test that power laws are fitted, wrong jobs are not timed, and ranks send what the formulas predict."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
import torch.distributed as dist

from bench.harness.timing import Timing
from bench.studies.scaling import axes as scaling_axes
from bench.studies.scaling import jobs as scaling_jobs
from bench.studies.scaling import models as scaling_models
from bench.studies.scaling import ranks as scaling_ranks
from bench.studies.scaling import run as scaling
from bench.studies.scaling import traffic as scaling_traffic
from bench.studies.scaling import worker as scaling_worker
from bench.studies.scaling.memory import PeakBytes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(effort, monkeypatch):
    monkeypatch.setattr(scaling, "QUICK", effort)
    # The real function starts processes, which takes seconds.
    monkeypatch.setattr(scaling, "shared_peak", lambda: PeakBytes(200.0, 40.0))

    def make(**changes):
        fields = {
            "name": "sum-all",
            "unit": "numbers",
            "job": "a sum",
            "sizes": (10, 100, 1000, 10_000),
            "quick": (10, 100),
            "make": lambda size, device: torch.ones(size, device=device).sum,
            "check": lambda device: None,
        }
        return scaling_axes.Axis(**(fields | changes))

    return make


def seconds(axis, exponent, overhead=0.0):
    values = [overhead + 1e-6 * size**exponent for size in axis.sizes]
    times = {n: Timing(v, 0.9 * v, 1.1 * v, 5) for n, v in zip(axis.sizes, values, strict=True)}
    return scaling_axes.Measured(axis, times)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.5])
def test_a_power_law_is_found_without_error(exponent):
    sizes = [2**k for k in range(9)]
    line = scaling_axes.fit(sizes, [3e-4 * n**exponent for n in sizes])
    assert line.exponent == pytest.approx(exponent)
    assert line.error == pytest.approx(0, abs=1e-9)
    assert line.points == 5


def test_only_the_upper_half_is_fitted():
    """An overhead at small sizes does not pull the line down."""
    sizes = [2**k for k in range(8)]
    line = scaling_axes.fit(sizes, [100.0] * 4 + [float(n) for n in sizes[4:]])
    assert line.exponent == pytest.approx(1.0)


def test_the_error_is_the_spread_of_the_exponent():
    """The exponents of many noisy lines spread as their errors say."""
    generator = torch.Generator().manual_seed(0)
    sizes = [2**k for k in range(20)]
    noise = 0.2 * torch.randn(400, 20, generator=generator, dtype=torch.float64)
    lines = [
        scaling_axes.fit(sizes, [n * math.exp(e) for n, e in zip(sizes, row, strict=True)])
        for row in noise.tolist()
    ]
    exponents = torch.tensor([line.exponent for line in lines])
    squares = torch.tensor([line.error**2 for line in lines])
    # 400 lines give a standard deviation to within 1/sqrt(800).
    assert exponents.std() / squares.mean().sqrt() == pytest.approx(1, abs=3 * 0.05)
    assert abs(exponents.mean() - 1) < 3 * exponents.std() / 20


@pytest.mark.parametrize("values", [([1], [1.0]), ([1, 2], [1.0, 0.0]), ([1, 2], [1.0])])
def test_what_has_no_line(values):
    with pytest.raises(ValueError, match="two positive"):
        scaling_axes.fit(*values)


def test_two_points_have_no_error():
    line = scaling_axes.fit([1, 4], [1.0, 2.0])
    assert (line.exponent, line.error) == (pytest.approx(0.5), None)


def test_numbers_of_an_axis(tiny):
    written = seconds(tiny(), 1.0).to_json()
    assert written["seconds"] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert written["fitted_sizes"] == [100, 1000, 10_000]
    assert written["exponent"] == pytest.approx(1.0)
    assert written["overhead_seconds"] == pytest.approx(1e-5)
    assert written["seconds_per_unit"] == pytest.approx(1e-6)
    printed = scaling_axes.table(seconds(tiny(), 1.0))
    assert "size^(1.000" in printed
    assert "10 ms (9 ms - 11 ms)" in printed


def test_axes_are_chosen_by_name_or_family(tiny):
    axes = [tiny(), tiny(name="sum-some"), tiny(name="other"), tiny(name="far", devices=("cuda",))]
    assert [a.name for a in scaling_axes.chosen(axes, "sum", "cpu")] == ["sum-all", "sum-some"]
    assert [a.name for a in scaling_axes.chosen(axes, "sum-some,other", "cpu")] == [
        *["sum-some", "other"]
    ]
    assert len(scaling_axes.chosen(axes, "", "cpu")) == 3
    with pytest.raises(ValueError, match="no axis far"):
        scaling_axes.chosen(axes, "sum,far", "cpu")


def test_the_command_line_on_a_tiny_axis(tiny, tmp_path, capsys):
    path = tmp_path / "new" / "out.json"
    arguments = ["--quick", "--axes", "sum", "--json", str(path), "--dims", "2,5"]
    assert scaling.main(arguments, [tiny(), tiny(name="other")]) == 0
    written = json.loads(path.read_text())
    assert written["kind"] == "scaling"
    head = {"commit", "versions", "device_name", "device", "threads", "date", "axes", "projection"}
    assert head <= set(written)
    (axis,) = written["axes"]
    assert axis["sizes"] == [10, 100]
    assert {"name", "unit", "p20", "p80", "exponent", "exponent_error", "extras"} <= set(axis)
    assert len(axis["seconds"]) == 2
    rows = {row["name"]: row for row in written["projection"]["rows"]}
    assert rows["memory between steps, per GPU"]["values"] == {
        "2": pytest.approx(36e9 / 64 / 1e9),
        "5": pytest.approx(60e9 / 64 / 1e9),
    }
    # Nothing measured on a CPU becomes a rate of a GPU.
    assert rows["network, one evaluation"]["values"] == {"2": None, "5": None}
    assert "peak memory of a resampling step, per GPU, no network" in rows
    assert any("unmeasured" in line for line in written["projection"]["assumptions"])
    printed = capsys.readouterr().out
    assert "projection" in printed
    assert "assumed" in printed


def test_a_wrong_job_is_not_timed(tiny, tmp_path, capsys):
    def wrong(device):
        raise AssertionError("the sum is off")

    def make(size, device):
        raise RuntimeError("it was timed")

    path = tmp_path / "out.json"
    axes = [tiny(check=wrong, make=make), tiny(name="right")]
    assert scaling.main(["--quick", "--no-projection", "--json", str(path)], axes) == 1
    refused, right = json.loads(path.read_text())["axes"]
    assert refused["seconds"] == []
    assert "the sum is off" in refused["failure"]
    assert len(right["seconds"]) == 2
    assert "FAILED" in capsys.readouterr().out


def failing(size, *, at):
    """Return a job that runs out of memory at one size, when it is made or when it is called."""

    def call():
        raise torch.OutOfMemoryError("no memory")

    def make(wanted, device):
        if wanted == size and at == "make":
            call()
        return call if wanted == size else torch.ones(wanted).sum

    return make


@pytest.mark.parametrize("at", ["make", "call"])
def test_a_size_without_memory_is_lost_alone(at, tiny, tmp_path, capsys):
    path = tmp_path / "out.json"
    broken = tiny(quick=(10, 100, 1000), make=failing(1000, at=at))
    assert scaling.main(["--quick", "--no-projection", "--json", str(path)], [broken, tiny()]) == 1
    first, second = json.loads(path.read_text())["axes"]
    assert first["sizes"] == [10, 100]
    assert first["lost"] == {"1000": "OutOfMemoryError: no memory"}
    assert "failure" not in first
    assert second["lost"] == {}
    assert "LOST 1000: OutOfMemoryError" in capsys.readouterr().out


def test_a_line_needs_two_sizes_and_a_clock_may_fail(tiny, effort):
    short = scaling_axes.measure(tiny(make=failing(100, at="call")), CPU, effort, quick=True)
    assert "fewer than two sizes" in short.failure
    assert not short.times

    def clock(*_):
        raise RuntimeError("a rank died")

    other = scaling_axes.measure(tiny(clock=clock), CPU, effort, quick=True)
    assert other.failure == "RuntimeError: a rank died"


def test_extras_that_fail_leave_the_times(tiny, effort):
    def extras(*_):
        raise MemoryError

    measured = scaling_axes.measure(tiny(extras=extras), CPU, effort, quick=True)
    assert len(measured.times) == 2
    assert "MemoryError" in measured.lost["extras"]


def test_what_is_measured_is_written_after_every_axis(tiny, tmp_path):
    path = tmp_path / "out.json"
    seen = []

    def check(device):
        seen.append(json.loads(path.read_text()))

    arguments = ["--quick", "--no-projection", "--json", str(path)]
    assert scaling.main(arguments, [tiny(), tiny(name="late", check=check)]) == 0
    assert [axis["name"] for axis in seen[0]["axes"]] == ["sum-all"]
    assert seen[0]["complete"] is False
    assert json.loads(path.read_text())["complete"] is True


def test_a_gpu_has_sizes_and_threads_of_its_own(tiny):
    gpu = torch.device("cuda")
    axes = {axis.name: axis for axis in scaling.AXES}
    for quick in (False, True):
        assert min(axes["N-run"].sizes_on(gpu, quick=quick)) == 2**16
        assert max(axes["N-run"].sizes_on(gpu, quick=quick)) == 2**20
        assert max(axes["N-step"].sizes_on(gpu, quick=quick)) == 10**7
        assert tiny().sizes_on(gpu, quick=quick) == tiny().sizes_on(CPU, quick=quick)
    assert axes["N-run"].sizes_on(CPU, quick=True) == (256, 1024, 4096)
    assert scaling._parse([]).threads == 1
    assert scaling._parse(["--device", "cuda"]).threads == os.cpu_count()
    assert scaling._parse(["--device", "cuda", "--threads", "3"]).threads == 3


@pytest.mark.parametrize(
    "arguments",
    [["--axes", "nothing"], ["--device", "cuda"], ["--particles", "3e9"], ["--ess", "1"]],
)
def test_bad_usage(arguments, tiny, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scaling.main(arguments, [tiny()]) == 2
    assert "scaling: " in capsys.readouterr().err


def test_the_automatic_place(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling.machine, "ROOT", tmp_path)
    monkeypatch.setattr(scaling.machine, "commit", lambda: "abc123")
    assert scaling.main(["--quick", "--no-projection", "--json", "auto"], [tiny()]) == 0
    (path,) = tmp_path.glob("bench/results/cpu-*/scaling-*-abc123.json")
    assert path.exists()


def shifted(operator):
    """Return the operator with its ancestors shifted to the neighbour."""

    def call(*arguments, **options):
        result = operator(*arguments, **options)
        return result._replace(ancestors=result.ancestors.roll(1, 1))

    return call


def test_the_checks_of_the_jobs_can_fail(monkeypatch):
    scaling_jobs.check_step(8, CPU)
    scaling_models.check_product(CPU)
    scaling_models.check_attention(CPU)
    weigh = scaling_jobs.weigh_and_resample
    monkeypatch.setattr(scaling_jobs, "weigh_and_resample", shifted(weigh))
    with pytest.raises(AssertionError):
        scaling_jobs.check_step(8, CPU)
    attention = scaling_models.bench_attention.attention
    monkeypatch.setattr(
        scaling_models.bench_attention, "attention", lambda q, k, v: attention(1.01 * q, k, v)
    )
    with pytest.raises(AssertionError):
        scaling_models.check_attention(CPU)
    scaling_jobs.check_network(CPU)
    evaluations = scaling_jobs.make_network

    def off(particles, device):
        return lambda: [(1.001 * e, s) for e, s in evaluations(particles, device)()]

    def other_level(particles, device):
        return lambda: evaluations(particles, device)()[::-1]

    for wrong in (off, other_level):
        monkeypatch.setattr(scaling_jobs, "make_network", wrong)
        with pytest.raises(AssertionError, match="off at sigma"):
            scaling_jobs.check_network(CPU)
    make = scaling_models.make_product
    monkeypatch.setattr(scaling_models, "make_product", lambda count, device: make(2, device))
    with pytest.raises(AssertionError):
        scaling_models.check_product(CPU)


@pytest.mark.parametrize(("ranks", "sd"), [(2, 0.8), (8, 0.8), (16, 0.4)])
def test_states_that_travel_are_as_many_as_the_formula_says(ranks, sd):
    """The mean over 48 populations of independent weights agrees within three standard errors."""
    ancestors = scaling_traffic.simulated_ancestors(1 << 15, 48, sd, seed=1)
    moved = scaling_traffic.counted_states(ancestors, ranks).double()
    error = moved.std() / math.sqrt(len(moved))
    expected = scaling_traffic.expected_states(1 << 15, ranks, sd)
    assert abs(moved.mean() - expected) < 3 * error
    # A forgotten factor of two, or counting slots instead of states, would exceed this.
    assert 3 * error < 0.4 * expected


def test_states_are_counted_once_for_a_rank():
    ancestors = torch.tensor(
        [[0, 1, 1, 1, 1, 1, 6, 7], [0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.int32
    )
    assert scaling_traffic.counted_states(ancestors, 4).tolist() == [2, 3]
    assert scaling_traffic.counted_states(ancestors, 2).tolist() == [1, 1]
    assert scaling_traffic.counted_states(ancestors, 1).tolist() == [0, 0]


def test_the_excess_of_a_run_is_extrapolated():
    counted = {"moved": [1.0, 6.0], "independent": [1.0, 3.0], "particles": [100, 1000]}
    counted |= {"excess_exponent": 0.5, "excess_exponent_error": 0.1}
    excess = scaling_traffic.excess(counted, 1e5)
    assert excess == (pytest.approx(20.0), pytest.approx(2 * 100**0.7))


def test_what_two_ranks_send_is_what_is_counted():
    """The ancestors alone predict every byte of the steps; splitting by populations sends nothing."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch has no gloo")
    scaling_ranks.check("particles", CPU)
    measured = scaling_ranks.launch(2, 0)
    before, steps, after, states = measured["particles"]["sent"]["2"]
    truth = scaling_worker.sample(None, "particles", genealogy=True)
    here = truth.resampled
    assert here.any()
    assert not here[0].any()  # Traffic at the first level would be counted before the steps.
    moved = int(scaling_traffic.counted_states(truth.ancestors[here], 2).sum())
    assert states == moved
    sums = 2 * scaling_traffic.sums_bytes(scaling_worker.POPULATIONS, 2)
    counts = 2 * scaling_traffic.counts_bytes(scaling_worker.POPULATIONS, 2)
    expected = (len(here) - 1) * sums + int(here.any(1).sum()) * counts
    assert steps == expected + moved * scaling_traffic.state_bytes(2)
    assert before > 0
    assert after > 0
    assert measured["populations"]["sent"]["2"][1] == 0


def test_other_bits_of_the_ranks_are_refused(monkeypatch):
    measured = {"right": False, "log_z": [0.0, 0.0], "times": {}}
    monkeypatch.setattr(scaling_ranks, "launch", lambda *_: {"particles": measured})
    with pytest.raises(AssertionError, match="other bits"):
        scaling_ranks.check("particles", CPU)
    with pytest.raises(RuntimeError, match="other bits"):
        scaling_ranks.clock("particles", (1, 2), CPU, None)
    measured["right"] = True
    measured["log_z"] = [-5.0, -5.01, -4.99]
    with pytest.raises(AssertionError, match="of it"):
        scaling_ranks.check("particles", CPU)
