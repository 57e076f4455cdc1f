"""Measure the log-densities that SuperDiff follows against exact ones, by Itô's formula and by log-ratios.

    python -m bench.studies.superdiff            # prints the table of docs/mathematics.md; takes about a minute
    python -m bench.studies.superdiff --write    # writes it into the page

The two models are halves of the mixture `edmfast.demo.smooth_digits`: the digits 0 to 4, and 5 to 9. One run
superposes them as a mixture (OR), another as a product (AND). The columns give the mean and the standard deviation
of the error of a log-density, the standard deviation of the error of their difference, which decides OR, and the
mean distance of the two exact log-densities, which AND should make small.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.studies.density import DIM, LOW, levels
from edmfast import Mixture, Product, smc
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.smooth_digits import load_smooth_digits

_DOCUMENT = Path(__file__).parents[2] / "docs" / "mathematics.md"
_BEGIN, _END = "<!-- study: python -m bench.studies.superdiff --write -->", "<!-- end -->"
_ESTIMATES = {"Itô's formula": ("ito", 0), "log-ratios, exact traces": ("path", 0)}
_ESTIMATES |= {f"log-ratios, {k} probe{'s' * (k > 1)}": ("path", k) for k in (1, 2)}


def halves() -> list[MixtureOfGaussians]:
    """Return the digits 0 to 4 and the digits 5 to 9, each as a mixture of ten Gaussians."""
    whole = load_smooth_digits()
    half = len(whole.means) // 2
    # the components are in the order of their classes
    parts = (slice(None, half), slice(half, None))
    return [
        MixtureOfGaussians(whole.means[part], whole.covariances[part], whole.weights[part])
        for part in parts
    ]


def row(
    combine: Any,
    models: list[MixtureOfGaussians],
    density: str,
    probes: int,
    count: int,
    particles: int,
) -> tuple[float, float, float, float]:
    """Return the numbers of one row. probes: 0 for exact traces, where the density needs traces."""
    # A method of a mixture does not offer its exact trace.
    shown = models if probes == 0 else [model.denoise for model in models]
    result = smc.sample(
        combine(shown),
        (DIM,),
        levels(count),
        particles=particles,
        proposal=smc.SuperDiff(density=density, probes=max(1, probes)),
        options=smc.RunOptions(dtype=torch.float64),
    )
    assert result.log_densities is not None
    exact = torch.stack([model.log_prob(result.x[0], LOW) for model in models], 1)
    error = result.log_densities[0] - exact
    difference, gap = error[:, 0] - error[:, 1], exact[:, 0] - exact[:, 1]
    return float(error.mean()), float(error.std()), float(difference.std()), float(gap.abs().mean())


def table(particles: int) -> list[str]:
    """Return the lines of the table."""
    lines = [
        "| Rule | Levels | Estimate | Error of a log-density | Error of the difference | Distance of the two |",
        "|---" * 6 + "|",
    ]
    models = halves()
    for rule, combine in (("OR", Mixture), ("AND", Product)):
        for count in (32, 64):
            for name, (density, probes) in _ESTIMATES.items():
                mean, sd, difference, gap = row(combine, models, density, probes, count, particles)
                # The models of a mixture need not agree.
                distance = f"{gap:.2f}" if rule == "AND" else ""
                lines.append(
                    f"| {rule} | {count} | {name} | {mean:+.2f} ± {sd:.2f} | ± {difference:.2f} | {distance} |"
                )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.superdiff", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table into {_DOCUMENT}")
    parser.add_argument("--particles", type=int, default=400, help="how many particles in a run")
    options = parser.parse_args(arguments)
    lines = table(options.particles)
    print("\n".join(lines))
    if options.write:
        before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
        after = rest.partition(_END)[2]
        _DOCUMENT.write_text(before + "\n".join([_BEGIN, "", *lines, "", _END]) + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
