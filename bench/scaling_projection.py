"""What one population over many GPUs would need, from what was measured and counted, and what is assumed.

Nothing here was run at that size. Every row says where it is from: "measured" (in this run, scaled by the number of
particles), "counted" (bytes in the code), "derived" (the formula of `bench.scaling_traffic`), "floor" (counted
bytes over an assumed bandwidth: no run is faster), "assumed". What was measured on a CPU says nothing of the
rates of a GPU, and rows that need one are then empty unless an option gives it.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from bench import scaling_memory as memory
from bench import scaling_traffic as traffic
from bench.scaling_axes import fit

RUN_RANKS = 8
_GB = 1e-9
Values = dict[int, float | None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The assumptions."""
    group = parser.add_argument_group("projection (assumptions)")
    group.add_argument("--gpus", type=int, default=64)
    group.add_argument("--particles", type=float, default=1e9, help="of the one population")
    group.add_argument("--dims", default="2,64,3072", help="elements of a state")
    group.add_argument("--link-gbps", type=float, default=50.0, help="of each GPU, Gbit/s one way")
    group.add_argument("--latency-us", type=float, default=30.0, help="of a collective")
    group.add_argument("--hbm-gbs", type=float, default=3000.0, help="memory of a GPU, GB/s")
    group.add_argument("--ess", type=float, default=0.5, help="ESS/N at a resampling")
    group.add_argument("--nfe-rate", type=float, help="energies and scores a second of one GPU")


def check_options(options: argparse.Namespace) -> None:
    """ValueError for numbers that the library or the formulas have no room for."""
    particles = int(options.particles)
    if options.gpus < 2 or not options.gpus <= particles < 2**31:
        raise ValueError(
            f"a projection needs 2 GPUs or more and fewer than 2^31 particles (ancestors are int32), a "
            f"particle at least for each, got {options.gpus} and {particles}"
        )
    rates = (options.link_gbps, options.latency_us, options.hbm_gbs, options.nfe_rate or 1.0)
    if min(rates) <= 0 or not 0 < options.ess < 1:
        raise ValueError("rates and latency must be positive and --ess in (0, 1)")


def measure_traffic(sizes: tuple[int, ...], populations: int) -> dict[str, Any]:
    """States that a resampling moves between RUN_RANKS shards, in real runs of growing size."""
    found = [traffic.of_a_run(traffic.run_with_genealogy(n, populations), RUN_RANKS) for n in sizes]
    line = fit(sizes, [max(one.moved, 1e-9) for one in found])
    return {
        "ranks": RUN_RANKS,
        "particles": [*sizes],
        "resamplings": [one.resamplings for one in found],
        "moved": [one.moved for one in found],
        "independent": [one.independent for one in found],
        "weight_variance": [one.variance for one in found],
        "exponent": line.exponent,
        "exponent_error": line.error,
    }


