"""State of a run between two steps, and its checkpoint: a resumed run repeats the same bits."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.models.files import read_tensors, write_tensors
from edmfast.ops import Weights
from edmfast.smc.step import Moving


@dataclass
class State:
    """At noise level `index` of the schedule; traces ess, resampled, log_weight_sd [T, P] as in Particles."""

    index: int
    moving: Moving
    ess: Tensor
    resampled: Tensor
    log_weight_sd: Tensor


_TRACES = ("ess", "resampled", "log_weight_sd")
_MOVING = (*Moving._fields[:4], *(f"weights.{name}" for name in Weights._fields))


def save_state(path: str | os.PathLike[str], state: State, run: dict[str, Any]) -> None:
    """Write the state and the description of the run it belongs to."""
    tensors = dict(zip(_MOVING, state.moving.flat(), strict=True))
    tensors |= {name: getattr(state, name) for name in _TRACES}
    write_tensors(path, tensors, {"kind": "smc", "index": state.index, "run": run})


def load_state(path: str | os.PathLike[str], run: dict[str, Any], device: torch.device) -> State:
    """Read a state. ValueError for a corrupt file, or one of another run or model, naming what differs."""
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != "smc" or set(tensors) != {*_MOVING, *_TRACES}:
        raise ValueError(f"{path} is not a checkpoint of smc.sample")
    saved = metadata.get("run", {})
    differing = [name for name in run if saved.get(name) != run[name]]
    if differing:
        told = "; ".join(f"{name}: saved {saved.get(name)}, now {run[name]}" for name in differing)
        raise ValueError(f"{path} is a checkpoint of another run or model ({told})")
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    moving = Moving.of([moved[name] for name in _MOVING])
    return State(int(metadata["index"]), moving, *(moved[name] for name in _TRACES))


def fingerprint(target: Any) -> str:
    """Tells targets apart: classes, exponents, bound conditions and every parameter and buffer."""
    digest = hashlib.sha256(f"{type(target).__name__} {float(target.exponent)}".encode())
    digest.update(repr(getattr(target, "exponents", "")).encode())
    if isinstance(target, nn.Module):
        tensors = dict(target.state_dict())
        for name, module in target.named_modules():
            digest.update(f"{name} {type(module).__name__}".encode())
            for key, value in getattr(module, "condition", {}).items():
                tensors[f"{name}.condition.{key}"] = torch.as_tensor(value)
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
