"""Modules of the installed k-diffusion, for tests that compare with it side by side."""

from __future__ import annotations

from types import ModuleType

import pytest

from bench.rivals import k_diffusion_parts

REASON = "k-diffusion is not installed"


def k_diffusion(name: str) -> ModuleType:
    """Return the module k_diffusion.<name>, `sampling` or `external`, or skip where it is not installed."""
    try:
        module = k_diffusion_parts.k_diffusion(name)
    except ImportError as error:
        pytest.skip(f"k_diffusion.{name} needs {error.name}")
    if module is None:
        pytest.skip(REASON)
    return module
