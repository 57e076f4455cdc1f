"""The stages of the two acts of a check, in order, and those of a check without a GPU.

Act one builds, and finds out whether the kernels are live, right, and as fast as they should be, in `ONE` seconds.
Act two uses its build for everything else, the most important first: all tests, all benchmarks, whole runs,
compute-sanitizer and the scaling study.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.gpu.stages import SKIPPED, Plan, Stage

ONE, TWO = 150.0, 520.0
"""Seconds of each act."""
BOTH = 545.0
"""Seconds of both acts in one call: less than their sum, as a machine may end a command after ten minutes."""
REFUSED = (
    "device not supported|not supported on this|unsupported (?:device|driver)|insufficient privileges|"
    "requires a newer|failed to (?:initialize|load)|unable to find"
)
FIRST = (
    "propagate/4096,propagate/131072,weigh/1x1000000,attention/bf16,mlp_potential,group double backward 256,"
    "resample/1x67108864,resample/1x1048576,energy/,populations,reversal,noise,weigh,propagate,resample,norm,potential"
)
"""The cases in the order of their importance, since there is no time for all: the goals for a GPU first."""
_INTERPRETED = (
    "curvature",
    "linear_combination",
    "noise",
    "potential",
    "propagate",
    "reversal",
    "signs",
    "systematic_resample",
    "weigh",
)
_UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
_REHEARSED_TESTS = ("tests/gpu/test_live.py",)


class Setting(NamedTuple):
    """The settings that the stages depend on.

    work: the folder of their files. capability: of the present GPU, empty without one. in_place: without pip.
    rehearsed: run small sizes on a stand-in for a GPU; see `bench.gpu.rehearsal`. only: the names of the wanted
    stages, empty for all.
    """

    work: Path
    capability: str
    in_place: bool = False
    rehearsed: bool = False
    only: Sequence[str] = ()


def module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", name, *map(str, arguments)]


def build_stage(setting: Setting, reuse: bool) -> Stage:
    """Return the build for the present GPU only, or for the H100 and the H200 without one."""
    command = module("bench.gpu.build", setting.capability or "9.0")
    command += ["--in-place"] if setting.in_place else []
    command += ["--reuse"] if reuse else []
    command += [] if setting.capability else ["--without-gpu"]
    return Stage(
        "build", command, 600 if setting.rehearsed else 120, 40, _UNBUFFERED, essential=True
    )


def act_one(setting: Setting) -> Plan:
    small = ["--small"] if setting.rehearsed else []
    compare = [*module("bench.gpu.compare", setting.work, "--until", "{until}"), *small]
    slow = 10.0 if setting.rehearsed else 1.0
    return [
        # Triton compiles on processors that the compilers of the build leave idle
        (
            build_stage(setting, reuse=setting.rehearsed or bool(setting.only)),
            Stage(
                "triton",
                [*compare, "--kind", "triton"],
                85 * slow,
                20,
                triton_environment(setting),
                shown=20,
            ),
        ),
        (
            Stage("live", module("bench.gpu.live", setting.work), 30 * slow, 10, _UNBUFFERED),
            Stage("cuda", [*compare, "--kind", "cuda"], 40 * slow, 15, _UNBUFFERED, shown=25),
        ),
        Stage("core", core_command(setting), 110 * slow, 40, _UNBUFFERED, shown=14),
    ]


def core_command(setting: Setting) -> list[str]:
    small = ["--small"] if setting.rehearsed else []
    return [*module("bench.gpu.core", setting.work, "--until", "{until}"), *small]


def triton_environment(setting: Setting) -> dict[str, str]:
    """Return the settings of a stage in which a rehearsal compiles Triton's kernels in earnest."""
    return {**_UNBUFFERED, **({"EDMFAST_REHEARSED_TRITON": "1"} if setting.rehearsed else {})}


