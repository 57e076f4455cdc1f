"""Which classes of backbones a saved model may be rebuilt from: ours, and those a program registers itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from edmfast.models.backbones import BACKBONES

Class = TypeVar("Class", bound=type[nn.Module])
_OURS = dict(BACKBONES)


def register_backbone(cls: Class) -> Class:
    """Let `save_model` and `load_model` take backbones of this class; returns it, so that it can be a decorator.

    The class must be an nn.Module whose instances carry their constructor's arguments as `config`, a dictionary
    that JSON can hold. A saved model names its backbone's class, and loading looks that name up among registered
    classes only: nothing that a file names is imported. A class of the same name takes the place of one registered
    before, as when a notebook's cell runs again. Raises TypeError for anything else, ValueError for our own names.
    """
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise TypeError(f"register_backbone takes a class of nn.Module, given {cls!r}")
    name = cls.__name__
    if name in _OURS and cls is not _OURS[name]:
        raise ValueError(f"edmfast has a backbone {name} of its own: give the class another name")
    BACKBONES[name] = cls
    return cls


def known_backbones(more: Mapping[str, type[nn.Module]] | None) -> dict[str, type[nn.Module]]:
    """Return the registered classes by name, and those of more. TypeError for what is no class of nn.Module."""
    if more is not None and not isinstance(more, Mapping):
        raise TypeError(f"backbones must be a dictionary of names and classes, given {more!r}")
    for name, cls in (more or {}).items():
        if not isinstance(name, str) or not isinstance(cls, type) or not issubclass(cls, nn.Module):
            raise TypeError(f"backbones must hold names and classes, given {name!r}: {cls!r}")
    return {**BACKBONES, **(more or {})}
