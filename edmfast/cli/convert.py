"""The command `edmfast convert`: write a teacher of any file as a file of this package, and print what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edmfast.cli.errors import errors_on_one_line

_DTYPES = ("float32", "float64", "float16", "bfloat16")


def convert_command(
    source: Annotated[
        Path,
        typer.Argument(help="File of the teacher: .pkl of EDM or EDM2, .safetensors, .pt or .pth."),
    ],
    destination: Annotated[Path, typer.Argument(help="File to write, usually .safetensors.")],
    network: Annotated[
        str | None,
        typer.Option(help="Class of the network of a bare state, such as SongUNet."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file with the arguments of that class."),
    ] = None,
    sigma_data: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the data, for a bare state [default: 0.5]."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Name of the network in the file [default: ema, net or model]."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help=f"Numbers to write: {', '.join(_DTYPES)} [default: those of the file, and float32 for half "
            "precisions]."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace a file of another kind at the destination.")
    ] = False,
) -> None:
    """Write the network of a foreign file as a model of edmfast, and print what was found.

    Nothing in the file runs.
    """
    with errors_on_one_line("convert"):
        import torch

        from edmfast.teachers import convert

        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(_DTYPES)}, given {dtype}")
        options: dict[str, Any] = {
            "network": network,
            "config": config,
            "sigma_data": sigma_data,
            "key": key,
            "dtype": None if dtype is None else getattr(torch, dtype),
        }
        found = convert(source, destination, overwrite=overwrite, **options)
        typer.echo("\n".join(_lines(found)))
        typer.echo(f"wrote {destination}")


def _lines(found: Any) -> Iterator[str]:
    yield f"{found.kind} around {found.network}"
    shape = "not said" if found.shape is None else " × ".join(map(str, found.shape))
    labels = "none" if found.num_classes is None else f"{found.num_classes} classes"
    rows = {
        "parameters": f"{found.parameters:,} in {str(found.dtype).removeprefix('torch.')}",
        "sample": shape,
        "sigma_data": f"{found.sigma_data:g}",
        "labels": labels,
    }
    yield from (f"  {name:12} {value}" for name, value in rows.items())
