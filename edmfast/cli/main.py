"""The command line: `edmfast info`, `edmfast demo` and `edmfast sample`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edmfast._version import __version__
from edmfast.cli.faults import told

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would take [1, 0.5] for a style and leave it out
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edmfast {__version__}")
        raise typer.Exit


@app.callback()
def edmfast(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Energy-based diffusion models: distillation and controlled sampling."""


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a bug report.")] = False,
) -> None:
    """Versions, devices, which kernels are live and why others are not."""
    with told("info"):
        from edmfast._info import info as collect

        facts = collect()
        typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (
                f"  {key:14} {'-' if entry is None else entry}" for key, entry in value.items()
            )
        elif isinstance(value, list):
            yield f"{name}:"
            yield from (f"  {entry}" for entry in value)
        else:
            yield f"{name}: {value}"


@app.command()
def demo(
    quick: Annotated[bool, typer.Option(help="Fewer samples and steps: under a minute.")] = False,
    retrain: Annotated[
        bool, typer.Option(help="Train the teacher again instead of loading the shipped weights.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Handwritten digits in, controlled samples out: pictures and a table."""
    with told("demo"):
        from edmfast.demo.run import run

        run(out=out, quick=quick, retrain=retrain, seed=seed)


@app.command()
def sample(
    model: Annotated[
        Path | None, typer.Argument(help="A saved model; expressions call it `model`.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="NAME=PATH of a further model; repeatable.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What to sample: tempered(model, 2), product([a, b], [1, 0.5]), "
            "mixture([a, b], [0.3, 0.7]), guided(base, model, 3), conditioned(model, class_label=3), "
            "and nestings of them. By default the model."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, like 1,8,8; where the file does not tell.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Positive noise levels [default: 32].")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="Largest noise level.")] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Smallest positive noise level.")] = None,
    weighted_above: Annotated[
        float | None,
        typer.Option(
            help="Weigh and resample from this noise level on upwards only [default: what the calibration says, "
            "or everywhere]."
        ),
    ] = None,
    particles: Annotated[int, typer.Option(help="Of each population.")] = 64,
    populations: Annotated[
        int | None, typer.Option(help="Independent of each other [default: one per condition].")
    ] = None,
    class_label: Annotated[
        str | None, typer.Option(help="Of all populations, or one of each: 3 or 0,1,4 or 0..9.")
    ] = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUES, likewise; repeatable.")
    ] = None,
    proposal: Annotated[
        str | None, typer.Option(help="euler, ancestral, noise_matched, curvature_matched, …")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First fit the noise levels by a pilot run.")
    ] = False,
    pilot_steps: Annotated[
        int, typer.Option(help="Of the pilot run, finer than the run itself.")
    ] = 128,
    calibration: Annotated[
        Path | None, typer.Option(help="File to read the fit from, or to write with --calibrate.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File to keep the run in now and then, and on Ctrl-C: see --resume."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A checkpoint of this very run, to continue it.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of another kind, and other runs.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the weighted samples.")] = None,
    png: Annotated[Path | None, typer.Option(help="File for a picture of the samples.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Weighted samples of a saved model, or of a target made of several, by sequential Monte Carlo."""
    with told("sample"):
        from edmfast.cli.request import Request
        from edmfast.cli.sample import sample_command

        request = Request(
            model=model,
            models=models or (),
            target=target,
            shape=shape,
            steps=steps,
            sigma_max=sigma_max,
            sigma_min=sigma_min,
            weighted_above=weighted_above,
            particles=particles,
            populations=populations,
            class_label=class_label,
            conditions=condition or (),
            proposal=proposal,
            calibrate=calibrate,
            pilot_steps=pilot_steps,
            calibration=calibration,
            checkpoint=checkpoint,
            resume=resume,
            overwrite=overwrite,
            out=out,
            png=png,
            seed=seed,
            device=device,
        )
        typer.echo(sample_command(request))


def main() -> None:
    """Entry point of the `edmfast` command."""
    app()


if __name__ == "__main__":
    main()
