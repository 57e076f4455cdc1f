"""Raise an error where the host would wait for the device, or for a copy to it from ordinary memory.

On a GPU torch reports such waits (`torch.cuda.set_sync_debug_mode`). On the CPU they are recognised by the names
of the operators that would wait on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAIT = {
    "aten::_local_scalar_dense",  # item(), float() and bool() call it
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::lift_fresh",  # torch.tensor of numbers copies from the host
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}


class _Names(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            masks = [t for t in args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{name} by a mask waits for its size"
        assert name not in _WAIT, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class NoWaiting:
    """A context in which waiting raises; `start` and `stop` serve code that has no block."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.names: _Names | None = None
        self.before = 0

    def start(self) -> None:
        if self.device == "cuda":
            self.before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
        elif self.names is None:
            self.names = _Names()
            self.names.__enter__()

    def stop(self) -> None:
        if self.device == "cuda":
            torch.cuda.set_sync_debug_mode(self.before)
        elif self.names is not None:
            self.names.__exit__(None, None, None)
            self.names = None

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
