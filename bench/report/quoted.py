"""Write the block of docs/performance.md that quotes one run, from its JSON and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report import reasons
from bench.report.records import Record
from bench.report.sections import runs, table

START, END = "<!-- results: python -m bench.report -->", "<!-- end of results -->"
HEADLINES = {
    "resample/1x1000000": "systematic resampling from log-weights, a million particles",
    "weigh/1x1000000": "weights, log Z, decision and ancestors in one, a million particles",
    "propagate/256x12288": "proposal step with its noise, 256 states of 3x64x64",
    "attention/2x2048x64": "attention with two derivatives, length 2048",
    "mlp_potential/4096x64": "energy and score of a perceptron, the operator",
    "energy/mlp 4096x64": "energy and score of a perceptron, the model",
    "distill/mlp 4096x64": "a step of distilling a perceptron",
    "distill/unet 128x1x8x8": "a step of distilling a U-Net",
}


def block(record: Record, charts: str) -> str:
    """Return the tables of a run in Markdown: its headlines, whole runs, missed goals and a chart.

    charts: the folder of its charts, seen from the page.
    """
    run = record.content
    met = sum(case["goal_met"] for case in run["cases"])
    where = (
        f"Measured on {run['device_name']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}, "
        f"{run['date'][:10]}, commit {run['commit']}. {met} of {len(run['cases'])} goals are met."
    )
    parts = [where, _headlines(run["cases"])]
    if whole := runs(record):
        parts += ["## Whole runs", whole]
    parts += ["## Goals that are missed", _missed(run["cases"])]
    chart = f"![Ratio to the best baseline, by case]({charts}/{record.device}-ratios.png)"
    return "\n\n".join([*parts, "## All cases", chart])


def _headlines(cases: Sequence[dict[str, Any]]) -> str:
    by_name = {case["name"]: case for case in cases}
    rows = [
        (title, f"{case['ratio']:.1f}x", case["best_baseline"])
        for name, title in HEADLINES.items()
        if (case := by_name.get(name)) is not None and case["ratio"] is not None
    ]
    return table(("job", "best baseline / ours", "the best baseline"), rows)


def _missed(cases: Sequence[dict[str, Any]]) -> str:
    rows = [(case["name"], "; ".join(goals)) for case in cases if (goals := reasons.missed(case))]
    return table(("case", "reached, and the goal"), rows) if rows else "Every goal is met."


def insert(text: str, content: str, start: str = START, end: str = END) -> str:
    """Return `text` with everything between the marks replaced.

    Raises:
        ValueError: the two marks are not there in this order.
    """
    before, first, rest = text.partition(start)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"the page needs a line {start} and after it a line {end}")
    return f"{before}{start}\n{content}\n{end}{after}"
