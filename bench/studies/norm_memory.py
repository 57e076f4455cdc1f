"""Measure the peak memory of the three orders of group norm with SiLU by batch size.

Command: `python -m bench.studies.norm_memory [--json PATH]`.

128 channels in 32 groups of 32 x 32 images, float32, on the CPU, measured as in `bench.harness.memory`:
inputs, the double backward's cotangents and all results in it. Exit status 1 where the goal is missed. Linux only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.harness import memory

BATCHES = (8, 32, 64)
GOAL_AT, GOAL = 32, 1.5

_RUN = """
from torch.nn import functional as F
from edmfast.ops import group_norm

def ours(x, weight, bias):
    return group_norm(x, 32, weight, bias, silu=True)

def eager(x, weight, bias):
    return F.silu(F.group_norm(x, 32, weight, bias))

norm = ours if sys.argv[1] == "ours" else eager

def run(batch):
    shapes = (batch, 128, 32, 32), (128,), (128,)
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    grad = torch.randn(shapes[0]).requires_grad_()
    cotangents = [torch.randn(shape) for shape in shapes]
    first = torch.autograd.grad(norm(*leaves), leaves, grad, create_graph=True)
    torch.autograd.grad(first, (grad, *leaves), cotangents)
"""


def peak(batch: int, which: str) -> float:
    """Return the peak MiB of one double backward by "ours" or "eager"."""
    return memory.peak(_RUN, batch, 1, which)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.norm_memory", description=__doc__
    )
    parser.add_argument("--json", metavar="PATH", help="where to write the numbers")
    options = parser.parse_args(arguments)
    rows, reached = [], 0.0
    print(f"{'batch':>7} {'ours MiB':>9} {'eager MiB':>9} {'ratio':>6}")
    for batch in BATCHES:
        ours, eager = peak(batch, "ours"), peak(batch, "eager")
        rows.append({"batch": batch, "ours_mib": ours, "eager_mib": eager})
        print(f"{batch:7} {ours:9.0f} {eager:9.0f} {eager / ours:5.1f}x")
        if batch == GOAL_AT:
            reached = eager / ours
    return memory.verdict(rows, reached, GOAL, GOAL_AT, options.json)


if __name__ == "__main__":
    sys.exit(main())
