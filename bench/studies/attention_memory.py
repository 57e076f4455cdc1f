"""Measure the peak memory of attention's double backward against length.

Command: `python -m bench.studies.attention_memory [--json PATH]`.

One head of width 64, float32, on the CPU; each number is the growth of the resident set of a process of its
own, which has run a short sequence before. Exit status 1 where the goal is missed. Linux only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.harness import memory

LENGTHS = (2048, 4096, 8192)
GOAL_AT, GOAL = 4096, 4.0
LONGEST_OF_MATH = 4096
"""Twice that would take the math path several gigabytes."""

_RUN = """
from torch.nn.functional import scaled_dot_product_attention
from edmfast.ops import attention

which = attention if sys.argv[1] == "ours" else scaled_dot_product_attention

def run(length):
    q, k, v, g = (torch.randn(1, 1, length, 64).requires_grad_() for _ in range(4))
    cotangents = [torch.randn(1, 1, length, 64) for _ in range(3)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = torch.autograd.grad(which(q, k, v), (q, k, v), g, create_graph=True)
    torch.autograd.grad(first, (g, q, k, v), cotangents)
"""


def peak(length: int, which: str) -> float:
    """Return the peak MiB of one double backward by "ours" or "math"."""
    return memory.peak(_RUN, length, 64, which)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.attention_memory", description=__doc__
    )
    parser.add_argument("--json", metavar="PATH", help="where to write the numbers")
    options = parser.parse_args(arguments)
    rows, reached = [], 0.0
    print(f"{'length':>7} {'ours MiB':>9} {'math MiB':>9} {'ratio':>6}")
    for length in LENGTHS:
        ours = peak(length, "ours")
        math = peak(length, "math") if length <= LONGEST_OF_MATH else None
        rows.append({"length": length, "ours_mib": ours, "math_mib": math})
        against = "        -      -" if math is None else f"{math:9.0f} {math / ours:5.1f}x"
        if math is not None and length == GOAL_AT:
            reached = math / ours
        print(f"{length:7} {ours:9.0f} {against}")
    return memory.verdict(rows, reached, GOAL, GOAL_AT, options.json)


if __name__ == "__main__":
    sys.exit(main())
