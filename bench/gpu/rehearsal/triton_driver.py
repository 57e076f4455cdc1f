"""A driver for Triton without a GPU: kernels are specialised and compiled for an H200, launches do nothing."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from bench.gpu.rehearsal.stand_in import PROPERTIES

FOLDERS = ("attention", "mlp_potential", "norms", "potential")
"""The folders in edmfast/ops whose operators have Triton kernels and no CUDA kernels."""
_LARGEST_GRID = (2**31 - 1, 65_535, 65_535)


class _Utilities:
    """The part of the driver that loads compiled kernels."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": 232_448,
            "max_num_regs": 65_536,
            "multiprocessor_count": PROPERTIES.multi_processor_count,
            "warpSize": 32,
            "sm_clock_rate": 1_980_000,
            "mem_clock_rate": 3_201_000,
            "mem_bus_width": 6144,
        }

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        """Return (module, function, registers, spills, threads of a block at most)."""
        return 0, 1, 32, 0, 1024


class _Launcher:
    """A launch, which checks its grid."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = getattr(metadata, "name", "a kernel")
        self.launch_cooperative_grid = False

    def __call__(self, *arguments: Any) -> None:
        grid = arguments[:3]
        if not all(0 < size <= most for size, most in zip(grid, _LARGEST_GRID, strict=True)):
            raise ValueError(f"{self.name} cannot be launched with the grid {grid}")


class Driver:
    """The driver of a GPU of compute capability 9.0 that is not there."""

    launcher_cls = _Launcher

    def __init__(self) -> None:
        self.utils = _Utilities()

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        """There is one device."""

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cuda


def _launched(name: str, launch: Callable[..., Any]) -> Callable[..., Any]:
    """Return an implementation that launches Triton's kernels, and answers with the numbers of the CPU's.

    Raises AssertionError where the two answers differ in shape or dtype. Outputs that are empty by one of them are
    left out, since only the CPU keeps activations for a derivative.
    """
    kernel = torch.library.get_kernel(f"edmfast::{name}", "CPU")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def call(*arguments: Any) -> Any:
        empty, answer = tree_leaves(launch(*arguments)), kernel.call_boxed(keys, *arguments)
        for made, wanted in zip(empty, tree_leaves(answer), strict=True):
            if not made.numel():
                continue
            assert made.shape == wanted.shape, f"{name}: {made.shape} instead of {wanted.shape}"
            assert made.dtype == wanted.dtype, f"{name}: {made.dtype} instead of {wanted.dtype}"
        return answer

    return call


def install() -> None:
    """Set the driver. Called after triton has been imported."""
    from triton.runtime import driver

    driver.set_active(Driver())


def launch_on_cpu() -> None:
    """Let Triton's operators answer for tensors on the CPU.

    Called after edmfast has been imported, which registers its operators.
    """
    from edmfast import _extension

    library: Any = torch.library.Library("edmfast", "IMPL")
    _kept.append(library)
    warnings.filterwarnings("ignore", message="Warning only once for all operators")
    live = _extension.kernel_status()["triton"].split(", ")
    for folder in FOLDERS:
        operators = importlib.import_module(f"edmfast.ops.{folder}.triton_ops")
        for name in live:
            if hasattr(operators, name):
                launched = _launched(name, getattr(operators, name))
                library.impl(name, launched, "CPU", allow_override=True)


_kept: list[Any] = []
"""Libraries, whose registrations end with them."""
