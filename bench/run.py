"""Check every case, time the correct implementations, and print the table: `python -m bench.run`.

Exit status: 0 all right (goals may be missed), 2 bad usage, 3 an implementation failed its check. A run that
came to its end has "complete" in its JSON, even where it left cases out for lack of time.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench.harness import anatomy, floors, machine, memory, registry
from bench.harness.correctness import failures, reason
from bench.harness.inputs import rotation
from bench.harness.registry import Case
from bench.harness.result import Result, write_json
from bench.harness.table import table
from bench.harness.timing import QUICK, Effort, captured, time_side_by_side


def run_case(
    case: Case,
    device: torch.device,
    machine_floors: floors.Floors,
    effort: Effort,
    *,
    graphs: bool = False,
) -> Result:
    """Check the implementations of a case, then time them. Nothing is timed where our own answer is wrong."""
    try:
        inputs = case.make_inputs(case.shape, case.dtype, device)
        wrong = failures(case, inputs)
    except Exception as error:
        wrong = {"the case itself": reason(error)}
    if {"ours", "the case itself"} & set(wrong):
        return Result(case, wrong, device=device.type)
    try:
        return _measured(case, wrong, inputs, device, machine_floors, effort, graphs)
    except Exception as error:  # the other cases go on after out-of-memory errors and the like
        return Result(case, wrong | {"the measurement": reason(error)}, device=device.type)


def _measured(
    case: Case,
    wrong: dict[str, str],
    inputs: tuple[Any, ...],
    device: torch.device,
    machine_floors: floors.Floors,
    effort: Effort,
    graphs: bool,
) -> Result:
    right = {name: f for name, f in case.implementations.items() if name not in wrong}
    peaks = {name: memory.peak_of_call(f, inputs, device) for name, f in right.items()}
    copies: list[tuple[Any, ...]] = rotation(inputs, machine.cache_bytes(device))
    if case.rounds:
        effort = replace(effort, rounds=min(effort.rounds, case.rounds))
    timer, timed = ("events" if device.type == "cuda" else "clock"), right
    # goals against the floor concern the device's own time, not Python's
    if graphs and case.floor_goals and (replays := captured(right, copies)):
        timer, (timed, copies) = "graphs", (replays[0], [*replays[1]])
    return Result(
        case,
        wrong,
        time_side_by_side(timed, copies, device, effort),
        machine_floors.seconds(case),
        device=device.type,
        timer=timer,
        peaks=peaks,
        anatomy=anatomy.of_call(case.ours, inputs, device) if device.type == "cuda" else None,
    )


def _profiled(result: Result) -> Result:
    """Add the anatomy on the CPU, after all cases are measured.

    The profiler leaves data in the heap, which would count as memory of later cases.
    """
    if not result.timings:
        return result
    case, device = result.case, torch.device(result.device)
    try:
        inputs = case.make_inputs(case.shape, case.dtype, device)
        case.ours(*inputs)
        return replace(result, anatomy=anatomy.of_call(case.ours, inputs, device))
    except Exception as error:
        return replace(result, failures=result.failures | {"the profile": reason(error)})


def main(arguments: Sequence[str] | None = None, cases: Sequence[Case] | None = None) -> int:
    """Run the command line; `cases` replaces the registered ones (for tests)."""
    start, longest = time.monotonic(), 0.0
    options = _parse(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench: no CUDA device is available to torch", file=sys.stderr)
        return 2
    listed = registry.load() if cases is None else cases
    chosen = registry.select(listed, device.type, options.only, options.without)
    first = [part for part in options.first.split(",") if part]
    chosen.sort(
        key=lambda case: next((i for i, part in enumerate(first) if part in case.name), len(first))
    )
    if not chosen:
        print(f"bench: no case for {device.type} contains {options.only!r}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    kept = memory.keep_freed_memory()
    effort = QUICK if options.quick else Effort()
    machine_floors = floors.measure(device, [case.dtype for case in chosen if case.flops], QUICK)
    header = _header(device, options, machine_floors) | {"keeps_freed_memory": kept}
    print(_headline(header))
    path = _json_path(options.json, device, header) if options.json else None
    results: list[Result] = []
    for index, case in enumerate(chosen):
        before = time.monotonic()
        if before - start + longest > options.budget:
            header["left_out"] = [case.name for case in chosen[index:]]
            break
        print(f"  {case.name} ...", file=sys.stderr, flush=True)
        results.append(run_case(case, device, machine_floors, effort, graphs=options.graphs))
        _clear(device)
        longest = max(longest, time.monotonic() - before)
        if path:
            # keep the measurements even if a later case ends the run
            write_json(path, header, results)
    if device.type == "cpu":
        results = [*map(_profiled, results)]
    print(table(results))
    if left_out := header["left_out"]:
        print(f"no time was left for: {'; '.join(left_out)}")
    if path:
        header["complete"] = True
        write_json(path, header, results)
        print(f"written to {path}")
    return 3 if any(result.failures for result in results) else 0


def _clear(device: torch.device) -> None:
    """Free what the last case took."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--only", default="", metavar="SUBSTR", help="cases whose name contains it")
    parser.add_argument(
        "--first",
        default="",
        metavar="SUBSTR,...",
        help="start with cases whose name contains one of these, in this order",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out this baseline, and cases that have no other one",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a result")
    parser.add_argument(
        "--graphs",
        action="store_true",
        help="on a GPU, replay CUDA graphs where there is a goal against the floor",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="start no case that may end later than this, judged by the longest so far (default: run all)",
    )
    parser.add_argument(
        "--json", metavar="PATH", help="'auto' is bench/results/<device>/<date>-<commit>.json"
    )
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.graphs and options.device != "cuda":
        parser.error("--graphs needs --device cuda")
    return options


def _header(
    device: torch.device, options: argparse.Namespace, machine_floors: floors.Floors
) -> dict[str, Any]:
    return {
        "device": device.type,
        "device_name": machine.device_name(device),
        "threads": options.threads,
        "quick": options.quick,
        "only": options.only,
        "without": options.without,
        "left_out": [],
        "complete": False,
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


def _json_path(path: str, device: torch.device, header: dict[str, Any]) -> Path:
    if path != "auto":
        return Path(path)
    name = f"{header['date'][:10]}-{header['commit']}.json"
    return machine.ROOT / "bench" / "results" / machine.slug(device) / name


if __name__ == "__main__":
    sys.exit(main())
