"""Run everything that needs a GPU in less than nine minutes: `python -m bench.gpu.check [FOLDER] [--in-place]`.

The check builds for the present GPU, runs the tests marked gpu, compute-sanitizer over the CUDA kernels, and the
benchmarks. `summary.json` in FOLDER (default out/gpu-check) holds the outcome of each. Without a GPU it still
builds, runs Triton kernels in their interpreter, lists their registers, and calls the rest unmeasured. It needs
no network. Exit status: 0 where no stage failed, else 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.gpu.stages import UNMEASURED, Outcome, Stage, run, summary
from bench.harness import machine

TOTAL = 530.0
_REFUSED = (
    "device not supported|not supported on this|unsupported (?:device|driver)|insufficient privileges|"
    "requires a newer|failed to (?:initialize|load)|unable to find"
)
_FIRST = "sampler/,energy/,resample,propagate,weigh"
"""The cases that the goals for a GPU are about: the stage has no time for all."""
_INTERPRETED = ("noise", "potential", "propagate", "reversal", "systematic_resample", "weigh")
_PROBE = """
import json, torch
available = torch.cuda.is_available() and torch.version.cuda is not None
device = torch.cuda.get_device_properties(0) if available else None
print(json.dumps(device and {
    "name": device.name, "capability": f"{device.major}.{device.minor}",
    "memory": device.total_memory, "count": torch.cuda.device_count(),
}))
"""


def probe() -> dict[str, Any] | None:
    """Find the first GPU that torch sees, in another process, so that this one allocates nothing on it."""
    answer = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    if answer.returncode:
        print(answer.stderr, file=sys.stderr)
        return None
    content: dict[str, Any] | None = json.loads(answer.stdout.splitlines()[-1])
    return content


def tool_version(*command: str) -> str:
    """Return the last line that a program prints, or "absent"."""
    if shutil.which(command[0]) is None:
        return "absent"
    answer = subprocess.run(command, capture_output=True, text=True)
    lines = answer.stdout.strip().splitlines()
    return lines[-1] if lines else "unknown"


def kernel_option() -> str:
    """Return the option by which this compute-sanitizer selects kernels; empty where it names none."""
    if shutil.which("compute-sanitizer") is None:
        return ""
    command = ["compute-sanitizer", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True)
    named = re.findall(r"--kernel-[a-z-]+", answer.stdout + answer.stderr)
    # the second is an older name of the first
    return next((option for option in ("--kernel-name", "--kernel-regex") if option in named), "")


def build_stage(gpu: dict[str, Any] | None, in_place: bool) -> Stage:
    """Return the build for the present GPU only, or for the H100 without one.

    nvcc may be absent only where there is no GPU.
    """
    python = sys.executable
    environment = {
        "EDMFAST_SKIP_CUDA": "0",
        "EDMFAST_FORCE_CUDA": str(int(gpu is not None)),
        "TORCH_CUDA_ARCH_LIST": gpu["capability"] if gpu else "9.0",
        "MAX_JOBS": str(len(os.sched_getaffinity(0))),
    }
    plain = [python, "setup.py", "build_ext", "--inplace"]
    pip = [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    pip += ["--no-build-isolation", "--no-deps", "-e", "."]
    first, second = (plain, ()) if in_place else (pip, plain)
    return Stage("build", first, 180, 60, environment, second)


def gpu_stages(folder: Path) -> list[Stage]:
    python, environment = sys.executable, {"PYTHONUNBUFFERED": "1"}
    tests = [python, "-m", "bench.gpu.tests", str(folder / "tests"), "--seconds", "{seconds}"]
    timed = [python, "-m", "bench.run", "--device", "cuda", "--budget", "{seconds}"]
    timed += ["--first", _FIRST, "--graphs", "--threads", str(len(os.sched_getaffinity(0)))]
    scaling = [python, "-m", "bench.studies.scaling", "--device", "cuda", "--quick"]
    scaling += ["--json", str(folder / "scaling.json")]
    absent = importlib.util.find_spec("bench.studies.scaling") is None
    return [
        Stage("tests", tests, 190, 60, environment),
        sanitizer_stage("memcheck", 60, 20),
        sanitizer_stage("racecheck", 45, 15),
        Stage("bench", [*timed, "--json", str(folder / "bench.json")], 255, 120, environment),
        Stage(
            "scaling",
            scaling,
            60,
            30,
            environment,
            instead=(UNMEASURED, "there is no bench.studies.scaling") if absent else None,
        ),
    ]


def sanitizer_stage(tool: str, most: float, least: float) -> Stage:
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    if tool == "racecheck" and (
        option := kernel_option()
    ):  # only our own kernels, because the tool is slow
        command += [option, "kns=edmfast"]
    command += [sys.executable, "-m", "bench.gpu.sanitize"]
    command += ["--few"] if tool == "racecheck" else []
    # each tensor gets its own memory from the driver, or gaps between tensors would count as theirs
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONUNBUFFERED": "1"}
    missing = shutil.which("compute-sanitizer") is None
    instead = ("skipped", "compute-sanitizer is not installed") if missing else None
    return Stage(tool, command, most, least, environment, refusal=_REFUSED, instead=instead)


def cpu_stages() -> list[Stage]:
    """Return the checks of GPU kernels that need no GPU."""
    python = sys.executable
    files = [f"tests/ops/triton/test_{stem}.py" for stem in _INTERPRETED]
    tests = [python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not gpu and not slow"]
    return [
        Stage("emulated", [*tests, "tests/cuda", "tests/test_cuda_build.py"], 120, 30),
        Stage("interpreted", [*tests, *files], 200, 30),
        Stage("compiled", [python, "-m", "bench.gpu.compile_report"], 300, 30),
    ]


def without_gpu(stages: Sequence[Stage]) -> list[Outcome]:
    return [Outcome(stage.name, UNMEASURED, 0.0, "no GPU is here") for stage in stages]


def report(
    gpu: dict[str, Any] | None, outcomes: Sequence[Outcome], seconds: float
) -> dict[str, Any]:
    """Return the content of summary.json."""
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "kind": "gpu-check",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "gpu": gpu,
        "driver": tool_version(*driver),
        "versions": {
            **machine.versions(),
            "nvcc": tool_version("nvcc", "--version"),
            "compute-sanitizer": tool_version("compute-sanitizer", "--version"),
        },
        "seconds": round(seconds, 1),
        "stages": [outcome._asdict() for outcome in outcomes],
        "failures": [outcome.name for outcome in outcomes if outcome.bad],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.check", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where what is found is written")
    parser.add_argument("--in-place", action="store_true", help="build without pip")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    gpu = probe()
    # bench.report.history copies it to bench/results, where names hold a date and a commit
    folder = (options.folder or machine.ROOT / "out" / "gpu-check").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(machine.ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(machine.ROOT), os.environ.get("PYTHONPATH")))
    )
    print(f"gpu_check: {gpu['name'] if gpu else 'no GPU'}; logs in {folder}", flush=True)
    stages = [build_stage(gpu, options.in_place), *(gpu_stages(folder) if gpu else cpu_stages())]
    outcomes = run(stages, folder, TOTAL)
    if gpu is None:
        outcomes += without_gpu(gpu_stages(folder))
    content = report(gpu, outcomes, time.monotonic() - start)
    (folder / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    print(summary(outcomes))
    failures = content["failures"]
    print(f"{len(failures)} failed: {', '.join(failures)}" if failures else "none failed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
