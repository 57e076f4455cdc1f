"""Build both libraries for one architecture: `python -m bench.gpu.build 9.0 [--in-place] [--reuse]`.

A stamp in build/ holds a digest of everything that the libraries are made from. With --reuse nothing is built
where the stamp fits and the libraries are there, so that a second act of `bench.gpu.check` starts at once. Exit
status: 0 where both libraries are there, 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("_C.*so", "_cuda*.so")
_TEXT = {".cpp", ".cu", ".h"}


def stamp(root: Path) -> Path:
    """Return the path of the stamp of a build."""
    return root / "build" / "gpu-build.txt"


def digest(root: Path, architecture: str) -> str:
    """Return a digest of the sources, torch's version, Python's and the architecture."""
    total = hashlib.sha256()
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "absent"
    total.update(f"{architecture} {torch} {sys.version}".encode())
    sources = [path for path in (root / "csrc").rglob("*") if path.suffix in _TEXT]
    for path in [root / "setup.py", *sorted(sources)]:
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def is_built(root: Path, architecture: str) -> bool:
    """Return whether the libraries of exactly these sources are there."""
    path = stamp(root)
    present = all(any((root / "edmfast").glob(pattern)) for pattern in LIBRARIES)
    return present and path.exists() and path.read_text() == digest(root, architecture)


def build(root: Path, architecture: str, in_place: bool, cuda: bool) -> int:
    """Run pip, and where it fails, or is not wanted, the build alone. Return the exit status.

    cuda: whether the absence of nvcc is an error.
    """
    environment = {
        **os.environ,
        "EDMFAST_SKIP_CUDA": "0",
        "EDMFAST_FORCE_CUDA": str(int(cuda)),
        "TORCH_CUDA_ARCH_LIST": architecture,
    }
    stamp(root).unlink(missing_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check", "--no-build-isolation", "--no-deps", "-e", "."]
    plain = [sys.executable, "setup.py", "build_ext", "--inplace"]
    code = 1
    for command in (plain,) if in_place else (pip, plain):
        start = time.monotonic()
        print("$", *command, flush=True)
        code = subprocess.run(command, cwd=root, env=environment).returncode
        print(f"exit status {code} after {time.monotonic() - start:.1f} s", flush=True)
        if not code:
            break
    missing = [p for p in LIBRARIES if not any((root / "edmfast").glob(p))]
    if missing and cuda and not code:
        print(f"the build has made no {' and no '.join(missing)}")
        code = 1
    if not code and not missing:
        stamp(root).parent.mkdir(exist_ok=True)
        stamp(root).write_text(digest(root, architecture))
    return code


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.build", description=__doc__)
    parser.add_argument("architecture", help="the compute capability, such as 9.0")
    parser.add_argument("--in-place", action="store_true", help="build without pip")
    parser.add_argument("--reuse", action="store_true", help="keep a build of the same sources")
    parser.add_argument("--without-gpu", action="store_true", help="nvcc may be absent")
    options = parser.parse_args(arguments)
    if options.reuse and is_built(root, options.architecture):
        print("the libraries of these sources are there already")
        return 0
    return build(root, options.architecture, options.in_place, not options.without_gpu)


if __name__ == "__main__":
    sys.exit(main())
