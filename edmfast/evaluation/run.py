"""`evaluate`: measure a model, and its teacher, on samples, noise levels and held-out data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_bool, as_float, as_int, as_seed
from edmfast._internal.progress import progress_bar
from edmfast.evaluation import by_level, distances, held_out
from edmfast.evaluation.data import EvaluationData, as_data
from edmfast.evaluation.evaluation import Evaluation
from edmfast.evaluation.features import Features, default_features, load_features
from edmfast.evaluation.tables import Table
from edmfast.models.calling.conditions import accepted_conditions

_SIGMA_MIN, _SIGMA_MAX = 0.004, 160.0
"""The range of the noise levels of Karras et al. 2022, 0.002 to 80, in units of their sigma_data of 0.5."""
_SPREAD_ROWS, _MOST_CALLS = 4096, 10_000
_FEWEST = 4
"""The fewest data that can be compared with each other, in two parts of two."""
_BATCH_NUMBERS = 1 << 18


def evaluate(
    model: Any,
    *,
    teacher: Any = None,
    data: Any = None,
    truth: Any = None,
    features: Any = None,
    nfe: Sequence[int] = (5, 10, 18, 35),
    solvers: Any = ("heun", "dpmpp_2m"),
    samples: int = 5000,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    levels: Sequence[float] | None = None,
    level_states: int = 64,
    likelihood_states: int = 64,
    bin_width: float | None = None,
    conditional: bool | None = None,
    bootstrap: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Measure a model, and its teacher beside it, against data and against the truth where it is known.

    There are three tables:

    - distances: the Fréchet, sliced Wasserstein and energy distances of samples from the data, for every solver
      and number of model calls (NFE). `samples=0` leaves it out.
    - levels: the conservativity of every model at every noise level, and for energies the Fokker-Planck residual,
      the self-check and the energy error against the truth. The truth has rows too, which show what the size of a
      step leaves. `level_states=0` leaves it out.
    - likelihood: the log-density of held-out data by the ODE, by energies and by path ratios.
      `likelihood_states=0` leaves it out.

    Equal arguments give equal results. Another batch size changes distances and likelihoods by rounding only, and
    the levels by the noise of their probes. The features of all data and samples are kept in memory.

    Sources: Heusel et al. 2017, arXiv 1706.08500; and those of `edmfast.diagnostics` and `edmfast.sampling`.

    Args:
        model: an energy or a denoiser, called as model(x [B, *shape], sigma [B], **condition) -> x_0.
        teacher: another one, which is measured in the same way.
        data: clean samples that the models were not trained on: a tensor or array [N, *shape], a pair (samples,
            labels [N]), a data set with a length, or the path of a folder or .zip of images or of an .npz, .npy or
            safetensors file. Bytes are images, x/127.5 - 1. By default 2 `samples` draws of the truth.
        truth: the exact energy of the data, such as a mixture of `edmfast.analytic`.
        features: the extractor of features, see `load_features`. By default the built-in classifier for digits
            [1, 8, 8], the samples themselves where they have at most 256 numbers, and otherwise none.
        nfe: the numbers of model calls for each sample, each at least 1. A solver takes the finest grid that needs
            no more.
        solvers: names of `edmfast.evaluation.SOLVERS`, or objects of `edmfast.sampling.solvers`.
        samples: the number of samples of each run, 0 or at least 2.
        sigma_min: the lowest positive noise level of runs and likelihoods, in units of x. By default 0.004 times
            the model's `sigma_data`, or times the standard deviation of the data.
        sigma_max: the highest noise level; by default 160 times the same number.
        levels: the noise levels of the second table, decreasing; by default eight levels from 20 to 1/20 times
            the standard deviation of the data.
        level_states: the number of states at each of them, 0 or at least 2.
        likelihood_states: the number of held-out states, 0 or at least 2.
        bin_width: the distance of neighbouring values of the data where they are rounded, such as 2/255 for bytes,
            which have it by default. The likelihood is then that of data with uniform noise of this width, and is
            also given in bits per dimension. Without it the data get Gaussian noise of sigma_min.
        conditional: pass the labels of the data as `class_label`. By default they are passed where the data have
            labels and all models accept them.
        bootstrap: the number of bootstrap draws for the error of a Fréchet distance, 0 or at least 2.
        batch_size: the number of samples that a model receives at once; by default one that suits their size.
        seed: the seed of all random numbers.
        progress: show the progress.

    Returns:
        An `Evaluation`, which prints as tables and is saved by its method `save`.

    Raises:
        TypeError: an argument of the wrong type, or a model that returns something else than numbers.
        ValueError: no data and no truth to draw them from, numbers out of range, unknown names, labels that are
            asked for and not there, or results of other shapes.
        FileNotFoundError: no file at a path.
    """
    models = {"model": model} if teacher is None else {"teacher": teacher, "student": model}
    settings = _Settings(
        samples=_count("samples", samples),
        level_states=_count("level_states", level_states),
        likelihood_states=_count("likelihood_states", likelihood_states),
        bootstrap=_count("bootstrap", bootstrap),
        seed=as_seed(seed),
    )
    held = _data_of(data, truth, settings, bin_width)
    if settings.samples and len(held) < _FEWEST:
        raise ValueError(f"distances need at least {_FEWEST} data, got {len(held)}: pass samples=0")
    like = {name: _like(entry) for name, entry in models.items()}
    spread = float(held.rows(slice(_SPREAD_ROWS), torch.empty(0, dtype=torch.float64)).std())
    unit = float(getattr(model, "sigma_data", 0.0)) or spread
    low = _level("sigma_min", sigma_min, _SIGMA_MIN * unit)
    high = _level("sigma_max", sigma_max, _SIGMA_MAX * unit)
    if low >= high:
        raise ValueError(f"sigma_min must be below sigma_max, got {low:g} and {high:g}")
    chosen = by_level.default_levels(spread, low, high) if levels is None else _levels(levels)
    labelled = _is_conditional(conditional, models, held)
    extractor = _extractor(features, held.shape, next(iter(like.values())).device)
    notes = []
    if extractor is None and settings.samples:
        notes.append(
            f"no Fréchet distance: samples of shape {held.shape} have no built-in features, so pass features="
        )
    calls = tuple(
        as_int(f"nfe[{i}]", number, least=1, most=_MOST_CALLS) for i, number in enumerate(nfe)
    )
    options = distances.DistanceOptions(
        solvers=distances.named_solvers(solvers),
        nfe=calls,
        samples=settings.samples,
        features=extractor,
        sigma_min=low,
        sigma_max=high,
        bootstrap=settings.bootstrap,
        batch_size=_batch_size(batch_size, held.shape),
        seed=settings.seed,
    )
    total = distances.parts_of(models, held, options) if settings.samples and calls else 0
    compared = _with_truth(models, truth, labelled)
    total += by_level.parts_of(compared, truth) if settings.level_states else 0
    total += held_out.parts_of(models) if settings.likelihood_states else 0
    found: dict[str, Table | None] = {"distances": None, "levels": None, "likelihood": None}
    shown = as_bool("progress", progress)
    with progress_bar(total, desc="evaluate", unit="parts", disable=not shown) as bar:

        def finished(part: str) -> None:
            bar.update()
            bar.set_postfix(done=part)

        if settings.samples and calls:
            found["distances"] = distances.distance_table(
                models, held, options, like=like, conditional=labelled, finished=finished
            )
        if settings.level_states:
            like |= {name: _like(entry) for name, entry in compared.items()}
            found["levels"] = _level_table(
                compared,
                held,
                settings.level_states,
                by_level.LevelOptions(
                    tuple(chosen), truth, batch_size=options.batch_size, seed=settings.seed
                ),
                like,
                labelled,
                finished,
            )
        if settings.likelihood_states:
            found["likelihood"] = held_out.likelihood_table(
                models,
                held,
                truth,
                count=settings.likelihood_states,
                sigma_min=low,
                sigma_max=high,
                batch_size=options.batch_size,
                seed=settings.seed,
                like=like,
                conditional=labelled,
                finished=finished,
            )
    described = {
        "models": {name: type(entry).__name__ for name, entry in models.items()},
        "truth": None if truth is None else type(truth).__name__,
        "data": len(held),
        "shape": [*held.shape],
        "solvers": [*options.solvers],
        "nfe": [*calls],
        "samples": settings.samples,
        "sigma_min": low,
        "sigma_max": high,
        "levels": chosen,
        "level_states": settings.level_states,
        "likelihood_states": settings.likelihood_states,
        "bin_width": held.bin_width,
        "conditional": labelled,
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
    }
    return Evaluation(**found, settings=described, notes=tuple(notes))


