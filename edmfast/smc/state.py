"""State of a run between two steps, and its checkpoint: a resumed run repeats the same bits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.file_kinds import RUN_CHECKPOINT
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.json_text import shortened
from edmfast._internal.tensor_checks import FLOATS, TensorSpec, check_tensors
from edmfast.ops import Weights
from edmfast.smc.checkpoint.probes import check_probes
from edmfast.smc.populations.particle_state import ParticleState


@dataclass
class State:
    """At noise level `index` of the schedule; traces [T, P], acceptance [T, C, P], and ancestors [T, P, N] where
    they are recorded, as in Particles."""

    index: int
    particles: ParticleState
    ess: Tensor
    resampled: Tensor
    log_weight_sd: Tensor
    survivors: Tensor
    acceptance: Tensor
    ancestors: Tensor | None = None


_TRACES = ("ess", "resampled", "log_weight_sd", "survivors", "acceptance")
_PARTICLES = (*ParticleState._fields[:-1], *(f"weights.{name}" for name in Weights._fields))

_DOUBLE, _INDEX = (torch.float64,), (torch.int32,)
_HELD = {
    "x": TensorSpec(FLOATS, "PN*"),
    "energy": TensorSpec(FLOATS, "PN"),
    "score": TensorSpec(FLOATS, "*"),
    "curvature": TensorSpec(FLOATS, "PN", optional=True),
    "memory": TensorSpec(_DOUBLE, "PNK"),
    "tuning": TensorSpec(_DOUBLE, "2CP"),
    "parents": TensorSpec(_INDEX, "PN", 0, "N", optional=True),
    "weights.log_weights": TensorSpec(_DOUBLE, "PN"),
    "weights.log_z": TensorSpec(_DOUBLE, "P"),
    "weights.ancestors": TensorSpec(_INDEX, "PN", 0, "N"),
    "weights.root": TensorSpec(_INDEX, "PN", 0, "N"),
    "weights.ess": TensorSpec(_DOUBLE, "P"),
    "weights.log_mean": TensorSpec(_DOUBLE, "P"),
    "weights.resampled": TensorSpec((torch.bool,), "P"),
    "weights.degenerate": TensorSpec(_INDEX, "P", 0, 15),
    "weights.increment_sd": TensorSpec(_DOUBLE, "P"),
    "ess": TensorSpec(_DOUBLE, "TP"),
    "resampled": TensorSpec((torch.bool,), "TP"),
    "log_weight_sd": TensorSpec(_DOUBLE, "TP"),
    "survivors": TensorSpec((torch.int64,), "TP", 0),
    "acceptance": TensorSpec(_DOUBLE, "TCP"),
    "ancestors": TensorSpec(_INDEX, "TPN", 0, "N"),
}
"""The checks by `load_state` of the tensors of a file."""


def tensors_of(state: State) -> dict[str, Tensor]:
    """Its tensors by name, as a checkpoint holds them."""
    tensors = dict(zip(_PARTICLES, state.particles.tensors(), strict=True))
    tensors |= {name: getattr(state, name) for name in _TRACES}
    if state.ancestors is not None:
        tensors["ancestors"] = state.ancestors
    return tensors


def state_of(index: int, tensors: dict[str, Tensor]) -> State:
    """What `tensors_of` took apart."""
    particles = ParticleState.from_tensors([tensors[name] for name in _PARTICLES])
    traces = {name: tensors[name] for name in _TRACES}
    return State(index, particles, **traces, ancestors=tensors.get("ancestors"))


def save_state(path: str | os.PathLike[str], state: State, run: dict[str, Any]) -> None:
    """Write the state and the description of the run it belongs to."""
    metadata = {"kind": "smc", "index": state.index, "run": run}
    write_tensors(path, tensors_of(state), metadata, kind=RUN_CHECKPOINT, overwrite=True)


def load_state(path: str | os.PathLike[str], run: dict[str, Any], device: torch.device) -> State:
    """Read a state. ValueError for a corrupt file, or one of another run or model, naming what differs."""
    tensors, metadata = read_tensors(path)
    names = {*_PARTICLES, *_TRACES}
    saved = metadata.get("run")
    if metadata.get("kind") != "smc" or set(tensors) - {"ancestors"} != names:
        raise ValueError(f"{path} is not a checkpoint of smc.sample")
    if not isinstance(saved, dict):
        raise ValueError(f"{path} is corrupt: it does not say of what run it is")
    compared = [name for name in run if name not in ("probes", "tolerance")]
    differing = [name for name in compared if saved.get(name) != run[name]]
    if differing:
        told = "; ".join(
            f"{name}: saved {shortened(saved.get(name))}, now {shortened(run[name])}"
            for name in differing
        )
        raise ValueError(f"{path} is a checkpoint of another run or model ({told})")
    if "probes" in saved and "probes" in run:
        check_probes(path, saved["probes"], run["probes"], run["tolerance"])
    index = _index(path, metadata.get("index"), run)
    _check_held(path, tensors, run)
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    return state_of(index, moved)


def _index(path: Any, index: Any, run: dict[str, Any]) -> int:
    """Return the step that a checkpoint is at. ValueError for one that the run has not."""
    steps = sum(sigma > 0 for sigma in run["sigmas"]) - 1
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= steps:
        raise ValueError(f"{path} is corrupt: at step {shortened(index)} of {steps}")
    return index


def _check_held(path: Any, tensors: dict[str, Tensor], run: dict[str, Any]) -> None:
    """ValueError where a tensor has another dtype or shape than a run like this has, or points out of range."""
    levels = sum(sigma > 0 for sigma in run["sigmas"])
    sizes = {"T": levels, "P": run["populations"], "N": run["particles"]}
    check_tensors(path, tensors, _HELD, sizes)
    x, score = tensors["x"], tensors["score"]
    if [*x.shape[2:]] != run["shape"] or str(x.dtype) != run["dtype"]:
        raise ValueError(
            f"{path} is corrupt: x is {x.dtype} {[*x.shape]}, not {run['dtype']} of samples {run['shape']}"
        )
    if score.shape != x.shape and score.shape[1:] != x.shape:
        raise ValueError(f"{path} is corrupt: score is {[*score.shape]} for x {[*x.shape]}")
    if ("ancestors" in tensors) != run["genealogy"]:
        raise ValueError(f"{path} is corrupt: the ancestors are not held as genealogy says")
    if tensors["tuning"].shape[1] != tensors["acceptance"].shape[1]:
        raise ValueError(f"{path} is corrupt: tuning and acceptance are of other correctors")
