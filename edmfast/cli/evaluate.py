"""The command `edmfast evaluate`: read models, data and features, measure, print the tables and write them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from edmfast._internal.atomic_write import check_output
from edmfast._internal.file_kinds import MIXTURE, MODEL, kind_of
from edmfast._internal.files import read_tensors
from edmfast.analytic import MixtureOfGaussians
from edmfast.cli.errors import errors_on_one_line
from edmfast.cli.request import device_of, read_values
from edmfast.cli.working_folder import working_folder
from edmfast.evaluation import SOLVERS, evaluate, load_features
from edmfast.evaluation.data import as_data
from edmfast.evaluation.evaluation import JSON, KIND
from edmfast.evaluation.features import DIGITS, SAMPLES
from edmfast.models import load_model, patch_attention
from edmfast.teachers import load_teacher

_NAMES = ", ".join(SOLVERS)


def evaluate_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a saved energy, denoiser or mixture, or what load_teacher reads: a .pkl, .pt or "
            "safetensors file, a folder of diffusers, or module:name."
        ),
    ],
    teacher: Annotated[
        str | None,
        typer.Option(help="Teacher, which is measured beside the model; see MODEL."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Clean samples that the models were not trained on: a folder or .zip of images, or an .npz, .npy "
            "or safetensors file [default: draws of the truth]."
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="File of the exact mixture of the data, for energy errors in nats."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help=f"Features of the Fréchet distance: {DIGITS}, {SAMPLES}, a safetensors file that save_features "
            "wrote, or a TorchScript file. TorchScript runs the code of the file, so load only files that you "
            "trust. [default: by the shape of the samples]"
        ),
    ] = None,
    features_network: Annotated[
        str | None,
        typer.Option(
            help="Network of a safetensors file that save_features did not write, as MODULE:NAME of a class or "
            "function without arguments. The module is imported from the working folder or the Python path."
        ),
    ] = None,
    features_as_bytes: Annotated[
        bool,
        typer.Option(
            "--features-as-bytes",
            help="Pass images to the features as bytes from 0 to 255, as many Inception files expect them.",
        ),
    ] = False,
    nfe: Annotated[
        str, typer.Option(help="Numbers of model calls for each sample, such as 5,10,18.")
    ] = "5,10,18,35",
    solvers: Annotated[
        str, typer.Option(help=f"Solvers, separated by commas: {_NAMES}.")
    ] = "heun,dpmpp_2m",
    samples: Annotated[
        int, typer.Option(help="Number of samples of each run; 0 leaves their distances out.")
    ] = 5000,
    sigma_max: Annotated[
        float | None,
        typer.Option(help="Largest noise level, in units of the data [default: 160 sigma_data]."),
    ] = None,
    sigma_min: Annotated[
        float | None,
        typer.Option(
            help="Smallest positive noise level, in units of the data [default: 0.004 sigma_data]."
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Noise levels of the diagnostics, decreasing, such as 10,1,0.1 [default: eight levels by the "
            "spread of the data]."
        ),
    ] = None,
    level_states: Annotated[
        int,
        typer.Option(help="Number of states at each of these levels; 0 leaves them out."),
    ] = 64,
    likelihood_states: Annotated[
        int,
        typer.Option(help="Number of held-out states for likelihoods; 0 leaves them out."),
    ] = 64,
    bin_width: Annotated[
        float | None,
        typer.Option(
            help="Distance of neighbouring values of rounded data, for bits per dimension "
            "[default: 2/255 for bytes]."
        ),
    ] = None,
    conditional: Annotated[
        bool | None,
        typer.Option(
            help="Pass the labels of the data as class labels [default: where all models accept them]."
        ),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Number of bootstrap draws for the error of a Fréchet distance.")
    ] = 20,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Number of samples in one call [default: by the size of a sample]."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables as JSON and for the pictures."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Annotated[str, typer.Option(help="Device of the models: cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Measure a model on data: distances of its samples, consistency by noise level, and likelihood."""
    with errors_on_one_line("evaluate"):
        place = device_of(device)
        if out is not None:
            _check_folder(out)
        # a file that is named twice is one model, which has its rows once
        read = functools.cache(functools.partial(_read, device=place))
        student = read(_resolved(model))
        guide = None if teacher is None else read(_resolved(teacher))
        exact = None if truth is None else _as_mixture(truth, read(_resolved(str(truth))))
        if data is None and exact is None:
            raise ValueError("there is nothing to compare with: give --data, --truth or both")
        held = None if data is None else as_data(data, bin_width)
        extractor: Any = None
        if features is not None:
            network = None if features_network is None else _network(features_network)
            extractor = load_features(
                features, network=network, device=place, as_bytes=features_as_bytes
            )
        elif features_as_bytes or features_network is not None:
            raise ValueError("--features-as-bytes and --features-network need --features")
        result = evaluate(
            student,
            teacher=guide,
            data=held,
            truth=exact,
            features=extractor,
            nfe=_integers("--nfe", nfe),
            solvers=[name.strip() for name in solvers.split(",")],
            samples=samples,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            levels=None if levels is None else [*map(float, read_values("--levels", levels))],
            level_states=level_states,
            likelihood_states=likelihood_states,
            bin_width=bin_width,
            conditional=conditional,
            bootstrap=bootstrap,
            batch_size=batch_size,
            seed=seed,
            progress=True,
        )
        typer.echo(str(result))
        if out is not None:
            typer.echo(f"wrote {', '.join(map(str, result.save(out)))}")


def _resolved(name: str) -> str:
    """Return one spelling for all paths of a file, and any other name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _read(name: str, device: torch.device) -> Any:
    """Return the model of a file, a folder or the program, on the device."""
    path = Path(name)
    kind = kind_of(path) if path.is_file() else None
    if kind == MIXTURE:
        tensors, _ = read_tensors(path)
        return MixtureOfGaussians(**tensors).to(device)
    with working_folder():
        loaded: Any = load_model(path) if kind == MODEL else load_teacher(name)
        if kind != MODEL and path.is_dir():
            # the measures differentiate networks of diffusers twice
            patch_attention(loaded)
    return loaded.to(device) if isinstance(loaded, nn.Module) else loaded


def _as_mixture(path: Path, model: Any) -> MixtureOfGaussians:
    """Return the model of a file as a mixture. Raises ValueError for a model of another kind."""
    if not isinstance(model, MixtureOfGaussians):
        raise ValueError(f"{path} holds no {MIXTURE}")
    return model


def _network(text: str) -> Callable[[], nn.Module]:
    """Return the class or function that the option names, by importing its module."""
    module, colon, name = text.partition(":")
    if not colon or not name.isidentifier():
        raise ValueError(f"--features-network takes MODULE:NAME, got {text!r}")
    try:
        with working_folder():
            built: Callable[[], nn.Module] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--features-network {text}: {error}") from error
    return built


def _check_folder(out: Path) -> None:
    """Make the folder now and check its file, because a run takes long."""
    out.mkdir(parents=True, exist_ok=True)
    check_output(out / JSON, KIND, name="--out", overwrite=None)


def _integers(option: str, text: str) -> list[int]:
    """Return the integers of a text such as 5,10,18."""
    numbers = read_values(option, text)
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{option} takes integers such as 5,10,18, got {text!r}")
    return [int(number) for number in numbers]
