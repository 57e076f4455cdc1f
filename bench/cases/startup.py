"""Time how long it takes until the package can be used: importing and installing.

Importing is part of every `make bench`. Installing runs by `python -m bench.cases.startup`.

Import: a fresh Python process, so the start of Python is in all numbers. We promise less than a second beyond
torch; torch takes about one, so its import should be half of our time ("torch"). The rivals load torch as we do:
torch with its compiler, which a project that compiles with torch alone needs and which is more than we load at
import; diffusers and k-diffusion. Projects that load no torch are bounds (blackjax has jax, particles only numpy
and numba): their time should be two fifths of ours.

Install: pip from a copy of the source tree, without a network, into an empty folder, with C++ for the CPU only.
It takes a minute or two, so it is no case of `bench.run` and is done once; `--json PATH` files it. The
comparison is the same install without C++, as for any project in pure Python; a user may be asked to wait twenty
times that, once.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bench.harness.machine import ROOT
from bench.harness.registry import Case

PEERS = {
    "diffusers": "from diffusers import EulerDiscreteScheduler",
    "k-diffusion": "import k_diffusion.sampling",
    "blackjax": "import blackjax",
    "particles": "import particles",
}
WITHOUT_TORCH = ("blackjax", "particles")
MODULES = {"k-diffusion": "k_diffusion"}
LIVE = (
    "import edmfast as e; print(e.__file__, e.info()['kernels']['cpu'].startswith('_C'), sep='|')"
)


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return nothing: no inputs are needed."""
    return (torch.zeros(shape, dtype=dtype),)


def python(code: str, path: str) -> str:
    """Return the output of a fresh process that has `path` in front of its module path."""
    # settings of this process must not reach the fresh one
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDMFAST_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=kept | {"PYTHONPATH": path},
        # Python looks for modules in the working directory first, which may hold another edmfast
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(f"{code!r} failed: {done.stderr[-500:]}")
    return done.stdout.strip()


def importing(code: str, nothing: Tensor) -> str:
    """Return a program that imports, then prints a word that shows that it came that far."""
    return python(f"{code}\nprint('imported')", str(ROOT))


def check_import(output: str, truth: str) -> None:
    assert output.endswith(truth), f"a fresh process says {output!r} instead of {truth!r}"


def import_case() -> Case:
    statements = {"torch and its compiler": "import torch, torch._dynamo"} | {
        name: code for name, code in PEERS.items() if find_spec(MODULES.get(name, name))
    }
    statements["torch"] = "import torch"
    return Case(
        name="startup/import",
        shape=(1,),
        make_inputs=make_inputs,
        ours=functools.partial(importing, "import edmfast"),
        baselines={n: functools.partial(importing, code) for n, code in statements.items()},
        reference=lambda nothing: "imported",
        check=check_import,
        goal=1.0,
        goals={"torch": 0.5} | {n: 0.4 for n in WITHOUT_TORCH if n in statements},
        bounds=("torch", *(n for n in WITHOUT_TORCH if n in statements)),
        inner="torch",
        rounds=3,
        devices=("cpu",),
    )


def copied(folder: Path) -> Path:
    """Copy the sources alone into `folder`: a build in the working tree would replace the libraries in use."""
    names = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "edmfast")
    # libraries that the working tree has built would pass for those of this install
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", "_build_info.txt")
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=unwanted)
        else:
            shutil.copy(source, folder / name)
    return folder


def pip(arguments: list[str], **variables: str) -> None:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode:
        raise RuntimeError(f"pip {arguments[0]} failed: {done.stderr[-500:]}")


def installed(variable: str, nothing: Tensor) -> str:
    """Install with EDMFAST_SKIP_<variable>=1; return where the package is found, and whether its kernels are
    live."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        tree.mkdir()
        target = Path(folder, "target")
        offline = ["--no-build-isolation", "--no-deps", "--no-index"]
        command = ["install", *offline, "--target", str(target), str(copied(tree))]
        pip(command, **{f"EDMFAST_SKIP_{variable}": "1"})
        # the folder has another name each time
        return python(LIVE, str(target)).replace(str(target), "target")


def check_installed(kernels: bool, output: str) -> None:
    assert output == f"target/edmfast/__init__.py|{kernels}", f"the installed package says {output}"


def install_case() -> Case:
    def check(output: tuple[bool, str], truth: None) -> None:
        check_installed(*output)

    def job(variable: str, kernels: bool) -> Callable[[Tensor], tuple[bool, str]]:
        return lambda nothing: (kernels, installed(variable, nothing))

    return Case(
        name="startup/install",
        shape=(1,),
        make_inputs=make_inputs,
        ours=job("CUDA", True),
        baselines={"without C++": job("CPP", False)},
        reference=lambda nothing: None,
        check=check,
        goal=0.05,
        rounds=1,
        devices=("cpu",),
    )


CASES = [import_case()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of `bench.run`, for installing alone."""
    from bench import run

    return run.main(arguments, [install_case()])


if __name__ == "__main__":
    sys.exit(main())
