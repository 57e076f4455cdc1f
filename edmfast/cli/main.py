"""The command line: `edmfast info`, `demo`, `distill`, `sample`, `evaluate` and `convert`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edmfast._version import __version__
from edmfast.cli.convert import convert_command
from edmfast.cli.distill import distill_command
from edmfast.cli.errors import errors_on_one_line
from edmfast.cli.evaluate import evaluate_command
from edmfast.smc.options import WEIGHTS
from edmfast.smc.proposals import PROPOSALS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # errors are printed on one line, and a frame of typer's would take many
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would take [1, 0.5] in a help text for a style and drop it
)


def _print_version(requested: bool) -> None:
    if requested:
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
    """Distil energy-based diffusion models and sample from them under control."""


@app.command()
def info(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for example for a bug report.")
    ] = False,
) -> None:
    """Show versions, devices, the kernels that are in use, and why others are not."""
    with errors_on_one_line("info"):
        # an import inside the block reports its errors on one line too
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
    quick: Annotated[
        bool,
        typer.Option(
            help="Take fewer samples and steps, for a run of about a minute on an idle core."
        ),
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option(
            help="First train the denoiser again, in eight minutes, and replace its shipped weights."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the pictures, models and table.")] = Path(
        "out"
    ),
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
) -> None:
    """Sample a model of handwritten digits under control, beside the exact answer: pictures and a table."""
    with errors_on_one_line("demo"):
        from edmfast.demo.run import run

        run(out=out, quick=quick, retrain=retrain, seed=seed)


@app.command()
def sample(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Saved model, or a file or folder of another project (.pkl, .pt); --target calls it `model`."
        ),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A further model as NAME=PATH; repeatable.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Target to sample: tempered(model, 2), product([a, b], [1, 0.5]), "
            "mixture([a, b], [0.3, 0.7]), guided(base, model, 3), conditioned(model, class_label=3), "
            "or these inside each other [default: the model]."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Shape of one sample, such as 1,8,8 [default: the one of the models]."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of positive noise levels [default: 32].")
    ] = None,
    sigma_max: Annotated[
        float | None, typer.Option(help="Largest noise level, in the units of the data.")
    ] = None,
    sigma_min: Annotated[
        float | None, typer.Option(help="Smallest positive noise level, in the units of the data.")
    ] = None,
    weighted_above: Annotated[
        float | None,
        typer.Option(
            help="Weigh and resample only at noise levels of at least this one [default: the level in the "
            "calibration, or all levels]."
        ),
    ] = None,
    particles: Annotated[int, typer.Option(help="Number of particles in each population.")] = 64,
    populations: Annotated[
        int | None,
        typer.Option(help="Number of independent populations [default: one for each condition]."),
    ] = None,
    class_label: Annotated[
        str | None,
        typer.Option(
            help="Class label: one for all populations, or one for each, as 3 or 0,1,4 or 0..9."
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="Another condition as NAME=VALUES, with values as for --class-label; repeatable."
        ),
    ] = None,
    proposal: Annotated[
        str | None,
        typer.Option(
            help=f"Proposal of the moves: {', '.join(PROPOSALS)} [default: by the target]."
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help=f"Weights of the particles: {', '.join(WEIGHTS)}.")
    ] = "auto",
    calibrate: Annotated[
        # with a name of its own, typer adds no --no-calibrate
        bool, typer.Option("--calibrate", help="Fit the noise levels by a pilot run first.")
    ] = False,
    pilot_steps: Annotated[
        int, typer.Option(help="Number of steps of the pilot run, more than the run itself has.")
    ] = 128,
    calibration: Annotated[
        Path | None, typer.Option(help="File of the fit: it is read, or written with --calibrate.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File that keeps the run every few steps and on Ctrl-C, for --resume."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Checkpoint of this same run, which is continued.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Also replace files of another kind and checkpoints of other runs."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the weighted samples.")] = None,
    png: Annotated[Path | None, typer.Option(help="File for a PNG picture of the samples.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Annotated[str, typer.Option(help="Device of the run: cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Draw weighted samples of a saved model, or of a target made of several, by sequential Monte Carlo."""
    with errors_on_one_line("sample"):
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
            weights=weights,
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


app.command("distill")(distill_command)
app.command("evaluate")(evaluate_command)
app.command("convert")(convert_command)


def main() -> None:
    """Run the `edmfast` command."""
    app()


if __name__ == "__main__":
    main()
