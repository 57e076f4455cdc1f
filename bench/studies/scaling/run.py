"""Measure what a job costs as one size of it grows, and project what a very large run would need.

Command: `python -m bench.studies.scaling`.

Each axis is checked first; a wrong one is not timed and makes the exit status 1. Then all its sizes are timed
in turn and a power law is fitted to the upper half of them. A projection of one population over many GPUs
follows, with all of its assumptions. Exit status: 0 all right, 1 an axis failed its check or lost a size, 2
bad usage. The JSON is written after every axis; a finished run has "complete" in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench.cases import sampler_targets
from bench.harness import machine
from bench.harness.timing import QUICK, Effort
from bench.studies.scaling import assumptions as scaling_assumptions
from bench.studies.scaling import jobs as scaling_jobs
from bench.studies.scaling import models as scaling_models
from bench.studies.scaling import projection as scaling_projection
from bench.studies.scaling import ranks as scaling_ranks
from bench.studies.scaling import traffic as scaling_traffic
from bench.studies.scaling.axes import Axis, Measured, chosen, measure, table
from bench.studies.scaling.memory import shared_peak
from edmfast._internal.atomic_write import replacing

AXES = [*scaling_jobs.AXES, *scaling_models.AXES, *scaling_ranks.AXES]
EFFORT = Effort(seconds=2.0, rounds=7)
TRAFFIC_SIZES, TRAFFIC_QUICK, TRAFFIC_POPULATIONS = (
    (2**12, 2**13, 2**14, 2**15, 2**16),
    (2**11, 2**12, 2**13),
    16,
)


def main(arguments: Sequence[str] | None = None, axes: Sequence[Axis] | None = None) -> int:
    """Run the command line; `axes` replaces the known ones (for tests)."""
    options = _parse(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("scaling: no CUDA device is available to torch", file=sys.stderr)
        return 2
    try:
        selected = chosen(AXES if axes is None else axes, options.axes, device.type)
        scaling_assumptions.check_options(options)
    except ValueError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    effort = replace(QUICK, rounds=3) if options.quick else EFFORT
    header = _header(device, options)
    print(f"{header['device_name']}, {options.threads} thread(s), torch {torch.__version__}")
    path = _json_path(options.json, device, header) if options.json else None
    projection: dict[str, Any] = {"assumptions": [], "rows": []}
    measured: list[Measured] = []

    def keep(*, complete: bool) -> None:
        if path:
            axis_records = [axis_result.to_json() for axis_result in measured]
            record = {
                **header,
                "complete": complete,
                "axes": axis_records,
                "projection": projection,
            }
            _write(path, record)

    for axis in selected:
        measured.append(measure(axis, device, effort, quick=options.quick))
        print(table(measured[-1]), flush=True)
        # keep the measurements even if a later axis ends the run
        keep(complete=False)
    if options.projection:
        projection = _project(options, device, measured)
        print(f"\nprojection\n{scaling_projection.table(projection)}")
    keep(complete=True)
    if path:
        print(f"written to {path}")
    return int(any(axis_result.failure or axis_result.lost for axis_result in measured))


def rates(measured: Sequence[Measured]) -> dict[str, float]:
    """Return rates of the largest sizes.

    That is network evaluations per second, and seconds per particle of the step beside the network and of a
    whole step.
    """
    record = {}
    for axis_result in measured:
        if axis_result.failure:
            continue
        size, timing = [*axis_result.times.items()][-1]
        if axis_result.axis.name == "N-run":
            record["run"] = timing.median / size / sampler_targets.STEPS
        if axis_result.axis.name == "N-network":
            record["nfe"] = size * (sampler_targets.STEPS + 1) / timing.median
        if axis_result.axis.name == "N-step":
            record["step"] = timing.median / size
    return record


def _project(
    options: argparse.Namespace, device: torch.device, measured: Sequence[Measured]
) -> dict[str, Any]:
    sizes = TRAFFIC_QUICK if options.quick else TRAFFIC_SIZES
    counted = scaling_traffic.measure_traffic(sizes, TRAFFIC_POPULATIONS)
    peak = shared_peak() if sys.platform.startswith("linux") else None
    return scaling_projection.project(options, device.type, counted, peak, rates(measured))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.scaling", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default 1, and with a GPU all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: a look, not a result")
    parser.add_argument(
        "--axes", default="", metavar="N,D,…", help="names or families; default all"
    )
    parser.add_argument(
        "--json",
        metavar="PATH",
        help="'auto' is bench/results/<device>/scaling-<date>-<commit>.json",
    )
    parser.add_argument("--no-projection", dest="projection", action="store_false")
    scaling_assumptions.add_options(parser)
    options = parser.parse_args(arguments)
    if options.threads is None:
        options.threads = (os.cpu_count() or 1) if options.device == "cuda" else 1
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return options


def _header(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "kind": "scaling",
        "device": device.type,
        "device_name": machine.device_name(device),
        "threads": options.threads,
        "quick": options.quick,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "versions": machine.versions(),
    }


def _json_path(target: str, device: torch.device, header: dict[str, Any]) -> Path:
    if target != "auto":
        return Path(target)
    name = f"scaling-{header['date'][:10]}-{header['commit']}.json"
    return machine.ROOT / "bench" / "results" / machine.slug(device) / name


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
