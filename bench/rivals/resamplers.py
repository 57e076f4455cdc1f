"""Systematic resampling by other projects, from the same torch inputs on the CPU to ancestors [P, N].

particles, blackjax and cuthbert are used where they are installed. All compute in float64, because their float32
sums misplace offspring. Each draws its own uniform, because none takes it from the caller.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

Resampler = Callable[[Tensor, Tensor], Tensor]


def resamplers() -> dict[str, Resampler]:
    """Return the functions of the installed projects by name."""
    makers = {"particles": _particles, "blackjax": _blackjax, "cuthbertlib": _cuthbert}
    return {name: make() for name, make in makers.items() if find_spec(name)}


def _particles() -> Resampler:
    """Loop over populations in Python, as the function takes one population."""
    module = import_module("particles.resampling")

    def call(log_weights: Tensor, uniform: Tensor) -> Tensor:
        rows = log_weights.double().numpy()
        return torch.from_numpy(
            np.stack([module.systematic(module.Weights(lw=row).W) for row in rows])
        )

    return call


def _blackjax() -> Resampler:
    """Compile the function with the softmax of its normalised weights, over populations."""
    systematic = import_module("blackjax.smc.resampling").systematic
    jax = _jax()
    return _compiled(
        lambda key, logits: systematic(key, jax.nn.softmax(logits), logits.shape[0]), jax
    )


def _cuthbert() -> Resampler:
    """Call the function with log-weights; newer versions also move positions, here one number per particle."""
    resampling = import_module("cuthbertlib.resampling.systematic").resampling
    jax, moves = _jax(), "positions" in signature(resampling).parameters

    def function(key: Any, logits: Any) -> Any:
        if moves:
            return resampling(key, logits, logits, logits.shape[0])[0]
        return resampling(key, logits, logits.shape[0])

    return _compiled(function, jax)


def _jax() -> Any:
    jax = import_module("jax")
    # sums in float32, which is jax's default, misplace offspring
    jax.config.update("jax_enable_x64", True)
    return jax


def _compiled(function: Callable[[Any, Any], Any], jax: Any) -> Resampler:
    """Compile vmap of function(key, float64 log-weights), with another key for every call."""
    many = jax.jit(
        lambda seed, logits: jax.vmap(function)(
            jax.random.split(jax.random.key(seed), logits.shape[0]), logits
        )
    )
    seeds = itertools.count()

    def call(log_weights: Tensor, uniform: Tensor) -> Tensor:
        ancestors = many(next(seeds), log_weights.double().numpy())
        # memory of jax is read-only, and torch warns of such an array
        return torch.from_numpy(np.array(ancestors))

    return call
