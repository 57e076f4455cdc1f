"""Run a few programs of a kernel on tensors that have no memory, and check the addresses that they use.

Triton's interpreter computes addresses as a GPU does, with 32 bits where the kernel has 32 bits. Here tensors are
on the meta device, so they may have more than 2^31 numbers. Every tensor gets a range of addresses of its own. A
load returns a constant, and both loads and stores are checked to stay inside of their tensor.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

_BITS = 44
"""The logarithm of the distance of two tensors in memory."""
_MANY = 100_000
"""A grid with more programs runs the first, a middle and the last two of them."""


class _Place:
    """A tensor without memory, as the interpreter takes it: an address and a dtype."""

    def __init__(self, name: str, address: int, tensor: torch.Tensor) -> None:
        self.name, self.address, self.dtype = name, address, tensor.dtype
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        last = sum((size - 1) * stride for size, stride in pairs)
        self.bytes = (last + 1 if tensor.numel() else 0) * tensor.itemsize
        self.reached = 0

    def data_ptr(self) -> int:
        return self.address


class Memory:
    """The tensors of all launches, with the addresses that kernels have used.

    values: what loads of a tensor return, by the name of the argument; 0 by default.
    """

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values
        self.places: list[_Place] = []
        self.faults: list[str] = []

    def placed(self, name: str, value: Any) -> Any:
        """Return an argument with places instead of tensors."""
        if isinstance(value, tuple):
            return tuple(self.placed(name, part) for part in value)
        if not isinstance(value, torch.Tensor):
            return value
        self.places.append(_Place(name, (len(self.places) + 1) << _BITS, value))
        return self.places[-1]

    def use(self, addresses: Any, mask: Any, size: int, what: str) -> float:
        """Check the addresses where the mask is set, and return the value of their tensor."""
        mask = np.broadcast_to(mask, addresses.shape)
        used = addresses[mask]
        if not used.size:
            return 0
        lowest, highest = int(used.min()), int(used.max())
        index = (lowest >> _BITS) - 1
        place = self.places[index] if 0 <= index < len(self.places) else None
        if place is None or highest + size > place.address + place.bytes:
            where = "no tensor" if place is None else f"{place.name} [{place.bytes} bytes]"
            start = place.address if place else 0
            self.faults.append(f"{what} of {where} at {lowest - start} to {highest - start}")
            return 0
        place.reached = max(place.reached, highest + size - place.address)
        return self.values.get(place.name, 0)

    def reached(self) -> dict[str, float]:
        """Return which part of each tensor lies before the last byte used, by the name of the argument."""
        parts: dict[str, float] = {}
        for place in self.places:
            if place.bytes:
                share = place.reached / place.bytes
                parts[place.name] = max(parts.get(place.name, 0.0), share)
        return parts


@contextlib.contextmanager
def sparse_memory(**values: float) -> Iterator[Memory]:
    """Give the memory of all launches in this context; the process must have TRITON_INTERPRET=1."""
    from triton.runtime import interpreter

    memory = Memory(values)
    handle, numpy_type = interpreter.TensorHandle, interpreter._get_np_dtype

    def placed(executor: Any, arguments: Any, options: dict[str, Any]) -> Any:
        pairs = zip(executor.arg_names, arguments, strict=False)
        named = {name: memory.placed(name, value) for name, value in options.items()}
        return [memory.placed(name, value) for name, value in pairs], named

    def load(builder: Any, pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        kind = pointers.get_element_ty()
        dtype = numpy_type(kind)
        size = max(1, kind.primitive_bitwidth // 8)
        value = memory.use(pointers.data, mask.data, size, "load")
        inside = np.broadcast_to(mask.data, pointers.data.shape)
        outside = np.zeros((), dtype) if other is None else other.data
        return handle(np.where(inside, np.array(value).astype(dtype), outside), kind)

    def store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> None:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        memory.use(pointers.data, mask.data, size, "store")

    def atomic(builder: Any, _: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        store(builder, pointers, value, mask)
        return handle(np.zeros_like(value.data), value.dtype)

    def few(*bounds: int) -> Any:
        if len(bounds) == 1 and bounds[0] > _MANY:
            # some kernels take the blocks of a row in reverse, so the end of memory is not the last program's
            return [0, bounds[0] // 2, bounds[0] - 2, bounds[0] - 1]
        return builtins.range(*bounds)

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(interpreter.GridExecutor, "_init_args_hst", placed)
        patch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)
        patch.setattr(interpreter.InterpreterBuilder, "create_masked_load", load)
        patch.setattr(interpreter.InterpreterBuilder, "create_masked_store", store)
        patch.setattr(interpreter.InterpreterBuilder, "create_atomic_rmw", atomic)
        patch.setattr(interpreter, "range", few, raising=False)
        yield memory
