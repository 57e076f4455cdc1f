"""Modules of the installed k-diffusion, for tests that compare with it side by side."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
from torch import Tensor

REASON = "k-diffusion is not installed"


def k_diffusion(name: str) -> ModuleType:
    """Return the module k_diffusion.<name>, `sampling` or `external`, or skip where it is not installed.

    The package imports what training needs, such as torchvision and clip. Its samplers and wrappers do not, so
    without these they are loaded beside a package and a module `utils` that hold what they use.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip(REASON)
    try:
        return importlib.import_module(f"k_diffusion.{name}")
    except ImportError:
        pass
    for module in [module for module in sys.modules if module.split(".")[0] == "k_diffusion"]:
        del sys.modules[module]
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or [])
    utils = ModuleType("k_diffusion.utils")
    utils.append_dims = append_dims
    package.utils = utils
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    try:
        return importlib.import_module(f"k_diffusion.{name}")
    except ImportError as error:
        pytest.skip(f"k_diffusion.{name} needs {error.name}")
    finally:
        # Other tests import the whole package, or skip without it.
        for module in [module for module in sys.modules if module.split(".")[0] == "k_diffusion"]:
            del sys.modules[module]


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    return x[(...,) + (None,) * (target_dims - x.ndim)]
