"""A Triton driver that records launches and executes none, so that launch code runs without a GPU.

Triton's front end does all that it does before a launch: it binds the arguments, finds their types and which of
them are specialised, and computes the grid. Only the compilation and the launch are left out. Tensors may be on
the CPU or on the meta device, where they take no memory and so may be larger than any GPU's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

MOST_X, MOST_YZ = 2**31 - 1, 65_535
"""The largest grid that CUDA launches, in its first dimension and in the other two."""


class Launch(NamedTuple):
    """A launch as the driver got it.

    kernel: the name of the kernel, with its module. key: what Triton compiles one binary for: the types and the
    specialisation of the arguments, the constants and the options. arguments: all arguments by their names.
    types: those that Triton gave the arguments; "constexpr" marks constants.
    """

    kernel: str
    key: str
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    types: dict[str, Any]
    options: Any

    @property
    def constants(self) -> dict[str, Any]:
        """Return the arguments that are part of the binary and no tensors: constants, and numbers such as 1."""
        known = (n for n, kind in self.types.items() if kind == "constexpr")
        return {name: self.arguments[name] for name in known}

    def faults(self) -> list[str]:
        """Return what CUDA or Triton would refuse in this launch."""
        x, y, z = self.grid
        found = []
        if min(self.grid) < 1 or x > MOST_X or max(y, z) > MOST_YZ:
            found.append(f"grid {self.grid}")
        warps = self.options.num_warps
        if warps < 1 or warps > 32 or warps & (warps - 1):
            found.append(f"{warps} warps")
        for name, value, kind in self.numbers():
            bits = int(kind[1:]) - 1
            if not -(2**bits) <= value < 2**bits:
                found.append(f"{name} = {value} as {kind}")
        return [f"{self.kernel}: {fault}" for fault in found]

    def numbers(self) -> Iterator[tuple[str, int, str]]:
        """Yield (argument, value, type) of every integer that is no constant, in tuples too."""
        for name, value in self.arguments.items():
            values, kinds = (
                part if isinstance(value, tuple) else (part,) for part in (value, self.types[name])
            )
            for each, kind in zip(values, kinds, strict=True):
                if kind in ("i32", "i64"):
                    yield name, each, kind


class _Zeros(TorchDispatchMode):
    """Fill new tensors with zeros, because host code may use what a kernel would have written as indices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "empty" in func.__name__ and out.device.type == "cpu":
            out.zero_()
        return out


class _Kernel:
    """The place of a compiled kernel: it notes its launches."""

    function = 0
    packed_metadata = ()

    def __init__(
        self, name: str, key: str, signature: dict[str, Any], options: Any, launches: list[Launch]
    ) -> None:
        self.name, self.key, self.signature = name, key, signature
        self.options, self.launches = options, launches

    def launch_metadata(self, *_: Any) -> None:
        return None

    def run(self, x: int, y: int, z: int, *rest: Any) -> None:
        # after the stream, the function, two metadata and two hooks come the arguments
        values = rest[6:]
        arguments = dict(zip(self.signature, values, strict=True))
        grid = (x, y, z)
        self.launches.append(
            Launch(self.name, self.key, grid, arguments, self.signature, self.options)
        )


class _Driver:
    """The part of Triton's driver that its front end asks before a launch."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> _Driver:
        # kernels keep binaries by device, so those of a mock driver never meet a real one's
        return self

    def get_current_stream(self, device: object) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def recorded(capability: int = 90) -> Iterator[list[Launch]]:
    """Let Triton launch nothing in this context, and give the list that launches are added to."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    mock, kernels = _Driver(capability), []

    def not_compiled(
        kernel: Any,
        key: str,
        signature: dict[str, Any],
        device: Any,
        constants: object,
        options: Any,
        attributes: object,
        warmup: bool,
    ) -> _Kernel:
        name = f"{kernel.fn.__module__}.{kernel.fn.__qualname__}".removeprefix("edmfast.ops.")
        stand_in = _Kernel(name, key, signature, options, launches)
        kernel.device_caches[device][0][key] = stand_in
        kernels.append(kernel)
        return stand_in

    with pytest.MonkeyPatch.context() as patch, _Zeros():
        patch.setattr(driver, "_active", mock)
        patch.setattr(JITFunction, "_do_compile", not_compiled)
        try:
            yield launches
        finally:
            for kernel in kernels:
                kernel.device_caches.pop(mock, None)
