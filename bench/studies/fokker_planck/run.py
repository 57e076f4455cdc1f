"""Measure what the Fokker–Planck loss does to an energy and to the samples of its ODE and its SDE.

    python -m bench.studies.fokker_planck                  # about ten minutes on one core; prints a table
    python -m bench.studies.fokker_planck --json PATH --plot PATH.png

Each row is a student of a mixture in the plane, distilled from the exact denoiser or trained by denoising score
matching, with one weight of the loss and one seed. It has the residual and the error of the denoiser at several
noise levels, and the sliced 2-Wasserstein distances between the ends of the ODE, those of the SDE, and the data.
The row "exact" has the exact denoiser, so that its distances are those of discretisation and chance.

Source: Deveney et al. 2023, arXiv 2311.15996, who find that less residual closes the gap between ODE and SDE, and
that it may hurt the SDE.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine
from bench.studies.fokker_planck.derivatives import LEVELS as DERIVATIVE_LEVELS
from bench.studies.fokker_planck.derivatives import compare
from bench.studies.fokker_planck.measures import LEVELS, denoiser_errors, distances, residuals
from bench.studies.fokker_planck.plot import draw
from bench.studies.fokker_planck.students import teacher, train
from edmfast._internal.tables import Section, render

WEIGHTS = (0.0, 0.1, 1.0, 10.0)
DISTANCES = ("ode_sde", "ode_data", "sde_data", "floor")


def measure(mode: str, weight: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one student, or of the exact denoiser for the mode "exact"."""
    row: dict[str, Any] = {"mode": mode, "weight": weight, "seed": seed}
    if mode == "exact":
        return row | distances(teacher(), options.count, options.levels, seed)
    student, speed = train(mode, weight, seed, options.steps)
    return row | {
        "steps_per_second": round(speed, 1),
        "residual": residuals(student),
        "denoiser": denoiser_errors(student),
        **distances(student, options.count, options.levels, seed),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.fokker_planck")
    parser.add_argument("--modes", nargs="+", default=["distill", "dsm"])
    parser.add_argument("--weights", nargs="+", type=float, default=[*WEIGHTS])
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind (default 3)")
    parser.add_argument("--steps", type=int, default=700, help="training steps (default 700)")
    parser.add_argument("--count", type=int, default=1 << 13, help="samples of each set")
    parser.add_argument("--levels", type=int, default=64, help="noise levels of ODE and SDE")
    parser.add_argument(
        "--json", metavar="PATH", help="the file of the rows, which is gone on with"
    )
    parser.add_argument("--plot", metavar="PATH", help="the picture")
    parser.add_argument("--most", type=int, help="rows to measure now; the rest is left for later")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = None if options.json is None else Path(options.json)
    rows: list[dict[str, Any]] = []
    if path is not None and path.exists():
        rows = json.loads(path.read_text())["rows"]
    measured = [name_of(row) for row in rows]
    seeds = range(options.seeds)
    kinds = [("exact", 0.0), *itertools.product(options.modes, options.weights)]
    missing = [(*kind, seed) for kind in kinds for seed in seeds if (*kind, seed) not in measured]
    for row in missing[: options.most]:
        rows.append(measure(*row, options))
        print(json.dumps(rows[-1]), flush=True)
    torch.manual_seed(0)
    student, _ = train("distill", 0.0, 0, min(options.steps, 500))
    facts = {
        "commit": machine.commit(),
        "versions": machine.versions(),
        "device_name": machine.device_name(torch.device("cpu")),
        "settings": {name: getattr(options, name) for name in ("steps", "count", "levels")},
        "sigmas": LEVELS,
        "rows": rows,
        "derivatives": {"sigmas": DERIVATIVE_LEVELS, "rows": compare(student)},
    }
    print(summary(facts))
    if path is not None:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    if options.plot:
        draw(facts, Path(options.plot))
    return 0


def name_of(row: dict[str, Any]) -> tuple[str, float, int]:
    """Return what tells a row from the others."""
    return row["mode"], row["weight"], row["seed"]


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the means over students of the distances, and of the root mean squares over noise levels."""
    found = {name: sum(row[name] for row in rows) / len(rows) for name in DISTANCES}
    for name in ("residual", "denoiser"):
        if name in rows[0]:
            squares = [sum(v * v for v in row[name]) / len(row[name]) for row in rows]
            found[name] = (sum(squares) / len(rows)) ** 0.5
    return found


def summary(facts: dict[str, Any]) -> str:
    """Return the means over seeds and the comparison of derivatives as text."""
    rows: list[list[str | float]] = []
    for mode, weight in dict.fromkeys((row["mode"], row["weight"]) for row in facts["rows"]):
        found = means([r for r in facts["rows"] if (r["mode"], r["weight"]) == (mode, weight)])
        measures = [found.get(name, "") for name in ("residual", "denoiser", *DISTANCES)]
        rows.append([mode, weight, *measures])
    head = ("student", "weight", "sigma R (nats)", "denoiser/sigma", "ODE-SDE", "ODE-data")
    students = Section("Sliced W2, means over seeds", (*head, "SDE-data", "floor"), rows)
    ways = [
        [row["way"], *row["errors"], row["milliseconds"]] for row in facts["derivatives"]["rows"]
    ]
    levels = [f"error at {sigma:g}" for sigma in facts["derivatives"]["sigmas"]]
    return render([students, Section("Derivatives", ("way", *levels, "ms"), ways)])
