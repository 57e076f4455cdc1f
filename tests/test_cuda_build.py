"""The CUDA library, where nvcc built one: the architectures asked for, and no kernel that spills."""

from __future__ import annotations

import re
import subprocess

import pytest

from bench.compile_report import LIBRARY, cuobjdump, usage_of

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


@pytest.fixture(scope="module")
def architectures() -> list[str]:
    """What the build says it compiled for, such as ['8.0', '9.0+PTX']."""
    marker = LIBRARY.parent / "_build_info.txt"
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
    usage = list(usage_of(LIBRARY, cuobjdump()))
    assert {k for k in KERNELS for found in usage if k in found.kernel} == set(KERNELS)
    for found in usage:
        assert found.spilled == 0, found
        assert found.registers <= 128, found
