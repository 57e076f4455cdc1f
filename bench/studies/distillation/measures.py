"""The errors of a student on the smooth digits, and the goals that they are judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from bench.studies.distillation.recipes import SHAPE
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.diagnostics import energy_error

LEVELS = (0.06, 0.1, 0.2, 0.4, 1.0)
"""Those of `bench.studies.learned`."""
BETWEEN, DENOISER, TWO_HEADS = 0.4, 1.05, 1.3
"""Nats between components; errors of denoised states, and what two heads may lose, as ratios."""


def errors_of(student: Any, count: int) -> dict[str, list[float]]:
    """Return the errors of a student at LEVELS, from `count` draws of the exact mixture at each.

    score: the root mean squared error of the denoised states divided by sigma. between and on_p: those of
    `edmfast.diagnostics.energy_error`, in nats, where the student has an energy.
    """
    exact = load_smooth_digits()
    draws = [
        exact.sample(count, sigma, seed=20 + index).reshape(-1, *SHAPE)
        for index, sigma in enumerate(LEVELS)
    ]
    found: dict[str, list[float]] = {"score": []}
    with torch.no_grad():
        for x, sigma in zip(draws, LEVELS, strict=True):
            # the exact denoiser receives the states after rounding
            rounded = x.float()
            error = student(rounded, sigma).double() - exact(rounded.double(), sigma)
            found["score"].append(float(error.square().mean().sqrt()) / sigma)
    if hasattr(student, "energy"):
        # the draws of p² are not asked for, and two of them take no time
        few = [x[:2] for x in draws]
        measured = energy_error(student, exact, LEVELS, draws=draws, squared_draws=few)
        found["between"], found["on_p"] = measured.between.tolist(), measured.on_p.tolist()
    return {name: [round(value, 4) for value in values] for name, values in found.items()}


def means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return the errors at the end by the names of students, as means over their seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        ends = [row["end"] for row in rows if row["name"] == name]
        found[name] = {
            what: [
                sum(values) / len(ends) for values in zip(*(end[what] for end in ends), strict=True)
            ]
            for what in ends[0]
        }
    return found


def score_ratio(errors: dict[str, Any], plain: dict[str, Any]) -> float:
    """Return the geometric mean over LEVELS of the errors of one denoiser over those of another."""
    logs = [math.log(a / b) for a, b in zip(errors["score"], plain["score"], strict=True)]
    return math.exp(sum(logs) / len(logs))


def judge(rows: dict[str, dict[str, Any]]) -> list[tuple[str, bool]]:
    """Return the goals with whether each was met.

    rows: the errors at the end by the names of recipes, from `means`.
    """
    judged: list[tuple[str, bool]] = []
    if not {"denoiser", "inner"} <= rows.keys():
        return judged
    plain, inner = rows["denoiser"], rows["inner"]
    worst, ratio = max(inner["between"]), score_ratio(inner, plain)
    judged.append((f"inner: {worst:.3g} nats between components <= {BETWEEN}", worst <= BETWEEN))
    judged.append(
        (
            f"inner: error of denoised states {ratio:.3g} <= {DENOISER} of a denoiser's",
            ratio <= DENOISER,
        )
    )
    for name in ("two heads", "two heads, slopes"):
        if name not in rows:
            continue
        heads = rows[name]
        limits = {
            "nats between components": (max(heads["between"]), TWO_HEADS * worst),
            "error of denoised states over a denoiser's": (
                score_ratio(heads, plain),
                TWO_HEADS * ratio,
            ),
        }
        for what, (value, limit) in limits.items():
            judged.append((f"{name}: {what} {value:.3g} <= {limit:.3g}", value <= limit))
    for name in ("score matching", "score matching, slopes", "norm", "residual"):
        if name in rows:
            rival = max(rows[name]["between"])
            judged.append((f"inner: {worst:.3g} nats < {rival:.3g} of {name}", worst < rival))
            rival = score_ratio(rows[name], plain)
            judged.append(
                (
                    f"inner: error of denoised states {ratio:.3g} < {rival:.3g} of {name}",
                    ratio < rival,
                )
            )
    return judged
