"""Compare every operator on the GPU with the CPU on a few hundred numbers: `python -m bench.gpu.compare FOLDER`.

Operators with derivatives are called to second order. Each operator has a process of its own, several run at a
time, and a process that a kernel breaks is started again without that call; see `bench.gpu.listed`. The records
are in FOLDER/compare-<operator>.jsonl. Exit status: 0 where all agree, 1 otherwise.

The bound of the error is the root of the unit roundoff of the dtype, relative to the norm of the output. It finds
kernels that compute something else. The tests judge the last digits; the records hold the errors themselves.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu import listed
from bench.gpu.core_jobs import JOBS
from bench.gpu.listed import DONE, Record
from bench.gpu.sanitize import OPERATORS

KINDS = ("triton", "cuda")
_WARM = "warm: "
"""The beginning of the name of an item that calls a job of `bench.gpu.core` once, so that it is compiled."""
_SECONDS, _PATIENCE = 70.0, 5.0
"""The longest time of an item, in which it may compile half a dozen kernels, and its factor in a rehearsal."""


def _tested() -> Any:
    """Return the module with a call of every operator, which the GPU tests use, too."""
    return importlib.import_module("tests.gpu.calls")


def calls() -> dict[str, Any]:
    """Return the function that makes the call of an operator on a device, by name."""
    return dict(_tested().CALLS)


def kind(name: str) -> str:
    """Return the kind of kernel that an operator has on a GPU where all are built: "cuda" or "triton"."""
    operator = name.removeprefix(_WARM).split()[0]
    return "cuda" if operator in (*OPERATORS, "resample") else "triton"


def items(kinds: Sequence[str], warm: bool) -> list[str]:
    """Return the names of the items of these kinds; those of one process follow each other."""
    names = [name for name in calls() if kind(name) in kinds]
    processes = [*dict.fromkeys(map(process_of, names))]
    names.sort(key=lambda name: processes.index(process_of(name)))
    if warm and "triton" in kinds:
        names = [_WARM + job.name for job in JOBS if job.warmed] + names
    return names


def process_of(name: str) -> str:
    """Return the name of the process that an item belongs to."""
    if name.startswith(_WARM):
        return re.sub("[^a-z0-9]+", "-", name)
    return name.split()[0]


def error_of(result: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over the norm of `wanted`.

    It is infinite for another shape or dtype, for another place of NaN or of infinities, and for whole numbers
    that differ.
    """
    if result.shape != wanted.shape or result.dtype != wanted.dtype:
        return math.inf
    if torch.equal(result, wanted):
        return 0.0
    if not wanted.is_floating_point():
        return math.inf
    finite = wanted.isfinite()
    special = torch.isclose(result[~finite], wanted[~finite], rtol=0.0, atol=0.0, equal_nan=True)
    if not torch.equal(finite, result.isfinite()) or not special.all():
        return math.inf
    a, b = result[finite].double(), wanted[finite].double()
    return ((a - b).norm() / b.norm().clamp(min=torch.finfo(wanted.dtype).tiny)).item()


def compared(results: Sequence[Tensor], truth: Sequence[Tensor]) -> Record:
    """Return the largest error, whether all bits are equal, and whether every output is within its bound."""
    if len(results) != len(truth):
        return {"ok": False, "error": f"{len(results)} outputs instead of {len(truth)}"}
    errors, within = [0.0], True
    for result, wanted in zip(results, truth, strict=True):
        errors.append(error_of(result.cpu(), wanted))
        bound = math.sqrt(torch.finfo(wanted.dtype).eps / 2) if wanted.is_floating_point() else 0.0
        within = within and errors[-1] <= bound
    worst = max(errors)
    # JSON has no infinity
    return {"ok": within, "worst": worst if math.isfinite(worst) else "inf", "same": worst == 0.0}


def call(name: str, device: str, small: bool) -> Record:
    """Compare one operator, or call a job of the core once."""
    if name.startswith(_WARM):
        job = next(job for job in JOBS if job.name == name.removeprefix(_WARM))
        job.warm(torch.device(device), small)
        if device == "cuda":
            torch.cuda.synchronize()
        return {"ok": True}
    make, outputs = calls()[name], _tested().outputs
    record = compared(outputs(make(device)), outputs(make("cpu")))
    print(f"{name}: {record}", flush=True)
    return record


def _table(records: dict[str, Record]) -> str:
    lines = []
    for name, record in records.items():
        good = record["state"] == DONE and record["ok"]
        if name.startswith(_WARM) and good:
            continue
        worst = record.get("worst")
        size = "" if worst is None else f"error {worst if worst == 'inf' else f'{worst:.1e}'}"
        what = record.get("error", size) if record["state"] != DONE else size or record.get("error")
        lines.append(
            f"{'ok' if good else 'WRONG' if record['state'] == DONE else record['state']:<10}"
            f" {name}: {what}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.compare", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: both")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    listed.add_time(parser)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--small", action="store_true", help="warm the jobs of the core at small sizes"
    )
    parser.add_argument("--no-warm", action="store_true", help="do not call the jobs of the core")
    parser.add_argument("--one-process", action="store_true", help="for compute-sanitizer")
    parser.add_argument("--list", type=json.loads, default=None, help="of a child: a JSON list")
    options = parser.parse_args(arguments)
    if options.list is not None:
        path = options.folder / f"compare-{process_of(options.list[0])}.jsonl"
        return listed.work(path, options.list, lambda n: call(n, options.device, options.small))
    end = listed.end_of(options)
    kinds = options.kind or KINDS
    names = items(kinds, warm=not options.no_warm and not options.one_process)
    path = options.folder / "compare-one-process.jsonl"
    if options.one_process:
        path.unlink(missing_ok=True)
        listed.work(path, names, lambda n: call(n, options.device, options.small))
        records = listed.records(path)
    else:
        records = _in_processes(names, options, end)
    print(_table(records))
    bad = [n for n in names if records[n]["state"] != DONE or not records[n]["ok"]]
    print(f"{len(names) - len(bad)} of {len(names)} agree with the CPU or were called")
    return int(bool(bad))


def _in_processes(
    names: Sequence[str], options: argparse.Namespace, end: float
) -> dict[str, Record]:
    command = [sys.executable, "-m", "bench.gpu.compare", str(options.folder)]
    command += ["--device", options.device, *(["--small"] if options.small else [])]
    most = _SECONDS * (_PATIENCE if options.small else 1)
    groups = [(key, [*group]) for key, group in groupby(names, process_of)]

    def supervised(group: tuple[str, list[str]]) -> dict[str, Record]:
        path = options.folder / f"compare-{group[0]}.jsonl"
        return listed.supervise(command, path, group[1], end, lambda _: most)

    records: dict[str, Record] = {}
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for found in pool.map(supervised, groups):
            records |= found
    return records


if __name__ == "__main__":
    sys.exit(main())