def act_two(setting: Setting, built: bool = False) -> Plan:
    """Return the stages. built: whether act one has run just before, so that its stages need no repetition."""
    work, threads = setting.work, len(os.sched_getaffinity(0))
    tests = module("bench.gpu.tests", work / "tests", "--seconds", "{seconds}")
    timed = module("bench.run", "--device", "cuda", "--budget", "{seconds}")
    timed += ["--threads", str(threads), "--first", FIRST]
    # a baseline that torch.compile makes takes up to a minute: it comes after everything else
    without = ["--without", "compile"]
    first = ["tests/gpu", "tests/ops/test_cuda.py"]
    if setting.rehearsed:
        first, timed = [*_REHEARSED_TESTS], [*timed, "--quick"]
    bench = ["--only", "weigh/256"] if setting.rehearsed else []
    runs = ["--only", "weigh/64" if setting.rehearsed else "sampler/"]
    # a stand-in has no time for the sizes of a GPU
    device = "cpu" if setting.rehearsed else "cuda"
    scaling = module("bench.studies.scaling", "--device", device, "--quick")
    scaling += ["--json", str(work / "scaling.json")]
    scaling += ["--axes", "N", "--no-projection"] if setting.rehearsed else []
    plain = [*tests, *(word for path in first for word in ("--path", path))]
    later = [*tests, *(word for path in first for word in ("--ignore", path))]
    later[later.index(str(work / "tests"))] = str(work / "later-tests")
    later += ["--path", "tests/ops/test_derivatives.py"] if setting.rehearsed else []
    return [
        *([] if built else [build_stage(setting, reuse=True)]),
        Stage("tests", plain, 110, 50, _UNBUFFERED),
        Stage(
            "bench",
            [*timed, *without, *bench, "--graphs", "--json", str(work / "bench.json")],
            120,
            50,
        ),
        sanitizer_stage("memcheck", 45, 20),
        Stage("runs", [*timed, *without, *runs, "--json", str(work / "runs.json")], 50, 25),
        Stage("later tests", later, 110, 40, _UNBUFFERED),
        sanitizer_stage("racecheck", 40, 15),
        triton_sanitizer_stage(setting, 45, 15),
        Stage("scaling", scaling, 50, 20, _UNBUFFERED),
        Stage(
            "compiled", [*timed, *bench, "--graphs", "--json", str(work / "compiled.json")], 200, 20
        ),
    ]


def chosen(plan: Plan, only: Sequence[str]) -> Plan:
    """Return the stages of a plan with one of these names, and what all others need; all where none is named."""
    groups = [each if isinstance(each, tuple) else (each,) for each in plan]
    kept = [
        tuple(s for s in group if not only or s.essential or s.name in only) for group in groups
    ]
    return [group for group in kept if group]


def kernel_option() -> str:
    """Return the option by which this compute-sanitizer selects kernels; empty where it names none."""
    if shutil.which("compute-sanitizer") is None:
        return ""
    command = ["compute-sanitizer", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True)
    named = re.findall(r"--kernel-[a-z-]+", answer.stdout + answer.stderr)
    # the second is an older name of the first
    return next((option for option in ("--kernel-name", "--kernel-regex") if option in named), "")


def _sanitized(
    name: str, tool: str, options: list[str], command: list[str], most: float, least: float
) -> Stage:
    whole = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *options, *command]
    # each tensor gets its own memory from the driver, or gaps between tensors would count as theirs
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", **_UNBUFFERED}
    missing = shutil.which("compute-sanitizer") is None
    instead = (SKIPPED, "compute-sanitizer is not installed") if missing else None
    return Stage(name, whole, most, least, environment, refusal=REFUSED, instead=instead)


def sanitizer_stage(tool: str, most: float, least: float) -> Stage:
    """Return the stage that calls the CUDA kernels under a tool of compute-sanitizer."""
    options, command = [], module("bench.gpu.sanitize")
    if tool == "racecheck":  # it is slow: fewer calls, and only our own kernels
        command += ["--few"]
        if option := kernel_option():
            options = [option, "kns=edmfast"]
    return _sanitized(tool, tool, options, command, most, least)


def triton_sanitizer_stage(setting: Setting, most: float, least: float) -> Stage:
    """Return the stage that calls every Triton kernel once under memcheck."""
    command = module("bench.gpu.compare", setting.work, "--kind", "triton", "--one-process")
    return _sanitized("triton memcheck", "memcheck", [], command, most, least)


def without_gpu(setting: Setting) -> Plan:
    """Return the checks of GPU kernels that need no GPU."""
    files = [f"tests/ops/triton/test_{stem}.py" for stem in _INTERPRETED]
    tests = module("pytest", "-p", "no:cacheprovider", "-m", "not gpu and not slow")
    return [
        build_stage(setting, reuse=False),
        Stage("emulated", [*tests, "tests/cuda", "tests/test_cuda_build.py"], 120, 30),
        Stage("interpreted", [*tests, *files], 200, 30),
        Stage("compiled", module("bench.gpu.compile_report"), 300, 30),
    ]
