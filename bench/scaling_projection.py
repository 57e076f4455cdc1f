"""What one population over many GPUs would need, from what was measured and counted, and what is assumed.

Nothing here was run at that size. Every row says where it is from: "measured" (in this run, scaled by the
number of particles), "counted" (bytes in the code), "derived" (the formula of `bench.scaling_traffic`),
"floor" (counted bytes over an assumed bandwidth: no run is faster), "assumed". What was measured on a CPU says
nothing of the rates of a GPU, and rows that need one are then empty unless an option gives it.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from bench import scaling_memory as memory
from bench import scaling_traffic as traffic
from bench.scaling_assumptions import told

_GB = 1e-9
Values = dict[int, float | None]


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
    like_run, high = (min(independent * e, particles) for e in traffic.excess(counted, particles))
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
            "GPUs whose memory holds that peak",
            "",
            "measured; memory assumed",
            lambda d: math.ceil(
                particles * (peak.particle + d * peak.element) * _GB / options.gpu_gb
            ),
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
        ("the same, exponent + 2 errors", "measured, extrapolated", high),
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
        "assumptions": told(options, device, counted, rates, peak),
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
