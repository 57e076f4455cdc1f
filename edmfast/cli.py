"""The command line: `edmfast info` and `edmfast demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Energy-based diffusion models: distillation and controlled sampling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a bug report.")] = False,
) -> None:
    """Versions, devices, which kernels are live and why others are not."""
    from edmfast._info import info as collect

    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, entry in value.items():
                typer.echo(f"  {key:14} {'-' if entry is None else entry}")
        elif isinstance(value, list):
            typer.echo("\n".join([f"{name}:", *(f"  {entry}" for entry in value)]))
        else:
            typer.echo(f"{name}: {value}")


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
    from edmfast.demo.run import run

    run(out=out, quick=quick, retrain=retrain, seed=seed)


def main() -> None:
    """Entry point of the `edmfast` command."""
    app()


if __name__ == "__main__":
    main()
