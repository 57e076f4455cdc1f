"""Keyword conditions of models: which names a model accepts, and what its error says about others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_DTYPES = re.compile(
    r"same dtype|expected scalar type|should be the same|mixed dtype", re.IGNORECASE
)
_SIZES = re.compile(r"must match the size of tensor")


def accepted_conditions(model: Any) -> set[str] | None:
    """Return the names of the keyword conditions of a model, None where it takes any or cannot be asked."""
    own = getattr(model, "accepted_conditions", None)
    if callable(own):
        found: set[str] | None = own()
        return found
    if _is_ours(model):
        inside = getattr(model, "backbone", None)
        if inside is not None:
            return accepted_conditions(inside)
        members = getattr(model, "models", None) or [getattr(model, "model", None)]
        if members[0] is not None:
            return _common(members)
    return _parameters(model)


def check_accepted(model: Any, names: Iterable[str], what: str | None = None) -> None:
    """Raise TypeError where a model is known not to accept a condition. what: what the error calls the model."""
    accepted = accepted_conditions(model)
    unknown = [] if accepted is None else sorted(set(names) - accepted)
    if accepted is None or not unknown:
        return
    if not accepted:
        raise TypeError(f"{what or _name(model)} accepts no conditions, given {', '.join(unknown)}")
    known, hint = ", ".join(sorted(accepted)), f"{sorted(accepted)[0]!r}"
    raise TypeError(
        f"{what or _name(model)} accepts the conditions {known}, given {', '.join(unknown)}: a model that "
        f"calls one by another name is wrapped as edmfast.targets.Renamed(model, {unknown[0]}={hint})"
    )


def explained(error: Exception, model: Any, x: Tensor, condition: dict[str, Any]) -> Exception:
    """Return an error of a model's call in words that name the model and what it accepts, or the error itself."""
    told = str(error)
    if isinstance(error, TypeError) and "unexpected keyword argument" in told:
        try:
            check_accepted(model, condition)
        except TypeError as better:
            return better
    if isinstance(error, RuntimeError) and _DTYPES.search(told):
        held = _dtypes(model) - {x.dtype}
        if held:
            kinds = ", ".join(sorted(map(str, held)))
            return TypeError(
                f"{_name(model)} has numbers of {kinds}, and was given states of {x.dtype}: give states of its "
                f"dtype (in smc.sample by dtype=), or convert the model by model.to({x.dtype}) ({told})"
            )
    if isinstance(error, RuntimeError) and _SIZES.search(told):
        return RuntimeError(
            f"{_name(model)} failed: {told}. It gets the noise levels as a tensor [B], one for each row of x: "
            f"reshape them with sigma.view(-1{', 1' * (x.dim() - 1)}) before they meet x"
        )
    return error


def _is_ours(model: Any) -> bool:
    return type(model).__module__.partition(".")[0] == "edmfast"


def _common(members: Iterable[Any]) -> set[str] | None:
    known = [names for names in map(accepted_conditions, members) if names is not None]
    return set.intersection(*known) if known else None


def _parameters(model: Any) -> set[str] | None:
    """Return the names after the first two in the signature of what a model is called by."""
    call = model
    if isinstance(model, nn.Module):
        call = model.forward
    elif hasattr(model, "energy_and_score"):
        call = model.energy_and_score
    try:
        parameters = [*inspect.signature(call).parameters.values()]
    except (TypeError, ValueError):
        return None
    free = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    if any(one.kind in free for one in parameters):
        return None
    names = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {one.name for one in parameters[2:] if one.kind in names}


def _dtypes(model: Any) -> set[torch.dtype]:
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def _name(model: Any) -> str:
    name = getattr(model, "__qualname__", None)
    return name if isinstance(name, str) else type(model).__name__
