"""Extractors of features: functions from samples [B, *shape] to features [B, F].

| given as                | what it is                                                                        |
|-------------------------|-----------------------------------------------------------------------------------|
| a function or module    | called as features(x [B, *shape], float32) -> [B, F]                              |
| "digits"                | the built-in classifier of 8x8 digits, see `edmfast.evaluation.digit_features`     |
| "samples"               | the samples themselves, flattened                                                   |
| a path to .safetensors  | weights of a registered network, or of one that the caller builds                  |
| a path to another file  | a TorchScript file, read by torch.jit.load                                          |

A TorchScript file is a program. Reading it and calling it runs what is in it, so load only files that you made or
trust. A safetensors file holds numbers only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.evaluation.digit_features import load_digit_features
from edmfast.evaluation.networks import read_features

Features = Callable[[Tensor], Tensor]
"""A function from samples [B, *shape] to features [B, F]."""

DIGITS, SAMPLES = "digits", "samples"
_DIGIT_SHAPE = (1, 8, 8)
_MOST_NUMBERS = 256
"""The largest samples that serve as their own features by default."""


def load_features(
    source: str | os.PathLike[str] | Features,
    *,
    network: nn.Module | Callable[[], nn.Module] | None = None,
    device: torch.device | str = "cpu",
    as_bytes: bool = False,
) -> Features:
    """Return a function from samples [B, *shape] to features [B, F].

    A TorchScript file runs code: load only files that you made or trust. Where its forward has an argument
    `return_features`, as the published Inception files have, it is passed as True.

    Args:
        source: a function or module, "digits", "samples", a safetensors file of weights, or a TorchScript file.
        network: for a safetensors file that `save_features` did not write, the network of its weights, or a
            function without arguments that builds it.
        device: the device on which a network from a file works.
        as_bytes: pass images in [-1, 1] as bytes from 0 to 255, uint8, as many Inception files expect them.

    Raises:
        FileNotFoundError: no file at source.
        ValueError: a file that holds no network, or weights that do not fit it.
        TypeError: a source of another kind.
    """
    found = _found(source, network, torch.device(device))
    if not as_bytes:
        return found
    return lambda x: found(((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


def default_features(shape: tuple[int, ...]) -> Features | None:
    """Return the extractor for samples of a shape where the caller names none.

    It is the classifier of digits for [1, 8, 8], the samples themselves where they have at most 256 numbers, and
    None for larger ones.
    """
    if shape == _DIGIT_SHAPE:
        return load_digit_features()
    return _flat if torch.Size(shape).numel() <= _MOST_NUMBERS else None


@torch.no_grad()
def extract(features: Features, x: Tensor) -> Tensor:
    """Return the features of samples x [B, *shape], which are passed in float32, as a tensor [B, F] on the CPU.

    Raises TypeError where the function returns no floating tensor, and ValueError for another shape or for
    numbers that are not finite.
    """
    returned = features(x.float())
    if not isinstance(returned, Tensor) or not returned.is_floating_point():
        kind = returned.dtype if isinstance(returned, Tensor) else type(returned).__name__
        raise TypeError(f"features must return a floating tensor [B, F], got {kind}")
    if returned.dim() < 2 or len(returned) != len(x) or returned[:1].numel() != returned.shape[1]:
        raise ValueError(f"features must return [B, F] with B = {len(x)}, got {[*returned.shape]}")
    rows = returned.detach().flatten(1).cpu()
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if not bool(rows.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity among them")
    return rows


def _found(source: Any, network: Any, device: torch.device) -> Features:
    if isinstance(source, (str, os.PathLike)):
        if source == DIGITS:
            return load_digit_features().to(device)
        if source == SAMPLES:
            return _flat
        path = Path(os.fspath(source))
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}: features are {DIGITS!r}, {SAMPLES!r}, or a file"
            )
        if path.suffix == ".safetensors":
            return read_features(path, network).to(device)
        return _scripted(path, device)
    if not callable(source):
        raise TypeError(
            f"features must be a function, a name or a path, given {type(source).__name__}"
        )
    if isinstance(source, nn.Module):
        return source.eval()
    found: Features = source
    return found


def _scripted(path: Path, device: torch.device) -> Features:
    """Return the function of a TorchScript file."""
    with warnings.catch_warnings():
        # torch announces the end of TorchScript, in which published files are written all the same
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script: Any = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} is no TorchScript file: {str(error).splitlines()[0]}"
            ) from error
    script.eval()
    arguments = {argument.name for argument in script.forward.schema.arguments}
    if "return_features" in arguments:
        return lambda x: script(x, return_features=True)
    found: Features = script
    return found


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)
