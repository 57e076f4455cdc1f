"""The command `edmfast distill`: train an energy on a teacher, from options and a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edmfast.cli.errors import errors_on_one_line


def distill_command(
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the settings of the run, such as those in examples/configs. Options win over it."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Teacher: a saved model, .pkl of EDM or EDM2, .safetensors, .pt, a folder of diffusers, or "
            "MODULE:NAME of a denoiser in your own code."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Training data: a folder or .zip of images, or a .npz, .npy or .safetensors file."
        ),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(help="Without data: draw this number of samples of the teacher first."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the checkpoint, the model, the records and the settings."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Start of the student: weights (of the teacher), zero, or given [default: weights, and zero "
            "for another network]."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Another network for the student, such as UNet; its arguments by --set student.config.NAME=VALUE."
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="distill (regress on the teacher), dsm (on the data), two_heads (both heads of one network) "
            "[default: distill]."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a step, on all ranks.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Rounds of a step, each with a part of the batch.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of Adam.")] = None,
    autocast: Annotated[
        str | None, typer.Option(help="bfloat16 for products and convolutions of the student.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the training step, which takes minutes.")
    ] = False,
    flip: Annotated[
        bool, typer.Option("--flip", help="Add the mirror image of every training sample.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device: cpu, cuda, cuda:1, … [default: a GPU if there is one]."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any setting of the file as NAME=VALUE, such as train.ema_decay=0.9999; repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the checkpoint and the settings in the folder; start where there are none.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start again over the results of another run.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Make a few steps, and print parameters, memory and the time of the whole run.",
        ),
    ] = False,
) -> None:
    """Distil a teacher into an energy, on one device or, by torchrun -m edmfast.cli distill …, on many."""
    with errors_on_one_line("distill"):
        from edmfast.cli.training.run import distill_command as run
        from edmfast.cli.training.settings import read_settings

        options = {
            "teacher": teacher,
            "data": data,
            "data.generate": generate,
            "out": None if out is None else str(out),
            "student.start": start,
            "student.network": network,
            "train.mode": mode,
            "train.steps": steps,
            "train.batch_size": batch_size,
            "train.accumulate": accumulate,
            "train.learning_rate": learning_rate,
            "train.autocast": autocast,
            "train.compile": compiled or None,
            "data.flip": flip or None,
            "train.seed": seed,
            "device": device,
        }
        settings = read_settings(config, options, changes or (), resume=resume)
        for line in run(settings, resume=resume, overwrite=overwrite, dry_run=dry_run):
            typer.echo(line)
