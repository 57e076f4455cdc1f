"""The helpers of k-diffusion's `utils` that samplers, wrappers of models and their training need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_float, as_int

__all__ = ["append_dims", "append_zero", "ema_update", "eval_mode", "n_params", "train_mode"]


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    """Return a view of x with axes of size 1 at its end, so that it has target_dims axes.

    Raises ValueError where x has more axes than that.
    """
    missing = as_int("target_dims", target_dims) - x.ndim
    if missing < 0:
        raise ValueError(f"target_dims must be at least the {x.ndim} axes of x, got {target_dims}")
    return x[(..., *[None] * missing)]


def append_zero(x: Tensor) -> Tensor:
    """Return x [T] with a 0 at its end, [T + 1]."""
    return torch.cat([x, x.new_zeros(1)])


def n_params(module: nn.Module) -> int:
    """Return the number of elements of all parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def train_mode(model: nn.Module, mode: bool = True) -> Iterator[nn.Module]:
    """Set the training mode of a model for a `with` block, and afterwards that of each module as it was."""
    before = {module: module.training for module in model.modules()}
    try:
        yield model.train(mode)
    finally:
        for module, training in before.items():
            module.training = training


def eval_mode(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """Set the evaluation mode of a model for a `with` block, and afterwards that of each module as it was."""
    return train_mode(model, False)


@torch.no_grad()
def ema_update(model: nn.Module, averaged_model: nn.Module, decay: float) -> None:
    """Move the parameters of averaged_model towards those of model: average = decay average + (1 - decay) new.

    Buffers are copied. Call it after each step of the optimiser. Raises ValueError where the two models have
    parameters or buffers of other names, or for a decay outside 0 to 1.
    """
    decay = as_float("decay", decay, least=0, most=1)
    for kind in ("parameters", "buffers"):
        new = dict(getattr(model, f"named_{kind}")())
        averages = dict(getattr(averaged_model, f"named_{kind}")())
        if new.keys() != averages.keys():
            different = ", ".join(sorted(new.keys() ^ averages.keys()))
            raise ValueError(f"model and averaged_model must have the same {kind}, got {different}")
        for name, average in averages.items():
            if kind == "buffers":
                average.copy_(new[name])
            else:
                average.lerp_(new[name].to(average.dtype), 1 - decay)
