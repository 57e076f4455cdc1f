"""Checkpoints: everything that a run needs to continue as if it had never stopped, in one safetensors file.

Tensors: student.* (its state), ema.*, first_moment.* and second_moment.* (of the trained parameters), run.losses
[steps done], run.generator (the state of the random generator). Metadata: the step, the settings that determine
the trajectory, and descriptions of the student and the data. Nothing is unpickled.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from edmfast._internal.file_kinds import TRAINING_CHECKPOINT
from edmfast._internal.files import read_tensors, write_tensors

_FORMAT, _VERSION = "edmfast-distill", 1


def describe(
    student: nn.Module, shapes: Mapping[str, torch.Size] = types.MappingProxyType({})
) -> dict[str, Any]:
    """Return the properties that another student must share to continue from this one's checkpoint.

    shapes: the whole shapes of tensors of which the student holds pieces.
    """
    # an interpolant has no sigma_data, and describes its path instead
    interpolant = getattr(student, "interpolant", None)
    return {
        "class": type(student).__name__,
        **({} if interpolant is None else {"interpolant": repr(interpolant)}),
        "sigma_data": getattr(student, "sigma_data", None),
        "potential": getattr(student, "potential_name", None),
        "tensors": {
            name: [str(tensor.dtype), [*shapes.get(name, tensor.shape)]]
            for name, tensor in student.state_dict().items()
        },
    }


def write_checkpoint(
    path: str | os.PathLike[str],
    groups: dict[str, dict[str, torch.Tensor]],
    metadata: dict[str, Any],
) -> None:
    """Write a checkpoint, replacing an earlier one.

    groups: named tensors by the name of their group. metadata: entries that `read_checkpoint` compares.
    """
    tensors = {
        f"{group}.{name}": tensor
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    described = {"format": _FORMAT, "version": _VERSION, **metadata}
    # a checkpoint always replaces the one of the same run; `distill` has checked that it is one
    write_tensors(path, tensors, described, kind=TRAINING_CHECKPOINT, overwrite=True)


def read_checkpoint(
    path: str | os.PathLike[str], expected: dict[str, Any]
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Return (groups, metadata) of a checkpoint whose metadata agrees with every entry of expected.

    Raises FileNotFoundError where there is no file, and ValueError for a corrupt file or a metadata entry that
    disagrees, which the error names.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        contents = f"{metadata.get('format')!r} version {metadata.get('version')}"
        raise ValueError(f"{path} holds {contents}, not {_FORMAT!r} version {_VERSION}")
    for name, value in expected.items():
        difference = _difference(metadata.get(name), value)
        if difference:
            raise ValueError(f"{path} belongs to another run: {name}{difference}")
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        # names of parameters contain dots too, so only the first one separates the group
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    return groups, metadata


def copy_group(
    path: str | os.PathLike[str],
    groups: dict[str, dict[str, torch.Tensor]],
    group: str,
    targets: Iterable[tuple[str, torch.Tensor]],
) -> None:
    """Copy a group's tensors onto the named targets, in place. Raises ValueError where one is missing."""
    stored = groups.get(group, {})
    for name, target in targets:
        if name not in stored or stored[name].shape != target.shape:
            raise ValueError(f"{path} is incomplete: no {group}.{name} of {[*target.shape]}")
        target.detach().copy_(stored[name])


def load_ema(path: str | os.PathLike[str], student: nn.Module) -> nn.Module:
    """Load the averaged weights of a training checkpoint into student, in place, and return it.

    This makes the weights of an interrupted run usable without finishing the run.

    Args:
        path: a checkpoint that `distill` has written.
        student: a model like the one that was trained.

    Raises:
        FileNotFoundError: no file at path.
        ValueError: a file that is no checkpoint of such a model.
    """
    groups, _ = read_checkpoint(path, {"student": describe(student)})
    copy_group(path, groups, "student", student.state_dict().items())
    # frozen parameters and buffers have no average, and keep their stored values
    trained = [item for item in student.named_parameters() if item[0] in groups.get("ema", {})]
    copy_group(path, groups, "ema", trained)
    return student


def _difference(stored: Any, current: Any, place: str = "") -> str:
    """Return a description of the first difference between two JSON-able values, empty if there is none."""
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in [*current, *(key for key in stored if key not in current)]:
            if key not in stored or key not in current:
                return f"{place}.{key} is only in {'this run' if key in current else 'the file'}"
            difference = _difference(stored[key], current[key], f"{place}.{key}")
            if difference:
                return difference
        return ""
    return "" if stored == current else f"{place} is {stored!r} there and {current!r} here"
