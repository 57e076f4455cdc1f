"""Modules of the installed k-diffusion, with or without what the training of its models needs.

The package imports what training needs, such as torchvision and clip. Its samplers and wrappers do not, so without
these they are loaded beside a package and a module `utils` that hold what they use.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

from torch import Tensor


@functools.cache
def k_diffusion(name: str) -> ModuleType | None:
    """Return the module k_diffusion.<name>, "sampling" or "external", or None where the project is absent.

    Raises:
        ImportError: the module itself needs a package that is absent.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        return None
    with warnings.catch_warnings():
        # packages that it imports warn of their own age
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(f"k_diffusion.{name}")
        except ImportError:
            return _alone(name, [*(spec.submodule_search_locations or [])])


def _alone(name: str, folders: list[str]) -> ModuleType:
    """Return the module of a package without the imports of the package."""
    _forget()
    package = ModuleType("k_diffusion")
    package.__path__ = folders
    utils = ModuleType("k_diffusion.utils")
    vars(utils)["append_dims"] = append_dims
    vars(package)["utils"] = utils
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    try:
        return importlib.import_module(f"k_diffusion.{name}")
    finally:
        # others import the whole package, or leave it out
        _forget()


def _forget() -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == "k_diffusion"]:
        del sys.modules[module]


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    """Return x with axes of size 1 behind its own, target_dims in all."""
    return x[(...,) + (None,) * (target_dims - x.ndim)]
