"""Run the tests marked gpu, several processes at a time: `python -m bench.gpu.tests FOLDER --seconds S`.

Most of their time goes into compiling kernels, which needs processors and not the GPU. Tests are dealt in chunks
of one file; each chunk has a log and a JUnit file in FOLDER. Chunks that run out of time are ended and reported,
and so are skipped tests. Exit status: 0 where all passed or were skipped for a reason that a GPU may have, 1
otherwise, 2 where there was nothing to run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).resolve().parents[2]
_CHUNK = 20
_SMALL_CHUNK = 6
"""The size where each test compiles kernels of its own, which takes several seconds."""
_NOTHING_RAN = 5  # pytest's exit status when all tests were deselected
_FIRST = (
    "tests/gpu/test_live",
    "tests/ops/test_cuda",
    "tests/gpu/",
    "tests/ops/triton/test_attention",
    "tests/ops/triton/",
)
"""The tests that tell most start first, then those that take longest."""
_SLOW = "attention"
_OFF = ("CUDA kernels", "no CUDA device", "needs a CUDA device")
"""Beginnings of the reasons for which a test may not be skipped on a GPU."""
_SHOWN_LINES = 10
"""The largest number of wrong skips that are printed."""
_KERNELS = "tests.ops.test_cuda"


class Ran(NamedTuple):
    """A finished test: the dotted name of its file, its own name, and the reason where it was skipped."""

    file: str
    name: str
    skipped: str | None


def pytest_command() -> list[str]:
    """Return the command, with options in place of the project's own, which print less."""
    options = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    return [sys.executable, "-m", "pytest", *options, "-o", "addopts=--import-mode=importlib"]


def collect(expression: str, paths: Sequence[str] = ()) -> list[str]:
    """Return the names of the tests that a marker expression selects.

    Raise RuntimeError where collecting fails.
    """
    command = ["--collect-only", "-q", "-m", expression, *paths]
    collected = subprocess.run(
        [*pytest_command(), *command], cwd=ROOT, capture_output=True, text=True
    )
    if collected.returncode not in (0, _NOTHING_RAN):
        raise RuntimeError(f"tests could not be collected:\n{collected.stdout}{collected.stderr}")
    return [line for line in collected.stdout.splitlines() if "::" in line]


def chunks(
    tests: Sequence[str], size: int = _CHUNK, small: int = _SMALL_CHUNK
) -> Iterator[list[str]]:
    """Return neighbours from one file, at most `size` of them, or `small` of tests of attention."""

    def rank(test: str) -> int:
        return next((i for i, start in enumerate(_FIRST) if test.startswith(start)), len(_FIRST))

    ordered = sorted(tests, key=rank)
    for file, group in groupby(ordered, key=lambda test: test.split("::", 1)[0]):
        names, most = list(group), min(size, small) if _SLOW in file else size
        yield from (names[start : start + most] for start in range(0, len(names), most))


def run_chunk(names: Sequence[str], stem: Path, end: float) -> str:
    """Run a chunk; return an empty text where all passed, and else the report."""
    rest = end - time.monotonic()
    reports = f"{names[0].split('::', 1)[0]}, {len(names)} tests ({stem.name}.log)"
    for kind in (".log", ".xml"):  # left by an earlier run
        stem.with_suffix(kind).unlink(missing_ok=True)
    if rest <= 0:
        return f"not started: {reports}"
    # with -v a log ends with the name of the unfinished test
    options = ["-v", f"--junitxml={stem}.xml"]
    with stem.with_suffix(".log").open("w") as log:
        try:
            done = subprocess.run(
                [*pytest_command(), *options, *names],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=rest,
            )
        except subprocess.TimeoutExpired:
            return f"not over in time: {reports}"
    if done.returncode == _NOTHING_RAN:
        return f"nothing ran: {reports}"
    return f"failed: {reports}" if done.returncode else ""


def failures_in(log: Path) -> list[str]:
    """Return the lines of pytest's own summary."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line[:300] for line in lines if line.startswith(("FAILED ", "ERROR "))]


def ran(report: Path) -> Iterator[Ran]:
    """Return the tests in a JUnit file; none where it is missing, as it is written at the end."""
    try:
        cases = [*ElementTree.parse(report).iter("testcase")]
    except (FileNotFoundError, ElementTree.ParseError):
        return
    for case in cases:
        skip = case.find("skipped")
        why = None if skip is None else skip.get("message", "")
        yield Ran(case.get("classname", ""), case.get("name", ""), why)


def wrongly_skipped(tests: Sequence[Ran]) -> list[str]:
    """Return the skips that are wrong where there is a GPU, because its kernels' tests must run on it."""
    wrong = [
        f"skipped on a GPU: {test.file}::{test.name} ({test.skipped})"
        for test in tests
        if test.skipped is not None and test.skipped.startswith(_OFF)
    ]
    kernels = [test.skipped for test in tests if test.file == _KERNELS]
    if kernels and None not in kernels:
        wrong.insert(0, f"skipped whole on a GPU: {_KERNELS}, {len(kernels)} tests ({kernels[0]})")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.tests", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--marker", default="gpu", help="which tests (default gpu)")
    parser.add_argument("--jobs", type=int, default=min(12, max(1, (os.cpu_count() or 1) - 2)))
    parser.add_argument("--path", action="append", default=[], help="of tests (default all)")
    parser.add_argument("--ignore", action="append", default=[], help="a path to leave out")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.seconds
    options.folder.mkdir(parents=True, exist_ok=True)
    left_out = [f"--ignore={path}" for path in options.ignore]
    tests = collect(options.marker, [*options.path, *left_out])
    if not tests:
        print(f"no test is marked {options.marker}", file=sys.stderr)
        return 2
    parts = list(chunks(tests))
    stems = [options.folder.resolve() / f"{index:03}" for index in range(len(parts))]
    print(f"{len(tests)} tests in {len(parts)} chunks, {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        reports = list(pool.map(run_chunk, parts, stems, [end] * len(parts)))
    for line, stem in zip(reports, stems, strict=True):
        if line:
            print(line, *failures_in(stem.with_suffix(".log")), sep="\n    ")
    over = [test for stem in stems for test in ran(stem.with_suffix(".xml"))]
    reasons = Counter(test.skipped for test in over if test.skipped is not None)
    print(f"{reasons.total()} of {len(over)} tests were skipped")
    for reason, count in reasons.most_common():
        print(f"    {count} skipped: {reason[:200]}")
    wrong = wrongly_skipped(over) if torch.cuda.is_available() else []
    if wrong:
        print(
            *wrong[:_SHOWN_LINES], f"{len(wrong)} lines of skips that a GPU must not have", sep="\n"
        )
    print(f"{sum(not line for line in reports)} of {len(parts)} chunks passed")
    return int(any(reports) or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
