"""Project what one population over many GPUs would need, from measurements, counts and assumptions.

Nothing here was run at that size. Every row says where its number comes from: "measured" (in this run, scaled
by the number of particles), "counted" (bytes in the code), "derived" (the formula of
`bench.studies.scaling.traffic`), "floor" (counted bytes over an assumed bandwidth: no run is faster), or
"assumed". Measurements on a CPU say nothing about the rates of a GPU; rows that need such a rate are empty
unless an option gives it.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from bench.studies.scaling import memory, traffic
from bench.studies.scaling.assumptions import describe_assumptions

_GB = 1e-9
Values = dict[int, Any]
AS_RUN = "as the measured run grows"


class Rows:
    """The rows so far, each with a value for each number of elements."""

    def __init__(self, dims: list[int]) -> None:
        self.dims, self.entries = dims, list[dict[str, Any]]()

    def add(self, name: str, unit: str, basis: str, value: Any) -> Values:
        """Add a row. value: one for all, or a function of the number of elements."""
        values: Values = {d: value(d) if callable(value) else value for d in self.dims}
        self.entries.append({"name": name, "unit": unit, "basis": basis, "values": values})
        return values


def project(
    options: argparse.Namespace,
    device: str,
    counted: dict[str, Any],
    peak: memory.PeakBytes | None,
    rates: dict[str, float],
) -> dict[str, Any]:
    """Return the rows of the projection.

    counted: the result of `measure_traffic`. rates: of the device of this run at D = 2, where measured: "nfe"
    (network evaluations per second), "step" (seconds per particle of a step beside the network), "run"
    (seconds per particle of a whole step).
    """
    rows = Rows([int(d) for d in options.dims.split(",")])
    _memory(rows, options, peak)
    spent = _steps(rows, options, device, rates)
    spent["link"] = _links(rows, options, counted)
    _run(rows, options, spent)
    return {
        "assumptions": describe_assumptions(options, device, counted, rates, peak),
        "traffic": counted,
        "rows": rows.entries,
    }


def _memory(rows: Rows, options: argparse.Namespace, peak: memory.PeakBytes | None) -> None:
    """Add what a GPU holds, and whether it fits."""
    particles, share = options.particles, options.particles / options.gpus
    parts: dict[str, Values] = {}
    parts["between steps"] = resident = rows.add(
        "memory between steps, per GPU",
        "GB",
        "counted",
        lambda d: share * memory.resident_bytes(d) * _GB,
    )
    if peak is not None:
        parts["step"] = rows.add(
            "peak memory of a resampling step, per GPU, no network",
            "GB",
            "measured",
            lambda d: share * (peak.particle + d * peak.element) * _GB,
        )
        rows.add(
            "GPUs whose memory holds that peak",
            "",
            "measured; memory assumed",
            lambda d: math.ceil(
                particles * (peak.particle + d * peak.element) * _GB / options.gpu_gb
            ),
        )
    parts["result"] = rows.add(
        "result, which every GPU is given whole",
        "GB",
        "counted",
        lambda d: particles * memory.result_bytes(d) * _GB,
    )
    parts["joining"] = rows.add(
        "its states while they are joined, received and whole",
        "GB",
        "counted",
        lambda d: particles * memory.joining_bytes(d) * _GB,
    )
    probe = particles * memory.PROBED_BYTES * _GB
    rows.add("probed curvature, of all particles on every GPU", "GB", "counted", probe)
    probed = {d: resident[d] + probe for d in rows.dims}
    for name, held in (("calibrated", parts), ("probed", {**parts, "probe": probed})):
        rows.add(
            f"fits in {options.gpu_gb:g} GB, network left out, {name}",
            "",
            "the rows above; memory assumed",
            lambda d, held=held: _verdict(
                {part: values[d] for part, values in held.items()}, options.gpu_gb, peak is not None
            ),
        )


def _verdict(held: dict[str, Any], most: float, known: bool) -> str:
    """Return whether each of the parts, which are not held at the same time, fits into the memory."""
    broken = [part for part, size in held.items() if size > most]
    if broken:
        return f"no: {', '.join(broken)}"
    return "yes" if known else "unknown: step"


def _steps(
    rows: Rows, options: argparse.Namespace, device: str, rates: dict[str, float]
) -> dict[str, Values]:
    """Add the parts of a step on a GPU and return their times by name, of which the time of a run is the sum."""
    share, hbm = options.particles / options.gpus, options.hbm_gbs * 1e9
    rate, basis = _network_rate(options, device, rates)
    # the time of a perceptron in two dimensions says nothing about other networks
    every = options.nfe_rate is not None
    spent = {
        "network": rows.add(
            "network, one evaluation",
            "s/step",
            basis,
            lambda d: share / rate if rate and (every or d == 2) else None,
        )
    }
    measured: Values = {}
    if device == "cuda" and "step" in rates:
        measured = rows.add(
            "weigh + resample + propagate",
            "s/step",
            "measured (D = 2, one GPU)",
            lambda d: share * rates["step"] if d == 2 else None,
        )
    if device == "cuda" and "run" in rates:
        rows.add(
            "whole step of smc.sample, all of the above, in no sum",
            "s/step",
            "measured (D = 2, one GPU)",
            lambda d: share * rates["run"] if d == 2 else None,
        )
    weigh = rows.add("weigh + resample in one kernel", "s/step", "floor", 36 * share / hbm)
    move = rows.add("propagate", "s/step", "floor", lambda d: 4 * (3 * d + 2) * share / hbm)
    spent["kernels"] = {d: measured.get(d) or weigh[d] + move[d] for d in rows.dims}
    # states are gathered, packed, sent, indexed and unpacked; each pass reads and writes them
    spent["packing"] = rows.add(
        "states packed and unpacked, resampling",
        "s/step",
        "floor",
        lambda d: 10 * (8 * d + 4) * share / hbm,
    )
    spent["latency"] = rows.add(
        "latency, 3 collectives, 8 if resampling", "s/step", "assumed", 8e-6 * options.latency_us
    )
    return spent


def _links(rows: Rows, options: argparse.Namespace, counted: dict[str, Any]) -> Values:
    """Add the traffic, and return its time, which is part of the time of a run."""
    particles, ranks = options.particles, options.gpus
    link = options.link_gbps * 1e9 / 8
    sd = math.sqrt(-math.log(options.ess))  # the weights are log-normal with this ESS/N
    independent = traffic.expected_states(particles, ranks, sd)
    like_run, high = (min(independent * e, particles) for e in traffic.excess(counted, particles))
    rows.add("sums, sent by a GPU", "bytes/step", "counted", traffic.sums_bytes(1, ranks))
    cases = [
        ("independent weights", "derived", independent),
        (AS_RUN, "measured, extrapolated", like_run),
        ("the same, exponent + 2 errors", "measured, extrapolated", high),
        ("worst: all states", "counted", particles),
    ]
    if counted["excess_exponent_error"] is None:
        del cases[2]  # it would repeat the previous row
    times = {}
    for name, basis, states in cases:
        rows.add(f"states moved, {name}", "of all", basis, states / particles)
        times[name] = rows.add(
            f"link time of a resampling, {name}",
            "s/step",
            f"{basis}; link assumed",
            lambda d, n=states: n / ranks * traffic.state_bytes(d) / link,
        )
    rows.add(
        "link time of probed curvature (none if calibrated)",
        "s/step",
        "counted; link assumed",
        8 * (particles / ranks) * (ranks - 1) / link,
    )
    return times[AS_RUN]


def _run(rows: Rows, options: argparse.Namespace, spent: dict[str, Values]) -> None:
    """Add the time of all steps from the known parts, and name the unknown ones."""

    def known(d: int) -> list[float]:
        return [float(values[d]) for values in spent.values() if values[d] is not None]

    rows.add(
        f"run of {options.steps} steps, each resampling, calibrated: what is known",
        "s",
        f"sum of {', '.join(spent)} ({AS_RUN})",
        lambda d: options.steps * sum(known(d)),
    )
    rows.add(
        "unknown, and not in that sum",
        "",
        "",
        lambda d: ", ".join(name for name, values in spent.items() if values[d] is None) or "none",
    )


def _network_rate(
    options: argparse.Namespace, device: str, rates: dict[str, float]
) -> tuple[float | None, str]:
    if options.nfe_rate:
        return options.nfe_rate, "assumed, for every D"
    if device == "cuda" and "nfe" in rates:
        return rates["nfe"], "measured (D = 2, one GPU)"
    return None, "unmeasured on a GPU"


def cells(projection: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a header and the rows as text, with a column for every D."""
    rows = projection["rows"]
    text_rows = [("", *(f"D = {d}" for d in rows[0]["values"]), "", "from")]
    for row in rows:
        numbers = (_cell(value) for value in row["values"].values())
        text_rows.append((row["name"], *numbers, row["unit"], row["basis"]))
    return text_rows


def table(projection: dict[str, Any]) -> str:
    """Return the projection as text."""
    lines = cells(projection)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*(f"  {line}" for line in projection["assumptions"]), *text])


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"
