"""The registry of backbone classes from which a saved model may be rebuilt: ours, and those of the program."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from edmfast.models.backbones import BACKBONES

Class = TypeVar("Class", bound=type[nn.Module])
_OURS = dict(BACKBONES)
_ON_DEMAND = {"DiffusersNetwork": "edmfast.diffusers"}
"""Classes of this package above this room, by the package that registers them when it is imported."""


def register_backbone(cls: Class) -> Class:
    """Let `save_model` and `load_model` accept backbones of this class, and return the class.

    The function can be used as a decorator. A saved model names the class of its backbone, and loading looks that
    name up among the registered classes only, so that nothing which a file names is imported. A class replaces an
    earlier one of the same name, as when the cell of a notebook runs again.

    Args:
        cls: a subclass of nn.Module whose instances carry the arguments of their constructor as `config`, a
            dictionary that JSON can hold.

    Raises:
        TypeError: anything but a subclass of nn.Module.
        ValueError: a class with the name of one of our own backbones.
    """
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise TypeError(f"register_backbone takes a subclass of nn.Module, given {cls!r}")
    name = cls.__name__
    # a file saved with our class must not be rebuilt with another one
    if name in _OURS and cls is not _OURS[name]:
        raise ValueError(f"edmfast itself has a backbone named {name}: give the class another name")
    BACKBONES[name] = cls
    return cls


def import_on_demand(name: object) -> None:
    """Import the package that registers a class of ours, where a file names one of the classes of _ON_DEMAND.

    A file can choose from this fixed table only.
    """
    if isinstance(name, str) and name in _ON_DEMAND and name not in BACKBONES:
        importlib.import_module(_ON_DEMAND[name])


def known_backbones(more: Mapping[str, type[nn.Module]] | None) -> dict[str, type[nn.Module]]:
    """Return the registered classes and those of more, by name. Raises TypeError for other values."""
    if more is not None and not isinstance(more, Mapping):
        raise TypeError(f"backbones must be a dictionary from names to classes, given {more!r}")
    for name, cls in (more or {}).items():
        if not isinstance(name, str) or not isinstance(cls, type) or not issubclass(cls, nn.Module):
            raise TypeError(
                f"backbones must map names to subclasses of nn.Module, given {name!r}: {cls!r}"
            )
    return {**BACKBONES, **(more or {})}
