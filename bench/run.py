"""`python -m bench.run`: checks every case, times what is right, prints the table.

Exit status: 0 all right (goals may be missed), 1 an implementation failed its check, 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench import floors, machine, registry
from bench.correctness import failures
from bench.inputs import rotation
from bench.registry import Case
from bench.result import Result, table, write_json
from bench.timing import QUICK, Effort, time_side_by_side


def run_case(
    case: Case, device: torch.device, machine_floors: floors.Floors, effort: Effort
) -> Result:
    """Gate, then clock. Nothing is timed where our own answer is wrong."""
    inputs = case.make_inputs(case.shape, case.dtype, device)
    wrong = failures(case, inputs)
    if "ours" in wrong:
        return Result(case, wrong)
    right = {name: f for name, f in case.implementations.items() if name not in wrong}
    copies = rotation(inputs, machine.cache_bytes(device))
    if case.rounds:
        effort = replace(effort, rounds=min(effort.rounds, case.rounds))
    timings = time_side_by_side(right, copies, device, effort)
    return Result(case, wrong, timings, machine_floors.seconds(case))


def main(arguments: Sequence[str] | None = None, cases: Sequence[Case] | None = None) -> int:
    """Runs the command line; `cases` replaces the registered ones (for tests)."""
    options = _parse(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench: no CUDA device is available to torch", file=sys.stderr)
        return 2
    chosen = registry.select(registry.load() if cases is None else cases, device.type, options.only)
    if not chosen:
        print(f"bench: no case for {device.type} contains {options.only!r}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    effort = QUICK if options.quick else Effort()
    machine_floors = floors.measure(device, [case.dtype for case in chosen if case.flops], QUICK)
    header = _header(device, options, machine_floors)
    print(_headline(header))
    results = []
    for case in chosen:
        print(f"  {case.name} ...", file=sys.stderr, flush=True)
        results.append(run_case(case, device, machine_floors, effort))
    print(table(results))
    if options.json:
        path = _json_path(options.json, device, header)
        write_json(path, header, results)
        print(f"written to {path}")
    return int(any(result.failures for result in results))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--only", default="", metavar="SUBSTR", help="cases whose name contains it")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a result")
    parser.add_argument(
        "--json", metavar="PATH", help="'auto' is bench/results/<device>/<date>-<commit>.json"
    )
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return options


def _header(
    device: torch.device, options: argparse.Namespace, machine_floors: floors.Floors
) -> dict[str, Any]:
    return {
        "device": device.type,
        "device_name": machine.device_name(device),
        "threads": options.threads,
        "quick": options.quick,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "versions": machine.versions(),
        "floors": asdict(machine_floors),
    }


def _headline(header: dict[str, Any]) -> str:
    measured = header["floors"]
    rates = "".join(
        f", {dtype.removeprefix('torch.')} gemm {rate / 1e9:.4g} Gflop/s"
        for dtype, rate in measured["gemm"].items()
    )
    return (
        f"{header['device_name']}, {header['threads']} thread(s), torch "
        f"{header['versions']['torch']}: copy {measured['bandwidth'] / 1e9:.3g} GB/s{rates}"
    )


def _json_path(given: str, device: torch.device, header: dict[str, Any]) -> Path:
    if given != "auto":
        return Path(given)
    name = f"{header['date'][:10]}-{header['commit']}.json"
    return machine.ROOT / "bench" / "results" / machine.slug(device) / name


if __name__ == "__main__":
    sys.exit(main())
