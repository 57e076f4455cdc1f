"""Run what needs a GPU, in two acts: `python -m bench.gpu.check [FOLDER] [--act one|two|both]`.

Act one builds for the present GPU, asks which kernels are live, compares every operator with the CPU and times
the core, in 150 s at most. Act two uses that build for all tests, benchmarks and whole runs, and for
compute-sanitizer. After every stage `summary.json` and `results.tar.gz` in FOLDER (default out/gpu-check) are
rewritten: they hold the outcomes, the records and the logs. Without a GPU the check builds, runs kernels in the
emulator and the interpreter and calls the rest unmeasured, unless --require-gpu ends it. It needs no network.
Exit status: 0 where no stage failed, 1 where one did, 2 where a required GPU is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from bench.gpu import acts, rehearsal
from bench.gpu.acts import Setting
from bench.gpu.archive import Archive
from bench.gpu.stages import NOT_RUN, UNMEASURED, Outcome, Plan, run, summary

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "out" / "gpu-work"
"""The folder of the logs and records of a check, which the archive is made of."""
_SECONDS = {"one": acts.ONE, "two": acts.TWO, "both": acts.BOTH}


def facts() -> dict[str, Any]:
    """Return where the check runs; the GPU is None where torch sees none or cannot be imported."""
    command = acts.module("bench.gpu.facts")
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    try:
        content: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        print(answer.stderr, file=sys.stderr)
        return {"gpu": None, "error": answer.stderr[-500:]}
    return content


def names(plan: Plan) -> list[str]:
    """Return the names of the stages of a plan."""
    groups = [each if isinstance(each, tuple) else (each,) for each in plan]
    return [stage.name for group in groups for stage in group]


def perform(act: str, setting: Setting, seconds: float, archive: Archive) -> list[Outcome]:
    """Run an act, or both, within a time, and return the outcomes of its stages."""
    end = time.monotonic() + seconds

    earlier: list[Outcome] = []

    def keep(done: Sequence[Outcome]) -> None:
        archive.keep([*earlier, *done])

    if act in ("one", "both"):
        first = acts.ONE if act == "both" and not setting.rehearsed else seconds
        earlier = run(acts.chosen(acts.act_one(setting), setting.only), setting.work, first, keep)
    if act == "one":
        return earlier
    if any(outcome.name == "build" and outcome.bad for outcome in earlier):
        missing = names(acts.act_two(setting, built=True))
        return earlier + [Outcome(name, NOT_RUN, 0.0, "the build failed") for name in missing]
    plan = acts.chosen(acts.act_two(setting, built=act == "both"), setting.only)
    return earlier + run(plan, setting.work, end - time.monotonic(), keep)


def unmeasured(setting: Setting, seconds: float, archive: Archive) -> list[Outcome]:
    """Check what can be checked without a GPU."""

    def keep(done: Sequence[Outcome]) -> None:
        archive.keep(done)

    outcomes = run(acts.without_gpu(setting), setting.work, seconds, keep)
    missing = [*names(acts.act_one(setting))[1:], *names(acts.act_two(setting, built=True))]
    return outcomes + [Outcome(name, UNMEASURED, 0.0, "no GPU is here") for name in missing]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    _clear(WORK)
    if options.rehearse:
        environment = rehearsal.environment(ROOT, WORK)
    os.environ.update(environment)
    os.chdir(ROOT)
    known = facts()
    gpu = known["gpu"]
    if gpu is None and options.require_gpu:
        print("gpu_check: torch sees no GPU here, and --require-gpu asks for one", file=sys.stderr)
        return 2
    # bench.report.history copies what is to be kept to bench/results, where names hold a date and a commit
    folder = (options.folder or ROOT / "out" / "gpu-check").resolve()
    known |= {
        "act": options.act if gpu else "without a GPU",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rehearsed": options.rehearse,
    }
    archive = Archive(folder, WORK, known)
    signal.signal(signal.SIGTERM, _interrupted)
    print(f"gpu_check: {gpu['name'] if gpu else 'no GPU'}; results in {folder}", flush=True)
    only = [name for name in options.only.split(",") if name]
    setting = Setting(
        WORK, gpu["capability"] if gpu else "", options.in_place, options.rehearse, only
    )
    seconds = options.seconds or _SECONDS[options.act] * (10 if options.rehearse else 1)
    start = time.monotonic()
    outcomes = (
        perform(options.act, setting, seconds, archive)
        if gpu
        else unmeasured(setting, seconds, archive)
    )
    failures = archive.keep(outcomes, complete=True)["failures"]
    print(f"\n{summary(outcomes)}\n{time.monotonic() - start:.0f} s")
    print(f"{len(failures)} failed: {', '.join(failures)}" if failures else "none failed")
    return int(bool(failures))


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Make the signal that ends a command an interrupt, so that stages end with it."""
    raise KeyboardInterrupt


def _clear(folder: Path) -> None:
    """Remove the files of an earlier check."""
    if folder.exists():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.check", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where what is found is written")
    parser.add_argument("--act", choices=["one", "two", "both"], default="both")
    parser.add_argument(
        "--only",
        default="",
        metavar="STAGE,...",
        help="run these stages of the act and keep an earlier build of the same sources",
    )
    parser.add_argument("--seconds", type=float, help="the most that it may take in all")
    parser.add_argument(
        "--require-gpu", action="store_true", help="end at once where torch sees no GPU"
    )
    parser.add_argument("--in-place", action="store_true", help="build without pip")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run every stage at small sizes on a stand-in for a GPU, which needs a CUDA build of torch",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
