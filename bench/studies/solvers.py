"""Measure how far solvers end from the exact end of the probability-flow ODE, on a smooth model of digits.

    python -m bench.studies.solvers            # prints the tables of docs/choosing.md; takes about one minute
    python -m bench.studies.solvers --write    # writes them into the page

The model is `edmfast.demo.smooth_digits`, a mixture of 20 Gaussians with full covariances. Every solver gets the
same starts and the same number of model calls on Karras levels that end at 0. An entry is the root mean square of
the difference between its ends and the exact ones, in percent of the standard deviation of the exact ends. The
guided table has classifier-free guidance towards the classes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast import sampling
from edmfast.demo.digits import NUM_CLASSES
from edmfast.demo.smooth_digits import SIGMA_MAX, SIGMA_MIN, load_smooth_digits
from edmfast.sampling import solvers
from edmfast.sampling.guidance import ClassifierFreeGuidance

_DOCUMENT = Path(__file__).parents[2] / "docs" / "choosing.md"
_BEGIN, _END = "<!-- study: python -m bench.studies.solvers --write -->", "<!-- end of solvers -->"
CALLS = (6, 10, 20, 40, 80)
DIM = 64
Run = Callable[[Any, Tensor, int], Tensor]
"""A function (denoiser, starts [B, D], model calls) -> ends [B, D]."""


def grid(levels: int) -> Tensor:
    """Return Karras levels and 0, in float64."""
    return sampling.get_sigmas_karras(levels, SIGMA_MIN, SIGMA_MAX).double()


def by(solver: Any, calls_per_step: int = 1) -> Run:
    """Return the run of a solver that needs so many calls in every step but the last, which needs one."""

    def run(model: Any, x: Tensor, calls: int) -> Tensor:
        levels = (calls - 1) // calls_per_step + 1
        return sampling.sample(model, x, grid(levels), solver, disable=True)

    return run


SOLVERS: dict[str, Run] = {
    "`Euler()`": by(solvers.Euler()),
    "`Heun()`": by(solvers.Heun(), 2),
    "`LinearMultistep(4)`": by(solvers.LinearMultistep(4)),
    "`IPNDM(4)`": by(solvers.IPNDM(4)),
    "`GHVB(1.8)`": by(solvers.GHVB(1.8)),
    "`GHVB(2.8)`": by(solvers.GHVB(2.8)),
    "`DPMSolverPP2M()`": by(solvers.DPMSolverPP2M()),
    "`DPMSolverMultistep(3)`": by(solvers.DPMSolverMultistep(3)),
    "`UniPC(3)`": by(solvers.UniPC(3)),
    "`DPMSolverSinglestep(3)`": by(solvers.DPMSolverSinglestep(3), 3),
}


def problem(states: int, seed: int = 0) -> tuple[Any, Tensor, Tensor]:
    """Return (the model of the digits in float64, starts [B, D], classes [B])."""
    generator = torch.Generator().manual_seed(seed)
    x = SIGMA_MAX * torch.randn(states, DIM, generator=generator, dtype=torch.float64)
    return load_smooth_digits().double(), x, torch.arange(states) % NUM_CLASSES


def exact_ends(model: Any, x: Tensor, steps: int = 200) -> Tensor:
    """Return the ends of the ODE by many steps of the method of Runge and Kutta, and a last denoising."""
    levels = grid(steps)[:-1].tolist()

    def slope(state: Tensor, sigma: float) -> Tensor:
        level = torch.full((len(state),), sigma, dtype=state.dtype)
        return (state - model(state, level)) / sigma

    for s, t in itertools.pairwise(levels):
        h = t - s
        a = slope(x, s)
        b = slope(x + h / 2 * a, s + h / 2)
        c = slope(x + h / 2 * b, s + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, t))
    return x - levels[-1] * slope(x, levels[-1])


def errors(
    model: Any, x: Tensor, runs: dict[str, Run], calls: tuple[int, ...]
) -> dict[str, list[float]]:
    """Return the error of every solver for every number of calls, in percent."""
    truth = exact_ends(model, x)
    size = truth.std()
    return {
        name: [100 * float((run(model, x, n) - truth).square().mean().sqrt() / size) for n in calls]
        for name, run in runs.items()
    }


def table(rows: dict[str, list[float]], calls: tuple[int, ...]) -> list[str]:
    """Return the lines of a table, with the smallest numbers of each column in bold."""
    best = [min(row[k] for row in rows.values()) for k in range(len(calls))]
    lines = [
        f"| Solver | {' | '.join(f'{n} calls' for n in calls)} |",
        "|---" * (len(calls) + 1) + "|",
    ]
    for name, row in rows.items():
        cells = [
            f"**{_shown(value)}**" if value == low else _shown(value)
            for value, low in zip(row, best, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _shown(value: float) -> str:
    """Return a number of two digits without an exponent."""
    return f"{float(f'{value:.2g}'):g}"


def guided(model: Any, classes: Tensor, weight: float) -> Any:
    """Return the denoiser with classifier-free guidance towards a class for each sample."""
    wrapper = ClassifierFreeGuidance(model, weight, unconditional={"class_label": None})
    return lambda x, sigma: wrapper(x, sigma, class_label=classes)


def section(states: int = 120, weight: float = 6.0, calls: tuple[int, ...] = CALLS) -> str:
    """Return both tables."""
    model, x, classes = problem(states)
    plain = table(errors(model, x, SOLVERS, calls), calls)
    strong = table(errors(guided(model, classes, weight), x, SOLVERS, calls), calls)
    return "\n".join(
        [*plain, "", f"The same with classifier-free guidance of weight {weight:g}:", "", *strong]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    write = parser.parse_args(arguments).write
    text = section()
    if not write:
        print(text)
        return 0
    page = _DOCUMENT.read_text()
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
