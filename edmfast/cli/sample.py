"""What `edmfast sample` does: models from files, a target from text, a run, a file and a picture of it."""

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
from edmfast.cli.request import Request, check_sizes, load_models, read_conditions, read_shape
from edmfast.plotting import is_image, new_figure, samples_figure
from edmfast.sampling import get_sigmas_karras
from edmfast.smc.proposals import PROPOSALS
from edmfast.targets import Conditioned

_MOST_ROWS = 40


def sample_command(request: Request) -> str:
    """Run the request and return what to print.

    Raises ValueError, TypeError, OSError or ImportError for what is wrong with the request, before any time is
    spent on it; KeyboardInterrupt, saying what is kept, on Ctrl-C.
    """
    as_seed(request.seed, "--seed")
    models = load_models(request)
    target = _target(request, models)
    shape = read_shape(request, models)
    _check_outputs(request, shape)
    conditions = read_conditions(request)
    populations = _populations(request, target, conditions)
    pilot_particles = max(64, 1000 // populations) if request.calibrate and populations > 0 else 0
    check_sizes(request, shape, populations, pilot_particles)
    _check_options(request)
    if conditions:
        target = Conditioned(target, **conditions)
    try:
        sigmas = _sigmas(request, target, shape, populations, pilot_particles)
        start = time.perf_counter()
        result = smc.sample(
            target,
            shape,
            sigmas,
            particles=request.particles,
            populations=populations,
            proposal=request.proposal,
            sigma_range=_weighted(request),
            seed=request.seed,
            device=request.device,
            checkpoint=request.checkpoint,
            resume=request.resume,
            overwrite=request.overwrite,
            progress=True,
            on_degenerate="ignore",  # the summary that is printed has the verdict
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_after_interrupt(request)) from None
    seconds = time.perf_counter() - start
    written = _write(request, result)
    lines = report(result, seconds=seconds)
    return lines + (f"\nwrote {', '.join(written)}" if written else "")


def _after_interrupt(request: Request) -> str:
    if request.checkpoint is not None and request.checkpoint.exists():
        return (
            f"interrupted: the run is in {request.checkpoint}, the same command with --resume "
            f"{request.checkpoint} continues it"
        )
    if request.checkpoint is not None:
        return "interrupted: the note above says where the run is"
    return "interrupted: nothing was written (a run with --checkpoint FILE can be continued)"


def _write(request: Request, result: smc.Particles) -> list[str]:
    """Write the samples, then the picture. Ctrl-C in between says what is there."""
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
                why = f" (not {path}: {failure})" if failure is not None else ""
                written.append(f"{place}{why}")
    except KeyboardInterrupt:
        kept = ", ".join(written) or "nothing"
        raise KeyboardInterrupt(f"interrupted while writing: {kept} is complete") from None
    return written


def report(result: smc.Particles, *, seconds: float) -> str:
    """Lines about the weights: the summary of the run, then every population."""
    populations = len(result.x)
    lines = [result.summary(), f"{seconds:.1f} s"]
    lines.append(f"{'population':>10} {'ESS at the end':>14} {'lowest':>8} {'resampled':>9} "
                 f"{'ancestors':>9} {'log Z':>12}")  # fmt: skip
    for p in range(min(populations, _MOST_ROWS)):
        lines.append(
            f"{p:10d} {float(result.ess[-1, p]):14.1f} {float(result.ess[:, p].min()):8.1f} "
            f"{int(result.resampled[:, p].sum()):9d} {int(result.unique_ancestors[p]):9d} "
            f"{float(result.log_z[p]):12.4f}"
        )
    if populations > _MOST_ROWS:
        lines.append(f"{'…':>10} and {populations - _MOST_ROWS} more")
    return "\n".join(lines)


def _weighted(request: Request) -> tuple[float, float] | None:
    """Return the levels to weigh at: above the one asked for, or else where the calibration says."""
    return None if request.weighted_above is None else (request.weighted_above, math.inf)


def _check_outputs(request: Request, shape: tuple[int, ...]) -> None:
    if request.out is None and request.png is None:
        raise ValueError("nothing to write: give --out, --png or both")
    read = [path for path in (request.calibration, request.resume) if path is not None]
    models = [Path(entry.partition("=")[2]) for entry in request.models]
    models += [] if request.model is None else [request.model]
    fitted = request.calibration if request.calibrate else None
    outputs = {
        "--out": (request.out, PARTICLES, [*models, *read]),
        "--png": (request.png, PICTURE, [*models, *read]),
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
                f"--png draws images and points of the plane, not samples of shape {shape}"
            )
        new_figure(1, 1)  # tells of a missing matplotlib now, not after the run


def _check_options(request: Request) -> None:
    """Raises ValueError for options that the library would refuse only after the pilot run."""
    if request.proposal is not None and request.proposal not in PROPOSALS:
        raise ValueError(f"unknown proposal {request.proposal!r}; known: {', '.join(PROPOSALS)}")
    if request.weighted_above is not None and not 0 <= request.weighted_above < math.inf:
        raise ValueError(f"--weighted-above must be >= 0 and finite, got {request.weighted_above}")


def _target(request: Request, models: dict[str, Any]) -> Any:
    if request.target is not None:
        return parse_target(request.target, models).to(request.device)
    if len(models) > 1:
        raise ValueError(f"several models need a --target made of {', '.join(models)}")
    return next(iter(models.values()))


def _rows(target: Any) -> set[int]:
    """Lengths of the conditions and exponents that differ between populations."""
    lengths = set()
    for part in target.modules() if isinstance(target, nn.Module) else ():
        held = [*getattr(part, "condition", {}).values(), *getattr(part, "exponents", ())]
        lengths |= {len(value) for value in held if isinstance(value, Tensor) and value.dim() > 0}
    return lengths


def _populations(request: Request, target: Any, conditions: dict[str, Tensor]) -> int:
    lengths = _rows(target) | {len(value) for value in conditions.values() if len(value) > 1}
    populations = request.populations
    if populations is None:
        populations = max(lengths, default=1)
    if lengths - {populations}:
        raise ValueError(
            f"conditions and exponents have {sorted(lengths)} values for {populations} populations: give "
            "one for each, or one for all"
        )
    for name, value in conditions.items():
        if len(value) == 1:
            conditions[name] = value[0]
    return populations


def _sigmas(
    request: Request, target: Any, shape: tuple[int, ...], populations: int, pilot_particles: int
) -> Tensor | smc.Calibration:
    levels = (request.steps, request.sigma_max, request.sigma_min)
    if request.calibration is not None and not request.calibrate:
        if any(level is not None for level in levels):
            raise ValueError("--calibration brings its own noise levels: no --steps or --sigma-…")
        return smc.Calibration.load(request.calibration)
    missing = [
        option
        for option, value in (("--sigma-max", levels[1]), ("--sigma-min", levels[2]))
        if value is None
    ]
    if missing:
        raise ValueError(f"the noise levels need {' and '.join(missing)}, in units of the data")
    assert request.sigma_max is not None
    assert request.sigma_min is not None
    steps = 32 if request.steps is None else request.steps
    sigmas = get_sigmas_karras(steps, request.sigma_min, request.sigma_max)
    if not request.calibrate:
        return sigmas
    found = smc.calibrate(
        target,
        shape,
        sigmas,
        particles=pilot_particles,
        populations=populations,
        pilot_steps=request.pilot_steps,
        seed=request.seed,
    )
    if request.calibration is not None:
        found.save(request.calibration, overwrite=request.overwrite)
    return found
