"""Measure outcomes by the yardstick of control, in groups of populations.

The total variation of the mean of a group falls where errors of single populations cancel. That per run compares
every population. Several groups give a standard error of the former.
"""

from __future__ import annotations

from torch import Tensor

from bench.rivals.control import Outcome
from bench.studies.control.comparison import mean_and_error
from bench.studies.control.tasks import Task
from edmfast.demo.known_answer import KnownAnswer, power_answer, product_answer
from edmfast.demo.yardstick import Measures, measure, measures_of_draws

GROUP = 8
"""Number of populations whose mean masses are compared with the truth."""
COLUMNS = {
    "tv": "TV of mean",
    "tv_run": "TV per run",
    "tv_class": "TV of classes",
    "log_z": "log Z error",
    "gap": "Δ log-density",
    "frechet": "Fréchet",
    "sliced": "sliced W",
    "variance": "var log G",
    "ancestors": "ancestors %",
}
NOTES = (
    f"TV: total variation of the masses of components or classes, of the mean over {GROUP} runs or of each run",
    "log Z error and Δ log-density: in nats, estimate less truth; Fréchet, sliced W: distances to exact draws",
    "var log G: summed over the steps, in nats²; errors: standard errors over groups of runs, or over runs",
)


def answer_of(task: Task, draws: int) -> KnownAnswer:
    """Return the known answer of a task, with that many exact draws."""
    if len(task.models) > 1:
        first, second = task.models
        return product_answer(first, second, draws=draws)
    return power_answer(task.models[0], task.exponents[0], draws=draws)


def numbers_of(answer: KnownAnswer, outcome: Outcome) -> dict[str, list[float]]:
    """Return the numbers of each column, for each group of populations or for each population."""
    parts: list[dict[str, list[float]]] = []
    for start in range(0, len(outcome.x), GROUP):
        group = slice(start, start + GROUP)
        measures = measure(
            answer,
            outcome.x[group],
            outcome.log_weights[group].softmax(1),
            log_z=None if outcome.log_z is None else outcome.log_z[group],
        )
        parts.append(_columns(measures))
    numbers = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    numbers["ancestors"] = (100 * outcome.ancestors).tolist()
    if outcome.log_z is not None:
        numbers["variance"] = outcome.variance.tolist()
    return numbers


def note_on_draws(answer: KnownAnswer, particles: int) -> str:
    """Return what a perfect sampler has in the columns of the table."""
    numbers = _columns(measures_of_draws(answer, particles, populations=GROUP))
    shown = ("tv", "tv_run", "frechet", "sliced")
    texts = (f"{COLUMNS[name]} {mean_and_error(numbers[name])}" for name in shown)
    return f"{GROUP} runs of {particles} exact draws: {', '.join(texts)}"


def _columns(measures: Measures) -> dict[str, list[float]]:
    optional = {"tv_class": measures.class_variation_of_mean, "log_z": measures.log_z_error}
    return {
        "tv": [measures.total_variation_of_mean],
        "tv_run": _floats(measures.total_variation),
        "gap": _floats(measures.log_density_gap),
        "frechet": [measures.frechet],
        "sliced": [measures.sliced],
        **{name: [value] for name, value in optional.items() if value is not None},
    }


def _floats(values: Tensor) -> list[float]:
    return [float(value) for value in values]
