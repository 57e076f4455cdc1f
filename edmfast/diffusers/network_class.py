"""The class of a network of diffusers, by the name in a file. No other class of diffusers is accepted."""

from __future__ import annotations

from typing import Any

from torch import nn


def network_class(name: Any, owner: str) -> Any:
    """Return the class of diffusers with this name, which must be a module with weights.

    owner: a noun for what names the class, in errors. Raises ImportError without diffusers, and ValueError for
    another name.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            f"{owner} needs diffusers, which is not installed: pip install 'edmfast[diffusers]'"
        ) from error
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    kinds = (diffusers.ModelMixin, nn.Module)
    if not isinstance(cls, type) or not all(issubclass(cls, kind) for kind in kinds):
        raise ValueError(f"{owner} needs the class {name!r}, which is no network of diffusers")
    return cls