def project(
    options: argparse.Namespace,
    device: str,
    counted: dict[str, Any],
    peak: memory.PeakBytes | None,
    rates: dict[str, float],
) -> dict[str, Any]:
    """counted: of `measure_traffic`. rates: "nfe" (evaluations a second) and "step" (seconds a particle at D = 2)
    of the device of this run, where they were measured."""
    particles, ranks = options.particles, options.gpus
    share, dims = particles / ranks, [int(d) for d in options.dims.split(",")]
    sd = math.sqrt(-math.log(options.ess))  # log-normal weights of that ESS/N
    independent = traffic.expected_states(particles, ranks, sd)
    # ranks enter as the formula has them; particles as the run has them
    widen = independent / traffic.expected_states(particles, RUN_RANKS, sd)
    growth = (particles / counted["particles"][-1]) ** counted["exponent"]
    like_run = min(counted["moved"][-1] * growth * widen, particles)
    link, hbm = options.link_gbps * 1e9 / 8, options.hbm_gbs * 1e9
    rows: list[dict[str, Any]] = []

    def row(name: str, unit: str, basis: str, value: Any) -> None:
        values: Values = {d: value(d) if callable(value) else value for d in dims}
        rows.append({"name": name, "unit": unit, "basis": basis, "values": values})

    row(
        "memory between steps, per GPU",
        "GB",
        "counted",
        lambda d: share * memory.resident_bytes(d) * _GB,
    )
    if peak is not None:
        row(
            "peak memory of a resampling step, per GPU, no network",
            "GB",
            "measured",
            lambda d: share * (peak.particle + d * peak.element) * _GB,
        )
    row(
        "result, which every GPU is given whole",
        "GB",
        "counted",
        lambda d: particles * memory.result_bytes(d) * _GB,
    )
    rate, basis = _network_rate(options, device, rates)
    row("network, one evaluation", "s/step", basis, share / rate if rate else None)
    if device == "cuda" and "step" in rates:
        row(
            "weigh + resample + propagate",
            "s/step",
            "measured (D = 2, one GPU)",
            lambda d: share * rates["step"] if d == 2 else None,
        )
    row("weigh + resample in one kernel", "s/step", "floor", 36 * share / hbm)
    row("propagate", "s/step", "floor", lambda d: 4 * (3 * d + 2) * share / hbm)
    # gathered, packed, sent to itself, indexed, unpacked: each read and written
    row(
        "states packed and unpacked, resampling",
        "s/step",
        "floor",
        lambda d: 10 * (8 * d + 4) * share / hbm,
    )
    row("sums, sent by a GPU", "bytes/step", "counted", traffic.sums_bytes(1, ranks))
    row("latency, 3 collectives, 8 if resampling", "s/step", "assumed", 8e-6 * options.latency_us)
    cases = (
        ("independent weights", "derived", independent),
        ("as the measured run grows", "measured, extrapolated", like_run),
        ("worst: all states", "counted", particles),
    )
    for name, basis, states in cases:
        row(f"states moved, {name}", "of all", basis, states / particles)
        row(
            f"link time of a resampling, {name}",
            "s/step",
            f"{basis}; link assumed",
            lambda d, n=states: n / ranks * traffic.state_bytes(d) / link,
        )
    row(
        "link time of probed curvature (none if calibrated)",
        "s/step",
        "counted; link assumed",
        8 * share * (ranks - 1) / link,
    )
    return {
        "assumptions": _assumptions(options, device, counted, rates, peak),
        "traffic": counted,
        "rows": rows,
    }


def _network_rate(
    options: argparse.Namespace, device: str, rates: dict[str, float]
) -> tuple[float | None, str]:
    if options.nfe_rate:
        return options.nfe_rate, "assumed"
    if device == "cuda" and "nfe" in rates:
        return rates["nfe"], "measured (2-D energy)"
    return None, "unmeasured on a GPU"


def _assumptions(
    options: argparse.Namespace,
    device: str,
    counted: dict[str, Any],
    rates: dict[str, float],
    peak: memory.PeakBytes | None,
) -> list[str]:
    error = counted["exponent_error"]
    told = [
        f"assumed: {options.particles:.3g} particles of one population on {options.gpus} GPUs, split='particles', "
        "float32 states",
        f"assumed: link {options.link_gbps:g} Gbit/s per GPU and direction, {options.latency_us:g} us per "
        f"collective, memory {options.hbm_gbs:g} GB/s; nothing overlaps",
        f"assumed: ESS/N = {options.ess:g} at a resampling, log-normal weights",
        f"measured: states moved in a run over {RUN_RANKS} shards grow as N^({counted['exponent']:.2f}"
        + (f" ± {error:.2f})" if error is not None else ")")
        + f" to N = {counted['particles'][-1]}, beyond which this is an extrapolation; "
        f"{counted['moved'][-1] / counted['independent'][-1]:.2f} times the formula there",
        "counted: a batch of the network is bounded by batch_size, and its memory is not in the rows",
        "counted: weights of shared populations take the plain path of torch, so the floor of one kernel is far",
    ]
    if peak is not None:
        told.append(
            f"measured on the CPU: peak of {peak.particle:.0f} + {peak.element:.1f} D bytes per particle"
        )
    if device == "cpu":
        told.append(
            "this run was on a CPU: rates of GPUs are unmeasured; traffic, memory and floors are all that transfers"
            + (
                f" (this CPU: {rates['nfe']:.3g} evaluations/s of a 2-D energy)"
                if "nfe" in rates
                else ""
            )
        )
    return told


def table(projection: dict[str, Any]) -> str:
    """The projection as text."""
    rows = projection["rows"]
    dims = [*rows[0]["values"]]
    cells = [("", *(f"D = {d}" for d in dims), "", "from")]
    for row in rows:
        numbers = ("-" if v is None else f"{v:.3g}" for v in row["values"].values())
        cells.append((row["name"], *numbers, row["unit"], row["basis"]))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([*(f"  {line}" for line in projection["assumptions"]), *text])
