"""The CUDA library, where nvcc built one: the architectures asked for, and no kernel that spills."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import edmfast

FOLDER = Path(edmfast.__file__).parent
LIBRARY = FOLDER / "_cuda.so"
KERNELS = (
    "score_gram_kernel",
    "maximum_kernel",
    "noise_kernel",
    "propagate_kernel",
    "resample_kernel",
    "resample_warp_kernel",
    "slots_kernel",
    "sum_kernel",
    "weigh_kernel",
)


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def cuobjdump() -> str | None:
    """Beside nvcc, or the one Triton brings."""
    places = [os.environ.get("PATH", "")]
    compiler = nvcc()
    if compiler:
        places.append(str(Path(compiler).resolve().parent))
    triton = importlib.util.find_spec("triton")
    if triton and triton.origin:
        places.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump", path=os.pathsep.join(places))


@pytest.fixture(scope="module")
def architectures() -> list[str]:
    """What the build says it compiled for, such as ['8.0', '9.0+PTX']."""
    if nvcc() is None:
        pytest.skip("no nvcc: CUDA is not compiled here")
    marker = FOLDER / "_build_info.txt"
    built = marker.read_text().strip() if marker.exists() else "package was not built"
    found = re.fullmatch(r"C\+\+ and CUDA \((.*)\)", built)
    if found is None:
        pytest.skip(f"no CUDA in this build: {built}")
    assert LIBRARY.exists()
    return found[1].replace(" ", ";").split(";")


@pytest.fixture(scope="module")
def dump(architectures):
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump, neither beside nvcc nor from Triton")

    def run(option: str) -> str:
        command = [tool, option, str(LIBRARY)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def numbers(architectures: list[str]) -> set[str]:
    return {"sm_" + item.removesuffix("+PTX").replace(".", "") for item in architectures}


def test_every_architecture_is_there(architectures, dump):
    # the archive of one source file may lack a kernel, so look at the kernels of each architecture
    images = re.split(r"^arch = ", dump("--dump-elf-symbols"), flags=re.MULTILINE)[1:]
    for kernel in KERNELS:
        found = {image.split()[0] for image in images if kernel in image}
        assert numbers(architectures) <= found, kernel


def test_ptx_for_later_devices(architectures, dump):
    listed = set(re.findall(r"sm_\d+", dump("--list-ptx")))
    assert numbers([item for item in architectures if item.endswith("+PTX")]) <= listed


def test_no_kernel_spills(dump):
    usage = re.findall(
        r"Function (\S+):\n\s*REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", dump("-res-usage")
    )
    assert {k for k in KERNELS for name, *_ in usage if k in name} == set(KERNELS)
    for name, registers, stack, local in usage:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) <= 128, name
