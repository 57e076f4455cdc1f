"""Find out whether Triton kernels can run, without importing Triton."""

from __future__ import annotations

import importlib.util
import os
import shutil


def why_no_triton() -> str:
    """Return why Triton cannot run here, or an empty string if it can."""
    # Importing Triton takes time that a run without it need not spend.
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    # Triton builds its launchers when it first runs
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton finds no C compiler (gcc, clang, or the one CC names)"
    return ""
