"""The CUDA library, where nvcc built one, has the requested architectures and no kernel that spills."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import setuptools
from torch.utils import cpp_extension

from bench.gpu.compile_report import LIBRARY, cuobjdump, usage_of

KERNELS = (
    "curvature_kernel",
    "fold_kernel",
    "matched_kernel",
    "score_gram_kernel",
    "maximum_kernel",
    "noise_kernel",
    "propagate_kernel",
    "resample_kernel",
    "resample_warp_kernel",
    "reversal_kernel",
    "signs_kernel",
    "slots_kernel",
    "sum_kernel",
    "weigh_kernel",
)


@pytest.fixture(scope="module")
def architectures() -> list[str]:
    """Return the architectures that the build records, such as ['8.0', '9.0+PTX']."""
    marker = LIBRARY.parent / "_build_info.txt"
    built = marker.read_text().strip() if marker.exists() else "package was not built"
    match = re.fullmatch(r"C\+\+ and CUDA \((.*)\)", built)
    if match is None:
        pytest.skip(f"no CUDA in this build: {built}")
    assert LIBRARY.exists()
    return match[1].replace(" ", ";").split(";")


@pytest.fixture(scope="module")
def dump(architectures):
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump, neither beside nvcc nor from Triton")

    def run(option: str) -> str:
        command = [tool, option, str(LIBRARY)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


STAND_IN = """
int aoti_torch_get_current_cuda_stream(int device, void **stream) { return 1; }
"""
LOADED = """
import ctypes, sys, torch, edmfast.ops
if not torch.cuda.is_available():
    ctypes.CDLL(sys.argv[1])
    torch.ops.load_library(sys.argv[2])
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
print([name for name in sys.argv[3:] if not has_kernel("edmfast::" + name, "CUDA")])
"""


def test_its_symbols_are_found(architectures, tmp_path):
    """The library finds its symbols where torch has loaded its libraries, but not globally, as torch does.

    A stand-in has the name of torch's CUDA library here.
    """
    names = [os.environ.get("CC"), "cc", "gcc", "clang"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "stand_in.c").write_text(STAND_IN)
    library = tmp_path / "libtorch_cuda.so"
    options = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", "-o", str(library)]
    subprocess.run([compiler, str(tmp_path / "stand_in.c"), *options], check=True)
    wanted = ("noise", "propagate", "reversal", "score_gram", "systematic_resample")
    wanted += ("curvature", "curvature_matched", "signs", "weigh_and_resample")
    answer = subprocess.run(
        [sys.executable, "-c", LOADED, str(library), str(LIBRARY), *wanted],
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == "[]", answer.stderr


def numbers(architectures: list[str]) -> set[str]:
    return {"sm_" + item.removesuffix("+PTX").replace(".", "") for item in architectures}


def test_every_architecture_is_there(architectures, dump):
    # the archive of one source file may lack a kernel, so this looks at the kernels of each architecture
    images = re.split(r"^arch = ", dump("--dump-elf-symbols"), flags=re.MULTILINE)[1:]
    for kernel in KERNELS:
        covered = {image.split()[0] for image in images if kernel in image}
        assert numbers(architectures) <= covered, kernel


def test_ptx_for_later_devices(architectures, dump):
    listed = set(re.findall(r"sm_\d+", dump("--list-ptx")))
    assert numbers([item for item in architectures if item.endswith("+PTX")]) <= listed


def test_no_kernel_spills(dump):
    usage = list(usage_of(LIBRARY, cuobjdump()))
    assert {k for k in KERNELS for entry in usage if k in entry.kernel} == set(KERNELS)
    for entry in usage:
        assert entry.spilled == 0, entry
        assert entry.registers <= 128, entry


def test_where_nvcc_is_found(tmp_path, monkeypatch):
    """The build looks for nvcc in this order, and passes over places without one."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    find = runpy.run_path(str(LIBRARY.parents[1] / "setup.py"))["find_nvcc"]
    names = ("home", "path", "torch", "usual")
    places = {name: tmp_path / name for name in names}
    for place in places.values():
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "nvcc").touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", str(places["home"]))
    monkeypatch.setenv("PATH", str(places["path"] / "bin"))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(places["torch"]))
    monkeypatch.setitem(find.__globals__, "USUAL_CUDA_HOME", str(places["usual"]))
    for name in names:
        assert find() == str(places[name] / "bin" / "nvcc")
        (places[name] / "bin" / "nvcc").unlink()
    assert find() is None
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert find() is None


@pytest.mark.parametrize(
    ("asked", "shared"), [("1", (1, 0)), ("2", (1, 1)), ("5", (3, 2)), ("16", (8, 8))]
)
def test_compilers_of_both_libraries_share_the_jobs(monkeypatch, asked, shared):
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    jobs = runpy.run_path(str(LIBRARY.parents[1] / "setup.py"))["shared_jobs"]
    monkeypatch.setenv("MAX_JOBS", asked)
    assert jobs() == shared
    monkeypatch.delenv("MAX_JOBS")
    assert jobs() == (None, os.cpu_count())
