"""The file of a checkpoint: the state of a run and the description of the run, as safetensors.

A resumed run repeats the bits of an uninterrupted one.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.file_kinds import RUN_CHECKPOINT
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.json_text import shortened
from edmfast._internal.tensor_checks import FLOATS, TensorSpec, check_tensors
from edmfast.smc.checkpoint.probes import check_probes
from edmfast.smc.state import PARTICLES, TRACES, State, state_of, tensors_of

_DOUBLE, _INDEX = (torch.float64,), (torch.int32,)
_SPECS = {
    "x": TensorSpec(FLOATS, "PN*"),
    "energy": TensorSpec(FLOATS, "PN"),
    "score": TensorSpec(FLOATS, "*"),
    "kernel": TensorSpec(FLOATS, "*", optional=True),
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
    "weights.survivors": TensorSpec((torch.int64,), "P", 0),
    "ess": TensorSpec(_DOUBLE, "TP"),
    "resampled": TensorSpec((torch.bool,), "TP"),
    "log_weight_sd": TensorSpec(_DOUBLE, "TP"),
    "survivors": TensorSpec((torch.int64,), "TP", 0),
    "acceptance": TensorSpec(_DOUBLE, "TCP"),
    "ancestors": TensorSpec(_INDEX, "TPN", 0, "N"),
}
"""The dtype, shape and range of every tensor in a file."""
_ADDED = "weights.survivors"


def save_state(path: str | os.PathLike[str], state: State, run: dict[str, Any]) -> None:
    """Write a state and the description of its run, whole or not at all."""
    metadata = {"kind": "smc", "index": state.index, "run": run}
    write_tensors(path, tensors_of(state), metadata, kind=RUN_CHECKPOINT, overwrite=True)


def load_state(path: str | os.PathLike[str], run: dict[str, Any], device: torch.device) -> State:
    """Read a state for the run with this description, onto a device.

    Raises ValueError for a corrupt file, and for one of another run or model; it says what differs.
    """
    tensors, metadata = read_tensors(path)
    names = {*PARTICLES, *TRACES}
    saved = metadata.get("run")
    # Only runs that record a genealogy hold ancestors, and files of earlier versions lack a count.
    held = set(tensors) - {"ancestors"} | {_ADDED}
    if metadata.get("kind") != "smc" or held != names:
        raise ValueError(f"{path} is not a checkpoint of smc.sample")
    if not isinstance(saved, dict):
        raise ValueError(f"{path} is corrupt: it does not say of what run it is")
    compared = [name for name in run if name not in ("probes", "tolerance")]
    differing = [name for name in compared if saved.get(name) != run[name]]
    if differing:
        differences = "; ".join(_difference(name, saved.get(name), run[name]) for name in differing)
        raise ValueError(f"{path} is a checkpoint of another run or model ({differences})")
    # probes come last of the description: they have a tolerance, and mean something only if all else agrees
    if "probes" in saved and "probes" in run:
        check_probes(path, saved["probes"], run["probes"], run["tolerance"])
    index = _index(path, metadata.get("index"), run)
    _check_tensors(path, tensors, run)
    # the trace has the same count
    tensors.setdefault(_ADDED, tensors["survivors"][index])
    return state_of(index, {name: tensor.to(device) for name, tensor in tensors.items()})


def _difference(name: str, saved: Any, now: Any) -> str:
    """Return in words how an entry of the description of a run differs from the saved one."""
    # fingerprints say nothing to a reader, and two lists of levels may differ in one number only
    if name == "target":
        return "the target is another one or has changed"
    if name == "sigmas" and isinstance(saved, list):
        if len(saved) != len(now):
            return f"sigmas: saved {len(saved)} levels, now {len(now)}"
        pairs = enumerate(zip(saved, now, strict=True))
        i, (saved, now) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        name = f"sigmas[{i}]"
    return f"{name}: saved {shortened(saved)}, now {shortened(now)}"


def _index(path: Any, index: Any, run: dict[str, Any]) -> int:
    """Return the step that a checkpoint is at. Raises ValueError for one that the run does not have."""
    steps = sum(sigma > 0 for sigma in run["sigmas"]) - 1
    # True is an int in Python.
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= steps:
        raise ValueError(f"{path} is corrupt: at step {shortened(index)} of {steps}")
    return index


def _check_tensors(path: Any, tensors: dict[str, Tensor], run: dict[str, Any]) -> None:
    """Raise ValueError where a tensor has another dtype or shape than in such a run, or an index out of range."""
    levels = sum(sigma > 0 for sigma in run["sigmas"])
    sizes = {"T": levels, "P": run["populations"], "N": run["particles"]}
    check_tensors(path, tensors, _SPECS, sizes)
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
