"""The numbers that README quotes: a block of its own, from one run's JSON and nowhere else."""

from __future__ import annotations

from bench.report.records import Record
from bench.report.sections import table

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


def block(record: Record) -> str:
    """A table of the headline cases, with where and when they were measured."""
    run = record.content
    cases = {case["name"]: case for case in run["cases"]}
    rows = [
        (told, f"{case['ratio']:.1f}x", case["best_baseline"])
        for name, told in HEADLINES.items()
        if (case := cases.get(name)) is not None and case["ratio"] is not None
    ]
    met = sum(case["goal_met"] for case in run["cases"])
    where = (
        f"{run['device_name']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}, "
        f"{run['date'][:10]}, commit {run['commit']}. {met} of {len(run['cases'])} goals are met; "
        "[bench/RESULTS.md](bench/RESULTS.md) begins with those that are not."
    )
    return f"{table(('', 'best baseline / ours', 'the best baseline'), rows)}\n\n{where}"


def insert(text: str, content: str) -> str:
    """`text` with what stands between the marks replaced.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README needs a line {START} and after it a line {END}")
    return f"{before}{START}\n{content}\n{END}{after}"
