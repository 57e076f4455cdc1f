"""Write the fields of `Particles` to a safetensors file, and read and check them."""

from __future__ import annotations

import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from edmfast._internal.file_kinds import PARTICLES
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.json_text import shortened
from edmfast._internal.tensor_checks import FLOATS, TensorSpec, check_tensors
from edmfast.smc.particles.data import ParticleData

_METADATA = (
    "nfe",
    "seed",
    "law",
    "first_population",
    "evaluations",
    "one_target",
    "log_z_note",
)
"""Fields that are no tensors; the header of the file holds them."""
_DOUBLE, _COUNTS = (torch.float64,), (torch.int64,)
_TENSORS = {
    "x": TensorSpec(FLOATS, "PN*"),
    "log_weights": TensorSpec(_DOUBLE, "PN"),
    "log_z": TensorSpec(_DOUBLE, "P"),
    "ess": TensorSpec(_DOUBLE, "TP"),
    "resampled": TensorSpec((torch.bool,), "TP"),
    "log_weight_sd": TensorSpec(_DOUBLE, "TP"),
    "unique_ancestors": TensorSpec(_COUNTS, "P", 0),
    "degenerate": TensorSpec((torch.int32,), "P", 0, 15),
    "sigmas": TensorSpec(_DOUBLE, "S"),
    "survivors": TensorSpec(_COUNTS, "TP", 0),
    "ancestors": TensorSpec((torch.int32,), "TPN", 0, "N"),
    "log_densities": TensorSpec(_DOUBLE, "PNM"),
    "acceptance": TensorSpec(_DOUBLE, "TCP"),
}
"""Dtypes, shapes and ranges of the tensors of a file, which `read_fields` checks."""


def write_particles(
    particles: ParticleData, path: str | os.PathLike[str], *, overwrite: bool
) -> None:
    """Write all fields, whole or not at all. Raises as `Particles.save` does."""
    tensors = {f.name: getattr(particles, f.name) for f in fields(ParticleData)}
    metadata = {"kind": "particles", **{name: tensors.pop(name) for name in _METADATA}}
    # A field that the run did not record is left out of the file, and gets its default when read.
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    write_tensors(path, tensors, metadata, kind=PARTICLES, overwrite=overwrite)


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields that `write_particles` wrote, by name.

    Raises FileNotFoundError without a file, and ValueError for another kind of file or a corrupt one.
    """
    tensors, metadata = read_tensors(path)
    names = {f.name for f in fields(ParticleData)} - {*_METADATA}
    needed = {f.name for f in fields(ParticleData) if f.default is MISSING}
    values: dict[str, Any] = {name: metadata[name] for name in _METADATA if name in metadata}
    # files of earlier versions lack the fields that have defaults
    complete = needed <= {*tensors, *values} and set(tensors) <= names
    if metadata.get("kind") != "particles" or not complete:
        raise ValueError(f"{Path(path)} does not hold particles")
    check_tensors(path, tensors, _TENSORS, {})
    # the letters of the table cannot say that a last 0 is optional
    levels, sigmas = len(tensors["ess"]), tensors["sigmas"]
    if len(sigmas) - levels not in (0, 1) or not bool(sigmas.isfinite().all()):
        raise ValueError(f"{path} is corrupt: it has {len(sigmas)} sigmas for {levels} levels")
    for name in ("law", "log_z_note"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"{path} is corrupt: its {name} is {shortened(values[name])}")
    return {**tensors, **values}
