"""The keyword conditions of models: the names that a model accepts, and errors that explain the others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.models.calling.origin import is_ours, name_of

_DTYPES = re.compile(
    r"same dtype|expected scalar type|should be the same|mixed dtype", re.IGNORECASE
)
_SIZES = re.compile(r"must match the size of tensor")


def accepted_conditions(model: Any) -> set[str] | None:
    """Return the names of a model's keyword conditions, or None where it takes any name or does not say."""
    declared = getattr(model, "accepted_conditions", None)
    if callable(declared):
        names: set[str] | None = declared()
        return names
    # our wrappers pass conditions on, so what counts is what the models inside accept
    if is_ours(model):
        backbone = getattr(model, "backbone", None)
        if backbone is not None:
            return accepted_conditions(backbone)
        members = getattr(model, "models", None) or [getattr(model, "model", None)]
        if members[0] is not None:
            return _common(members)
    return _parameters(model)


def has_no_classes(model: Any) -> bool:
    """Return whether a model is known to take no class labels, because it was built without classes."""
    accepted = accepted_conditions(model)
    if accepted is not None and not accepted:
        return True
    backbone = getattr(model, "backbone", model)
    # a network of somebody else may use this name for anything
    return is_ours(backbone) and getattr(backbone, "num_classes", 1) in (None, 0)


def check_accepted(model: Any, names: Iterable[str], what: str | None = None) -> None:
    """Raise TypeError where a model is known not to accept a condition.

    what: the name of the model in the error; the name of its class by default.
    """
    accepted = accepted_conditions(model)
    unknown = [] if accepted is None else sorted(set(names) - accepted)
    if accepted is None or not unknown:
        return
    if not accepted:
        raise TypeError(
            f"{what or name_of(model)} accepts no conditions, given {', '.join(unknown)}"
        )
    known = sorted(accepted)
    # which of several names is meant, only the caller knows
    hint = repr(known[0]) if len(known) == 1 else "NAME"
    raise TypeError(
        f"{what or name_of(model)} accepts the conditions {', '.join(known)}, given {', '.join(unknown)}: if "
        f"one of them is its name for it, wrap the model as edmfast.targets.Renamed(model, {unknown[0]}={hint})"
    )


def explained(error: Exception, model: Any, x: Tensor, condition: dict[str, Any]) -> Exception:
    """Return a clearer error for the failed call of a model, or the error itself.

    The clearer error names the model and says what it accepts.
    """
    message = str(error)
    if isinstance(error, TypeError) and "unexpected keyword argument" in message:
        try:
            check_accepted(model, condition)
        except TypeError as better:
            return better
    # torch's message names no model, and its advice would not lead to the states
    if isinstance(error, RuntimeError) and _DTYPES.search(message):
        others = _dtypes(model) - {x.dtype}
        if others:
            kinds = ", ".join(sorted(map(str, others)))
            return TypeError(
                f"{name_of(model)} has numbers of {kinds} and was given states of {x.dtype}: pass states of its "
                "dtype (to smc.sample by options=smc.RunOptions(dtype=...)), or convert the model by "
                f"model.to({x.dtype}) ({message})"
            )
    if isinstance(error, RuntimeError) and _SIZES.search(message):
        return RuntimeError(
            f"{name_of(model)} failed: {message}. It receives the noise levels as a tensor [B], one per row of x: "
            f"reshape them with sigma.view(-1{', 1' * (x.dim() - 1)}) before combining them with x"
        )
    return error


def _common(members: Iterable[Any]) -> set[str] | None:
    # a wrapper passes a condition to all its models, so only common names work
    known = [names for names in map(accepted_conditions, members) if names is not None]
    return set.intersection(*known) if known else None


def _parameters(model: Any) -> set[str] | None:
    """Return the parameter names after the first two in the signature of the method that is called."""
    call = model
    if isinstance(model, nn.Module):
        call = model.forward
    elif hasattr(model, "energy_and_score"):
        call = model.energy_and_score
    try:
        parameters = [*inspect.signature(call).parameters.values()]
    except (TypeError, ValueError):
        return None
    # a catch-all parameter accepts any name, and an unreadable signature tells nothing
    free = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    if any(parameter.kind in free for parameter in parameters):
        return None
    # the first two parameters are the states and the noise level
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters[2:] if parameter.kind in named}


def _dtypes(model: Any) -> set[torch.dtype]:
    # a buffer of another dtype fails in the same way as a parameter
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
