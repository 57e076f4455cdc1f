"""Replace the GPU of torch, once torch is imported. Python runs this module at its start."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


class _After(importlib.abc.MetaPathFinder):
    """Call `then` once, after the module `name` has been imported."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        # the finder stays, because some programs only ask where the module is
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        run, then = spec.loader.exec_module, self.then

        def executed(module: ModuleType) -> None:
            run(module)
            then()

        # the loader of one module is replaced on purpose, so that something runs after it
        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _replace_device() -> None:
    from bench.gpu.rehearsal import stand_in

    stand_in.install()


def _replace_driver() -> None:
    from bench.gpu.rehearsal import triton_driver

    triton_driver.install()


def _launch_kernels() -> None:
    from bench.gpu.rehearsal import triton_driver

    triton_driver.launch_on_cpu()


if os.environ.get("EDMFAST_REHEARSED") == "1":
    sys.meta_path.insert(0, _After("torch", _replace_device))
    # torch's own compiler asks Triton for a driver, too
    sys.meta_path.insert(0, _After("triton", _replace_driver))
    if os.environ.get("EDMFAST_REHEARSED_TRITON") == "1":
        sys.meta_path.insert(0, _After("edmfast", _launch_kernels))
