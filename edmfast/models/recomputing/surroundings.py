"""The circumstances of a call that its recomputation must repeat: precision, redirected functions, random numbers.

A derivative may be taken long after the call and in another thread, where none of them holds any more.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.redirect import current, redirected
from edmfast.models.patching.dropout import SeededDropout


class Surroundings:
    """The circumstances of the place where it is made. device: the device on which the call computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.autocast = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in dict.fromkeys((device.type, "cpu"))
        ]
        self.functions = current()
        # the masks of a recomputation start where those of the call did
        self.seeded = {
            id(dropout): (dropout, dropout.calls)
            for function in self.functions.values()
            if isinstance(dropout := getattr(function, "__self__", None), SeededDropout)
        }
        # a trace cannot hold the state of torch's generators
        self.random = None if get_proxy_mode() is not None else _random_state(device)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Establish the same circumstances within the block. torch's generators are left as they were before."""
        copies: dict[int, SeededDropout] = {}
        for number, (dropout, calls) in self.seeded.items():
            copies[number] = copy.copy(dropout)
            copies[number].calls = calls
        functions = {}
        for name, function in self.functions.items():
            seeded = copies.get(id(getattr(function, "__self__", None)))
            functions[name] = function if seeded is None else getattr(seeded, name)
        with contextlib.ExitStack() as stack:
            for kind, dtype, enabled in self.autocast:
                # a cast that is kept for later would link this block's graph to others
                cast = torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)
                stack.enter_context(cast)
            if self.random is not None:
                stack.enter_context(_random(self.device, *self.random))
            stack.enter_context(redirected(**functions))
            yield

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Do without the cache of autocast within the block, and leave the rest as it is."""
        cache = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            yield
        finally:
            torch.set_autocast_cache_enabled(cache)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_gpu = device.type == "cuda"
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None


@contextlib.contextmanager
def _random(device: torch.device, cpu: torch.Tensor, gpu: torch.Tensor | None) -> Iterator[Any]:
    devices = [] if gpu is None else [device]
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)
        yield
