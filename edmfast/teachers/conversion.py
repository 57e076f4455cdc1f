"""The entry point `convert`: a teacher from any file as a file that `edmfast.models.load_model` reads."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from edmfast._internal.atomic_write import check_output
from edmfast._internal.file_kinds import MODEL
from edmfast.models import Denoiser, EnergyModel
from edmfast.models.saving.save_load import save_model
from edmfast.teachers.load import load_teacher


@dataclasses.dataclass(frozen=True)
class Converted:
    """A description of the model that `convert` found and wrote.

    Attributes:
        kind: "Denoiser" or "EnergyModel".
        network: the class of the network.
        parameters: the number of its parameters.
        shape: the shape of a sample, where the network says it: channels and resolution. None otherwise.
        sigma_data: the standard deviation of the data.
        num_classes: the number of classes, None without labels.
        dtype: the dtype of the parameters.
    """

    kind: str
    network: str
    parameters: int
    shape: tuple[int, ...] | None
    sigma_data: float
    num_classes: int | None
    dtype: torch.dtype


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Converted:
    """Write the teacher in a file as one safetensors file, as `edmfast.models.save_model` writes it.

    Args:
        source: a file that `load_teacher` reads.
        destination: the file, usually with the suffix .safetensors. A saved model that is already there is
        replaced.
        dtype: the dtype of its numbers; see `load_teacher`.
        overwrite: also replace a file of another kind.
        options: further arguments of `load_teacher`: network, config, sigma_data, key and backbones.

    Returns:
        A `Converted`.

    Raises:
        ValueError: a source that `load_teacher` refuses, or one that is no network of this package, such as a
            folder of diffusers.
        FileExistsError: a file of another kind at destination, without overwrite.
        OSError: a destination that cannot be written, or that is the source.
    """
    # a destination that cannot be written is refused before minutes of reading
    check_output(destination, MODEL, inputs=[source], overwrite=overwrite)
    model = load_teacher(source, dtype=dtype, **options)
    if not isinstance(model, (Denoiser, EnergyModel)):
        raise ValueError(
            f"only networks of edmfast can be converted, and {source} gives a {type(model).__name__}: use it as a "
            "teacher, and save the student"
        )
    save_model(model, destination, overwrite=overwrite)
    return describe(model)


def describe(model: Denoiser | EnergyModel) -> Converted:
    """Return the facts about a model of this package."""
    config: dict[str, Any] = getattr(model.backbone, "config", {})
    parameters = [*model.backbone.parameters()]
    return Converted(
        kind=type(model).__name__,
        network=type(model.backbone).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        shape=_shape(config),
        sigma_data=model.sigma_data,
        num_classes=getattr(model.backbone, "num_classes", None),
        dtype=parameters[0].dtype if parameters else torch.get_default_dtype(),
    )


def _shape(config: dict[str, Any]) -> tuple[int, ...] | None:
    # a network inside another one says it in its place
    config = config.get("config", config)
    channels = config.get("in_channels", config.get("img_channels"))
    size = config.get("img_resolution")
    if not isinstance(channels, int) or not isinstance(size, int):
        return None
    return channels, size, size
