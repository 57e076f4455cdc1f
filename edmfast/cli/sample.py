"""The command `edmfast sample`: read models and a target, run sequential Monte Carlo, and write the samples."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edmfast import smc
from edmfast._internal.atomic_write import (
    check_checkpoint,
    check_distinct,
    check_output,
    replacing,
    write_or_fall_back,
)
from edmfast._internal.file_kinds import PARTICLES, PICTURE, RUN_CHECKPOINT
from edmfast._internal.numbers import as_seed
from edmfast.cli.expressions import parse_target
from edmfast.cli.report import report
from edmfast.cli.request import Request, check_sizes, load_models, read_conditions, read_shape
from edmfast.plotting import is_image, new_figure, samples_figure
from edmfast.sampling import get_sigmas_karras
from edmfast.smc.options import as_weights
from edmfast.smc.proposals import PROPOSALS
from edmfast.targets import Conditioned


def sample_command(request: Request) -> str:
    """Run a request and return the text to print.

    Raises ValueError, TypeError, OSError or ImportError for a bad request, before any time is spent on it. On
    Ctrl-C it raises KeyboardInterrupt with a message on what was kept.
    """
    as_seed(request.seed, "--seed")
    models = load_models(request)
    target = _read_target(request, models)
    shape = read_shape(request, models)
    # a run may take hours, so all files are checked before it
    _check_outputs(request, shape)
    conditions = read_conditions(request)
    populations = _count_populations(request, target, conditions)
    conditions = _for_all_populations(conditions)
    # about 1000 particles in all are enough for a pilot
    pilot_particles = max(64, 1000 // populations) if request.calibrate and populations > 0 else 0
    check_sizes(request, shape, populations, pilot_particles)
    _check_options(request)
    if conditions:
        target = Conditioned(target, **conditions)
    try:
        sigmas = _noise_levels(request, target, shape, populations, pilot_particles)
        start = time.perf_counter()
        result = smc.sample(
            target,
            shape,
            sigmas,
            particles=request.particles,
            populations=populations,
            proposal=request.proposal,
            weights=request.weights,
            sigma_range=_weighted_range(request),
            seed=request.seed,
            progress=True,
            checkpoint=smc.Checkpoint(
                request.checkpoint, resume_from=request.resume, overwrite=request.overwrite
            ),
            # the printed summary shows the verdict
            options=smc.RunOptions(device=request.device, on_degenerate="ignore"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_message_after_interrupt(request)) from None
    seconds = time.perf_counter() - start
    written = _write(request, result)
    text = report(result, seconds=seconds)
    return text + (f"\nwrote {', '.join(written)}" if written else "")


def _message_after_interrupt(request: Request) -> str:
    if request.checkpoint is not None and request.checkpoint.exists():
        return (
            f"interrupted: the run is kept in {request.checkpoint}, and the same command with --resume "
            f"{request.checkpoint} continues it"
        )
    if request.checkpoint is not None:
        return "interrupted: the note above says where the run is kept"
    return "interrupted: nothing was written (a run with --checkpoint FILE can be continued)"


def _write(request: Request, result: smc.Particles) -> list[str]:
    """Write the samples, then the picture, and return where they are.

    Raises KeyboardInterrupt on Ctrl-C, with a message on what is complete.
    """
    written: list[str] = []

    def write_samples(path: Path) -> None:
        result.save(path, overwrite=request.overwrite)

    def write_picture(path: Path) -> None:
        with replacing(path) as temporary:
            samples_figure(result).savefig(temporary, dpi=150, format="png")

    try:
        for path, write in ((request.out, write_samples), (request.png, write_picture)):
            if path is not None:
                place, failure = write_or_fall_back(write, path)
                note = f" (not {path}: {failure})" if failure is not None else ""
                written.append(f"{place}{note}")
    except KeyboardInterrupt:
        complete = ", ".join(written) or "nothing"
        raise KeyboardInterrupt(f"interrupted while writing: {complete} is complete") from None
    return written


def _weighted_range(request: Request) -> tuple[float, float] | None:
    """Return the range of levels to weigh at; None leaves it to the calibration."""
    return None if request.weighted_above is None else (request.weighted_above, math.inf)


def _check_outputs(request: Request, shape: tuple[int, ...]) -> None:
    if request.out is None and request.png is None:
        raise ValueError("there is nothing to write: give --out, --png or both")
    inputs_of_run = [path for path in (request.calibration, request.resume) if path is not None]
    models = [Path(entry.partition("=")[2]) for entry in request.models]
    models += [] if request.model is None else [request.model]
    fitted = request.calibration if request.calibrate else None
    outputs = {
        "--out": (request.out, PARTICLES, [*models, *inputs_of_run]),
        "--png": (request.png, PICTURE, [*models, *inputs_of_run]),
        "--checkpoint": (request.checkpoint, RUN_CHECKPOINT, models),
        "--calibration": (fitted, "calibration", models),
    }
    check_distinct(**{name: path for name, (path, _, _) in outputs.items()})
    for name, (path, kind, inputs) in outputs.items():
        if path is not None:
            check_output(path, kind, name=name, inputs=inputs, overwrite=request.overwrite)
    if request.checkpoint is not None:
        check_checkpoint(
            request.checkpoint,
            RUN_CHECKPOINT,
            request.resume,
            resume_name="--resume",
            overwrite=request.overwrite,
        )
    if request.png is not None:
        if shape != (2,) and not is_image(shape):
            raise ValueError(
                f"--png draws images and points in the plane, not samples of shape {shape}"
            )
        new_figure(1, 1)  # raises now, and not after the run, where matplotlib is missing


def _check_options(request: Request) -> None:
    """Raise ValueError for options that the library would refuse only after the pilot run."""
    as_weights(request.weights)
    if request.proposal is not None and request.proposal not in PROPOSALS:
        raise ValueError(f"unknown proposal {request.proposal!r}; known: {', '.join(PROPOSALS)}")
    if request.weighted_above is not None and not 0 <= request.weighted_above < math.inf:
        raise ValueError(
            f"--weighted-above must be finite and at least 0, got {request.weighted_above}"
        )


def _read_target(request: Request, models: dict[str, Any]) -> Any:
    if request.target is not None:
        return parse_target(request.target, models).to(request.device)
    if len(models) > 1:
        raise ValueError(
            f"several models were given: say with --target what to make of {', '.join(models)}"
        )
    return next(iter(models.values()))


def _value_counts(target: Any) -> set[int]:
    """Return the lengths of the conditions and exponents inside a target."""
    counts = set()
    for part in target.modules() if isinstance(target, nn.Module) else ():
        values = [*getattr(part, "condition", {}).values(), *getattr(part, "exponents", ())]
        counts |= {len(value) for value in values if isinstance(value, Tensor) and value.dim() > 0}
    return counts


def _count_populations(request: Request, target: Any, conditions: dict[str, Tensor]) -> int:
    """Return the number of populations: the one requested, or else the largest number of values.

    Raises ValueError if a condition or an exponent has several values, but not one for each population.
    """
    counts = _value_counts(target) | {len(value) for value in conditions.values() if len(value) > 1}
    populations = request.populations
    # by default each value has a population
    if populations is None:
        populations = max(counts, default=1)
    if counts - {populations}:
        raise ValueError(
            f"conditions and exponents have {sorted(counts)} values for {populations} populations: give one value "
            "for each population, or one for all"
        )
    return populations


def _for_all_populations(conditions: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the conditions, where a single value has become a number that holds for all populations."""
    return {name: value[0] if len(value) == 1 else value for name, value in conditions.items()}


