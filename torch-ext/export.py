"""Write a project that kernel-builder can build for the Hugging Face hub: `python torch-ext/export.py FOLDER`.

A kernel of the hub is loaded from any folder under any name. Its modules therefore import each other by relative
paths, its operators live in a namespace that each build chooses, and it imports nothing but torch and the standard
library. This program copies the operators of edmfast and the helpers that they import, rewrites their imports, and
puts the `build.toml` of this repository beside them.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "edmfast"
LIBRARY = PACKAGE / "_library.py"
_FLAKE = """\
{
  description = "edmfast: operators for energy-based diffusion models";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs = { self, kernel-builder }:
    kernel-builder.lib.genKernelFlakeOutputs { inherit self; path = ./.; };
}
"""
_INIT = '''\
"""Operators for energy-based diffusion models and sequential Monte Carlo, see `ops`."""

from . import ops
from .ops import *  # noqa: F403
from .ops import __all__ as _names

__all__ = ["ops", *_names]
'''


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the project goes; it must not exist")
    folder = parser.parse_args(arguments).folder
    if folder.exists():
        parser.error(f"{folder} exists already")
    export(folder)
    print(f"written: {folder}; build it there with kernel-builder")
    return 0


def export(folder: Path) -> None:
    """Write the project: build.toml, flake.nix, csrc/, and the Python package under torch-ext/edmfast/."""
    extension = folder / "torch-ext"
    package = extension / "edmfast"
    package.mkdir(parents=True)
    for name in ("build.toml", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copy2(ROOT / "torch-ext" / "register.cpp", extension)
    (folder / "flake.nix").write_text(_FLAKE)
    (package / "__init__.py").write_text(_INIT)
    for source in needed():
        target = package / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rewritten(source))
    (package / "_library.py").write_text((ROOT / "torch-ext" / "library.py").read_text())


def needed() -> list[Path]:
    """Return every file of the package that the operators import, themselves included, but for `_library.py`."""
    waiting = [*(PACKAGE / "ops").rglob("*.py"), PACKAGE / "_internal" / "triton.py"]
    found: set[Path] = {LIBRARY}
    while waiting:
        source = waiting.pop()
        if source not in found:
            found.add(source)
            waiting += _imported(source)
    return sorted(found - {LIBRARY})


def _imported(source: Path) -> list[Path]:
    paths = [folder / "__init__.py" for folder in source.relative_to(PACKAGE).parents][:-1]
    files = [PACKAGE / path for path in paths]
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edmfast":
            module = "/".join((node.module or "").split(".")[1:])
            for name in ("", *(alias.name for alias in node.names)):
                stem = PACKAGE / module / name
                files += [stem.with_suffix(".py"), stem / "__init__.py"]
    return [path for path in files if path.is_file() and path != PACKAGE / "__init__.py"]


def rewritten(source: Path) -> str:
    """Return a module's text with relative imports, and with its operators in the namespace of the build."""
    dots = "." * len(source.relative_to(PACKAGE).parts)
    text = source.read_text()
    text = re.sub(r"^(\s*)from edmfast\.", rf"\1from {dots}", text, flags=re.MULTILINE)
    text = re.sub(r"^(\s*)from edmfast import", rf"\1from {dots} import", text, flags=re.MULTILINE)
    return text.replace("torch.ops.edmfast.", "_extension.OPERATORS.")


if __name__ == "__main__":
    sys.exit(main())
