"""Time the core by replays of CUDA graphs: `python -m bench.gpu.core FOLDER --seconds S`.

The first item measures the bandwidth of copies and the rate of matrix products. Then come the jobs of
`bench.gpu.core_jobs` in the order of their importance, each against eager torch and its floor, until the time is
over. A job that crashes or takes too long hides none of the others. The records are in FOLDER/core.jsonl. Exit
status: 0 where all jobs were timed and right, 1 otherwise.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from bench.gpu import listed
from bench.gpu.core_jobs import JOBS
from bench.gpu.listed import DONE, Record
from bench.harness import floors as bench_floors
from bench.harness.floors import Floors
from bench.harness.timing import QUICK

FLOORS = "floors"
_FLOOR_SECONDS = 30.0
_PATIENCE = 5
"""The factor of the times of jobs in a rehearsal, which compiles C++ on a few processors."""


def known_floors(path: Path) -> Floors | None:
    """Return the floors that an earlier item, perhaps of another process, has measured."""
    record = listed.records(path).get(FLOORS)
    if record is None or record["state"] != DONE:
        return None
    return Floors(record["bandwidth"], record["gemm"])


def item(name: str, path: Path, device: torch.device, small: bool) -> Record:
    """Measure the floors or a job."""
    if name == FLOORS:
        dtypes = [torch.float32, torch.bfloat16]
        # the sizes for a GPU would take minutes in a rehearsal
        place = torch.device("cpu") if small else device
        record: Record = {"ok": True, **asdict(bench_floors.measure(place, dtypes, QUICK))}
    else:
        job = next(job for job in JOBS if job.name == name)
        record = job.run(device, known_floors(path), small)
    gc.collect()  # the next job finds the memory of this one free
    if device.type == "cuda":
        torch.cuda.empty_cache()
    print(line(name, {"state": DONE, **record}), flush=True)
    return record


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.4g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.4g} ms"


def line(name: str, record: Record) -> str:
    """Return a line of the table."""
    if record["state"] != DONE or not record["ok"]:
        return f"{name}: {record['state']}, {record.get('error', '')}"
    if name == FLOORS:
        rates = {key.removeprefix("torch."): value for key, value in record["gemm"].items()}
        products = ", ".join(f"{key} {rate / 1e12:.3g} Tflop/s" for key, rate in rates.items())
        return f"{name}: copy {record['bandwidth'] / 1e9:.4g} GB/s, {products}"
    others = ", ".join(f"{key} {_time(value)}" for key, value in record["others"].items())
    ratio = f"{record['ratio']:.2f}x of {record['best']}" if record["ratio"] else "no rival"
    reached = f"{record['fraction']:.3f} of the floor" if record["fraction"] else "no floor"
    wrong = "".join(f"; {key} failed: {why}" for key, why in record["failures"].items())
    clock = record["timers"].get("ours", "")
    return f"{name}: {_time(record['ours'])} ({clock}), {ratio}, {reached}; {others}{wrong}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.core", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    listed.add_time(parser)
    parser.add_argument("--small", action="store_true", help="small sizes, for a rehearsal")
    parser.add_argument("--only", default="", help="jobs with this in their names")
    parser.add_argument("--list", type=json.loads, default=None, help="of a child: a JSON list")
    options = parser.parse_args(arguments)
    path, device = options.folder / "core.jsonl", torch.device(options.device)
    if options.list is not None:
        return listed.work(path, options.list, lambda n: item(n, path, device, options.small))
    end = listed.end_of(options)
    seconds = {FLOORS: _FLOOR_SECONDS, **{job.name: job.seconds for job in JOBS}}
    patience = _PATIENCE if options.small else 1
    names = [name for name in seconds if name == FLOORS or options.only in name]
    command = [sys.executable, "-m", "bench.gpu.core", str(options.folder)]
    command += ["--device", options.device, *(["--small"] if options.small else [])]
    records = listed.supervise(command, path, names, end, lambda n: patience * seconds[n])
    print(*(line(name, records[name]) for name in names), sep="\n")
    return int(any(r["state"] != DONE or not r["ok"] for r in records.values()))


if __name__ == "__main__":
    sys.exit(main())
