"""Tell which implementation answers for each operator on a GPU: `python -m bench.gpu.live FOLDER`.

A library that does not load gives way silently to slower kernels, so this is checked first. The records are in
FOLDER/live.jsonl. Exit status: 0 where every operator has the kernel that it should have, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu import listed
from bench.gpu.sanitize import OPERATORS
from edmfast import _extension, info, ops

CUDA = set(OPERATORS)
TRITON = {"attention", "group_norm_silu", "mlp_potential", "potential", "potential_assemble"} | {
    "potential_field"
}
"""The operators that have Triton kernels and no CUDA kernel; their derivatives are operators too."""


def implementations() -> dict[str, str]:
    """Return "cuda", "triton" or "reference" for every operator of the library."""
    assert ops  # importing the operators defines them
    status = _extension.kernel_status()
    by_triton = set(status["triton"].split(", "))
    named = {}
    for name in sorted(dir(_extension.OPERATORS)):
        if name.startswith("_") or not hasattr(getattr(_extension.OPERATORS, name), "overloads"):
            continue
        if name in by_triton:
            named[name] = "triton"
        elif _extension._has_cuda_kernel(name) and not status["cuda"].startswith("off"):
            named[name] = "cuda"
        else:
            named[name] = "reference"
    return named


def wrong(named: dict[str, str]) -> dict[str, str]:
    """Return the operators whose implementation is not the one that they should have, with what it is."""
    expected = dict.fromkeys(CUDA, "cuda") | dict.fromkeys(TRITON, "triton")
    answers = {name: named.get(name, "absent") for name in expected}
    return {name: answers[name] for name, kind in expected.items() if answers[name] != kind}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.live", description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    named, facts = implementations(), info()
    print(f"built: {facts['built']}", *(f"{k}: {v}" for k, v in facts["kernels"].items()), sep="\n")
    missing = wrong(named)
    path = options.folder / "live.jsonl"
    path.unlink(missing_ok=True)
    for name, kind in named.items():
        listed.write(path, name, listed.DONE, kind=kind, ok=name not in missing)
        print(f"{name:<36}{kind}{'  WRONG' if name in missing else ''}")
    for name in missing.keys() - named.keys():
        listed.write(path, name, listed.FAILED, error="there is no such operator")
        print(f"{name:<36}absent  WRONG")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
