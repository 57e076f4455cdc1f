"""Test that the projection follows from measurements, names what it leaves out, and states its assumptions."""

from __future__ import annotations

import pytest

from bench.harness.timing import Timing
from bench.studies.scaling import run as scaling
from bench.studies.scaling import traffic as scaling_traffic
from bench.studies.scaling.axes import Measured
from bench.studies.scaling.memory import PeakBytes, resident_bytes
from bench.studies.scaling.projection import project, table

NETWORK, KERNELS = "network, one evaluation", "weigh + resample + propagate"
WORST = "link time of a resampling, worst: all states"
RUN = "run of 8 steps, each resampling, calibrated: what is known"
UNKNOWN = "unknown, and not in that sum"
PEAK = PeakBytes(200.0, 40.0)
RATES = {"nfe": 1e8, "step": 1e-9, "run": 1e-7}


def made(*arguments, device="cpu", rates=None, error=None, peak=PEAK):
    counted = {"ranks": 8, "moved": [1.0, 6.0], "independent": [1.0, 3.0], "particles": [100, 1000]}
    counted |= {"populations": 16, "excess_exponent": 0.0, "excess_exponent_error": error}
    options = scaling._parse(["--dims", "2", *arguments])
    return project(options, device, counted, peak, rates or {})


def rows(*arguments, d=2, **options):
    projection = made(*arguments, **options)
    return {row["name"]: row["values"][d] for row in projection["rows"]}


def test_a_projection_scales_with_particles_and_links():
    base, twice = rows(), rows("--link-gbps", "100")
    assert base[WORST] == pytest.approx(1e9 / 64 * 52 * 8 / 50e9)
    assert twice[WORST] == pytest.approx(base[WORST] / 2)
    few = rows("--particles", "1e7")
    moved = "states moved, independent weights"
    assert few[moved] == pytest.approx(10 * base[moved])  # It falls as 1/sqrt(N).
    assert base["peak memory of a resampling step, per GPU, no network"] == pytest.approx(4.375)
    assert base[NETWORK] is None
    assert resident_bytes(2) == 36


def test_a_rate_of_a_network_in_two_dimensions_is_of_no_other():
    for d, expected in ((2, 10 / 64), (64, None), (3072, None)):
        values = rows("--dims", "2,64,3072", d=d, device="cuda", rates=RATES)
        assert values[NETWORK] == (None if expected is None else pytest.approx(expected))
        assert values[UNKNOWN] == ("none" if d == 2 else "network")
    # The option is an assumption about every network.
    assert rows("--dims", "64", "--nfe-rate", "1e9", d=64)[NETWORK] == pytest.approx(1 / 64)


def test_rates_of_a_cpu_are_not_projected():
    values = rows(rates=RATES)
    assert values[NETWORK] is None
    assert KERNELS not in values
    assert values[UNKNOWN] == "network"


def test_the_time_of_a_run_sums_each_part_once():
    values = rows(device="cuda", rates=RATES)
    parts = [NETWORK, KERNELS, "states packed and unpacked, resampling"]
    parts += ["latency, 3 collectives, 8 if resampling"]
    parts += ["link time of a resampling, as the measured run grows"]
    assert values[RUN] == pytest.approx(8 * sum(values[name] for name in parts))
    # A whole step already includes the network and the kernels.
    assert values["whole step of smc.sample, all of the above, in no sum"] == pytest.approx(
        100 / 64
    )
    # Floors take the place of a step that was not measured.
    floors = rows("--steps", "40")
    parts[:2] = ["weigh + resample in one kernel", "propagate"]
    total = floors["run of 40 steps, each resampling, calibrated: what is known"]
    assert total == pytest.approx(40 * sum(floors[name] for name in parts))


def test_a_row_without_an_error_is_not_told_twice():
    name = "states moved, the same, exponent + 2 errors"
    assert name not in rows()
    values = rows(error=0.01)
    assert values[name] > values["states moved, as the measured run grows"]


def test_what_does_not_fit_is_named():
    def verdicts(*arguments, d=2, gb=80, **options):
        values = rows("--dims", str(d), "--gpu-gb", str(gb), *arguments, d=d, **options)
        return [values[f"fits in {gb} GB, network left out, {n}"] for n in ("calibrated", "probed")]

    assert verdicts() == ["yes", "yes"]
    assert verdicts(d=64) == ["no: result, joining"] * 2
    assert verdicts(d=3072) == ["no: between steps, step, result, joining"] * 1 + [
        "no: between steps, step, result, joining, probe"
    ]
    # A result and a probe take 16 GB each, and 0.6 GB of states lie beside the probe.
    assert verdicts(gb=15) == ["no: result, joining", "no: result, joining, probe"]
    assert verdicts(gb=16.1) == ["yes", "no: probe"]
    # An unmeasured peak is not known to fit.
    assert verdicts(peak=None) == ["unknown: step"] * 2


def test_what_is_taken_for_granted_is_told():
    projection = made()
    lines = "\n".join(projection["assumptions"])
    for part in (
        "counted over 8 shards in runs of 16 populations in 2 dimensions, holds over 64 shards",
        "for one population and at every D",
        "at the middle cut 1.28 times",
        "float64 of all particles on every GPU",
        "too low rather than too high",
    ):
        assert part in lines
    assert lines in table(projection).replace("\n  ", "\n").strip()


def test_the_middle_cut_is_crossed_most():
    """With two ranks the only cut carries everything; with many, the middle one carries 4/pi times the mean."""
    assert scaling_traffic.middle_over_mean(2) == pytest.approx(2)
    assert scaling_traffic.middle_over_mean(4096) == pytest.approx(1.2732, abs=1e-3)


def test_rates_are_of_the_largest_sizes():
    def of(name, seconds):
        axis = next(axis for axis in scaling.AXES if axis.name == name)
        return Measured(axis, {10: Timing(9.0, 9.0, 9.0, 5), 1000: Timing(*[seconds] * 3, 5)})

    rates = scaling.rates([of("N-step", 1e-3), of("N-run", 8.0), of("N-network", 9.0)])
    assert rates == {"step": 1e-6, "run": 1e-3, "nfe": pytest.approx(1000.0)}
    failed = Measured(of("N-run", 1.0).axis, failure="wrong")
    assert scaling.rates([failed]) == {}
