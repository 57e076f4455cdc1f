"""Run sequential Monte Carlo on hard targets.

Command: `python -m bench.studies.targets [--only NAME] [--quick] [--json PATH]`. The targets are GMM-40 (at
gamma 1 and 2) and ManyWell-32 with their exact energies, and DW4 and LJ13 with energies learned from
reference samples. Every number has its standard error over populations and the truth; the study concerns
answers, not time. --quick runs small sizes, to see that everything works.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch

from bench.studies.targets import exact as targets_exact
from bench.studies.targets import particles as targets_particles
from bench.studies.targets import report as targets_report
from bench.studies.targets.report import Row

TARGETS: dict[str, Callable[[bool], list[Row]]] = {
    "gmm40": lambda quick: [
        row
        for gamma in (1.0, 2.0)
        for row in targets_exact.gmm40(
            gamma, targets_exact.QUICK_GMM40 if quick else targets_exact.GMM40
        )
    ],
    "manywell": lambda quick: targets_exact.many_well(
        targets_exact.QUICK_MANY_WELL if quick else targets_exact.MANY_WELL
    ),
    "dw4": lambda quick: targets_particles.run("DW4", quick),
    "lj13": lambda quick: targets_particles.run("LJ13", quick),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.targets", description=__doc__)
    parser.add_argument("--only", choices=[*TARGETS], help="one of the targets")
    parser.add_argument("--quick", action="store_true", help="a look, not a result")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", metavar="PATH", help="where to write the numbers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in [options.only] if options.only else TARGETS:
        measured = TARGETS[name](options.quick)
        print(targets_report.table(measured), flush=True)
        rows += measured
    if options.json:
        facts = {"quick": options.quick, "threads": options.threads}
        targets_report.write_json(options.json, rows, facts)
    return 0
