"""Call raw operators with random arguments, in processes of their own.

Command: `python -m bench.studies.fuzz [--seconds 600] [--sanitize]`.

--sanitize builds the CPU library anew with AddressSanitizer and UndefinedBehaviorSanitizer into build/sanitized,
beside copies of the package's Python files, and calls that one. Needs GCC and its libasan.
Prints the seed of a call that ended its process; `--first SEED --calls 1` makes it alone.
Exit status: 0 where no call did, 1 where one did, 2 where nothing could be built or run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "build" / "sanitized"
FLAGS = (
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr,alignment "
    "-fno-sanitize-recover=undefined -ffp-contract=off -fno-math-errno -fopenmp-simd -std=c++20 -fPIC -shared "
    "-fvisibility=hidden"
)
_BATCH = 2000


def build() -> Path:
    """Compile the CPU library with sanitizers, and return the folder that holds the package."""
    from torch.utils.cpp_extension import include_paths, library_paths

    package = FOLDER / "edmfast"
    shutil.rmtree(package, ignore_errors=True)
    compiled = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "edmfast", package, ignore=compiled)
    sources = [ROOT / "csrc" / "ops.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))]
    objects = [FOLDER / f"{source.stem}.o" for source in sources]
    includes = [f"-I{path}" for path in include_paths()]
    # clones for several instruction sets are chosen before a sanitizer has started
    flags = [
        *FLAGS.split(),
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        "-DEDMFAST_NO_MULTIVERSION",
    ]
    for source, output in zip(sources, objects, strict=True):
        print(f"compiling {source.name}", flush=True)
        subprocess.run(["g++", *flags, *includes, "-c", str(source), "-o", str(output)], check=True)
    places = [f"-L{path}" for path in library_paths()]
    libraries = [*places, "-ltorch_cpu", "-lc10"]
    target = package / "_C.abi3.so"
    subprocess.run(["g++", *flags, *map(str, objects), *libraries, "-o", str(target)], check=True)
    return FOLDER


def environment(folder: Path | None) -> dict[str, str]:
    """Return the environment of a process that makes calls, with the sanitized package where there is one."""
    if folder is None:
        return {**os.environ, "PYTHONPATH": str(ROOT)}
    named = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(named),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
    }


def calls(first: int, count: int) -> None:
    """Make the calls of these seeds, naming each before it is made."""
    import torch

    from bench.studies.fuzz.calls import call

    torch.set_num_threads(2)
    accepted = 0
    for seed in range(first, first + count):
        name, operator = call(seed)
        print(f"seed {seed} {name}", flush=True)
        try:
            operator()
            accepted += 1
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, MemoryError):
            pass  # an operator may refuse a call in words; the search is for calls that end the process
    print(f"accepted {accepted} of {count}", flush=True)


def run(first: int, count: int, folder: Path | None, seconds: float) -> tuple[int, list[str], str]:
    """(exit status, lines, error text) of one process; a hang counts as status 124."""
    command = [
        sys.executable,
        "-c",
        f"from bench.studies.fuzz.run import calls; calls({first}, {count})",
    ]
    try:
        done = subprocess.run(
            command,
            env=environment(folder),
            cwd=FOLDER if folder else ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        text = printed.decode() if isinstance(printed, bytes) else printed
        return 124, text.splitlines(), f"no end after {seconds:.0f} s"
    return done.returncode, done.stdout.splitlines(), done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="start no process after these")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--calls", type=int, default=0, help="calls in all, without a limit of time"
    )
    parser.add_argument("--sanitize", action="store_true", help="build with sanitizers first")
    options = parser.parse_args(arguments)
    try:
        folder = build() if options.sanitize else None
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"fuzz: cannot build: {error}", file=sys.stderr)
        return 2
    end, seed, deaths = time.monotonic() + options.seconds, options.first, 0
    last = options.first + options.calls if options.calls else None
    while deaths < 20 and (seed < last if last else time.monotonic() < end):
        count = min(_BATCH, last - seed) if last else _BATCH
        status, lines, text = run(seed, count, folder, max(300.0, options.seconds))
        if status == 0:
            print(f"seeds {seed} to {seed + count - 1}: {lines[-1]}", flush=True)
            seed += count
            continue
        named = [line for line in lines if line.startswith("seed ")]
        if not named:
            print(f"fuzz: no call was made, status {status}\n{text[-3000:]}", file=sys.stderr)
            return 2
        deaths += 1
        print(f"{named[-1]}: status {status}\n{text[-6000:]}", flush=True)
        seed = int(named[-1].split()[1]) + 1
    print(f"{seed - options.first} calls, {deaths} of which ended their process")
    return int(deaths > 0)