def _noise_levels(
    request: Request, target: Any, shape: tuple[int, ...], populations: int, pilot_particles: int
) -> Tensor | smc.Calibration:
    levels = (request.steps, request.sigma_max, request.sigma_min)
    if request.calibration is not None and not request.calibrate:
        if any(level is not None for level in levels):
            raise ValueError(
                "--calibration brings its own noise levels: leave out --steps, --sigma-max and --sigma-min"
            )
        return smc.Calibration.load(request.calibration)
    missing = [
        option
        for option, value in (("--sigma-max", levels[1]), ("--sigma-min", levels[2]))
        if value is None
    ]
    if missing:
        raise ValueError(f"the noise levels need {' and '.join(missing)}, in the units of the data")
    assert request.sigma_max is not None
    assert request.sigma_min is not None
    steps = 32 if request.steps is None else request.steps
    sigmas = get_sigmas_karras(steps, request.sigma_min, request.sigma_max)
    if not request.calibrate:
        return sigmas
    calibration = smc.calibrate(
        target,
        shape,
        sigmas,
        particles=pilot_particles,
        populations=populations,
        pilot_steps=request.pilot_steps,
        seed=request.seed,
    )
    if request.calibration is not None:
        calibration.save(request.calibration, overwrite=request.overwrite)
    return calibration