@dataclass(frozen=True)
class _Settings:
    """The counts and the seed of an evaluation."""

    samples: int
    level_states: int
    likelihood_states: int
    bootstrap: int
    seed: int


def _level_table(
    models: dict[str, Any],
    held: EvaluationData,
    count: int,
    options: by_level.LevelOptions,
    like: dict[str, Tensor],
    labelled: bool,
    finished: Any,
) -> Table:
    index = held.order(options.seed)[:count]
    tables = []
    for name, model in models.items():
        own = like[name]
        condition: dict[str, Tensor] = {}
        if labelled and held.labels is not None:
            condition["class_label"] = held.labels[index].to(own.device)
        tables.append(
            by_level.level_table(
                {name: model},
                held.rows(index, own),
                options,
                condition=condition,
                finished=finished,
            )
        )
    rows = [row for table in tables for row in table.rows]
    return Table(tables[0].title, tuple(rows), tables[0].notes)


def _with_truth(models: dict[str, Any], truth: Any, labelled: bool) -> dict[str, Any]:
    """Return the models, with the truth beside them where it is another denoiser that takes what they take."""
    known = truth is None or any(model is truth for model in models.values())
    if known or not callable(truth) or (labelled and not _takes_labels(truth)):
        return models
    return {"truth": truth, **models}


def _extractor(features: Any, shape: tuple[int, ...], device: torch.device) -> Features | None:
    """Return the features that the caller names, or those of the shape, on the device."""
    if features is not None:
        return load_features(features, device=device)
    found = default_features(shape)
    return found.to(device) if isinstance(found, torch.nn.Module) else found


def _count(name: str, value: Any) -> int:
    number = as_int(name, value, least=0)
    if number == 1:
        raise ValueError(f"{name} must be 0 or at least 2, got 1")
    return number


def _level(name: str, value: Any, default: float) -> float:
    level = default if value is None else as_float(name, value, positive=True)
    check_level(name, level, torch.float32)
    return level


def _levels(values: Any) -> list[float]:
    levels = [as_float(f"levels[{i}]", value, positive=True) for i, value in enumerate(values)]
    if len(levels) < 2 or any(low >= high for high, low in itertools.pairwise(levels)):
        raise ValueError(f"levels must be at least two levels that decrease, got {levels}")
    for i, level in enumerate(levels):
        check_level(f"levels[{i}]", level, torch.float32)
    return levels


def _batch_size(value: Any, shape: tuple[int, ...]) -> int:
    if value is not None:
        return as_int("batch_size", value, least=1)
    return min(max(_BATCH_NUMBERS // max(1, math.prod(shape)), 16), 1024)


def _data_of(data: Any, truth: Any, settings: _Settings, bin_width: Any) -> EvaluationData:
    width = None if bin_width is None else as_float("bin_width", bin_width, positive=True)
    if data is not None:
        return as_data(data, width)
    if not hasattr(truth, "sample"):
        raise ValueError(
            "pass data=, samples to compare the model with, or truth= with a method sample to draw them from"
        )
    count = max(2 * settings.samples, 2 * settings.likelihood_states, settings.level_states, 256)
    return as_data(truth.sample(count, seed=settings.seed), width)


def _like(model: Any) -> Tensor:
    """Return an empty tensor of the dtype and the device of a model's numbers."""
    if isinstance(model, torch.nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                return torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return torch.empty(0, dtype=torch.float32)


def _is_conditional(conditional: Any, models: dict[str, Any], data: EvaluationData) -> bool:
    if conditional is None:
        return data.labels is not None and all(map(_takes_labels, models.values()))
    asked = as_bool("conditional", conditional)
    if asked and data.labels is None:
        raise ValueError("conditional=True needs data with labels, and these have none")
    return asked


def _takes_labels(model: Any) -> bool:
    """Return whether a model is known to be conditional on class labels."""
    # our backbones accept the argument in any case, and say whether they have classes
    classes = getattr(getattr(model, "backbone", model), "num_classes", 1)
    return bool(classes) and "class_label" in (accepted_conditions(model) or ())
