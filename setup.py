"""Build the compiled operators: C++ for the CPU always, and CUDA where nvcc is found.

These environment variables steer the build:

EDMFAST_SKIP_CPP=1     compile nothing; operators run their plain-torch references
EDMFAST_SKIP_CUDA=1    compile no CUDA, even where nvcc is found
EDMFAST_FORCE_CUDA=1   fail where nvcc is not found
TORCH_CUDA_ARCH_LIST   GPU architectures; by default those of 8.0, 9.0 and 10.0 that nvcc knows
CUDA_HOME, CXX         the CUDA toolkit and the C++ compiler
MAX_JOBS               the number of compilers that run at once

The sources use libtorch's stable ABI only, so one build serves every torch from 2.11 on.
"""

# mypy: allow-subclassing-any, allow-untyped-calls
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import setuptools
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
SKIP_CPP = os.environ.get("EDMFAST_SKIP_CPP") == "1"
SKIP_CUDA = SKIP_CPP or os.environ.get("EDMFAST_SKIP_CUDA") == "1"
USUAL_CUDA_HOME = "/usr/local/cuda"
FORCE_CUDA = os.environ.get("EDMFAST_FORCE_CUDA") == "1"
OLDEST_SETUPTOOLS = 77
OLDEST_TORCH = (2, 11)


def check_environment() -> None:
    """Exit with one line where the build would fail later, or with a message that hides the cause."""
    if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
        stop(
            f"setuptools {OLDEST_SETUPTOOLS} or later is needed, this is {setuptools.__version__}: "
            f"pip install 'setuptools>={OLDEST_SETUPTOOLS}'"
        )
    if SKIP_CPP:
        return
    torch = installed_version("torch")
    if torch is None or torch < OLDEST_TORCH:
        installed = "there is none" if torch is None else "this is {}.{}".format(*torch)
        stop(f"torch 2.11 or later is needed at build time, {installed}: pip install 'torch>=2.11'")
    for pattern in ("csrc/ops.cpp", "csrc/cpu/*.cpp", "csrc/cuda/*.cu", "csrc/include/*.h"):
        if not list(ROOT.glob(pattern)):
            stop(f"this source tree is incomplete: there is no {pattern} in {ROOT}")


def check_compiler() -> None:
    """Exit with one line where there is no C++ compiler, before the build prints pages about it."""
    command = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(command) is None and shutil.which("g++") is None:
        stop(
            f"no C++ compiler is found (tried {command} and g++): install one and name it by CXX, "
            "or set EDMFAST_SKIP_CPP=1 for an install that runs on plain torch"
        )


def installed_version(package: str) -> tuple[int, int] | None:
    """Return (major, minor) of an installed package, or None where it is absent."""
    try:
        major, minor = metadata.version(package).split(".")[:2]
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def stop(why: str) -> None:
    """Exit with the reason why edmfast cannot be built."""
    sys.exit(f"edmfast cannot be built: {why}")


def find_nvcc() -> str | None:
    """Return the path of nvcc, or None where there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home and (Path(home) / "bin" / "nvcc").exists():
        return str(Path(home) / "bin" / "nvcc")
    if nvcc := shutil.which("nvcc"):
        return nvcc
    from torch.utils.cpp_extension import CUDA_HOME

    # the folder of a toolkit is often not on PATH
    folders = [f"{place}/bin" for place in (CUDA_HOME, USUAL_CUDA_HOME) if place]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def architectures(nvcc: str) -> list[str]:
    """Return the compute capabilities to compile for, such as "9.0" or "9.0+PTX"."""
    if listed := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return listed.replace(" ", ";").split(";")
    known = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True)
    codes = known.stdout.split()
    usable = [
        number for number in ("8.0", "9.0", "10.0") if "sm_" + number.replace(".", "") in codes
    ]
    if not usable:
        raise RuntimeError(f"set TORCH_CUDA_ARCH_LIST: {nvcc} knows none of 8.0, 9.0 and 10.0")
    return [*usable[:-1], usable[-1] + "+PTX"]


def architecture_flags(nvcc: str) -> list[str]:
    """Return options for one binary per architecture; "9.0+PTX" adds the PTX of that architecture."""
    flags = []
    for item in architectures(nvcc):
        number = item.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if item.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def build_cuda(nvcc: str, target: Path, scratch: Path, jobs: int) -> None:
    """Compile every csrc/cuda/*.cu, `jobs` at once, and link them.

    This needs no GPU and no CUDA build of torch.
    """
    from torch.utils.cpp_extension import include_paths

    includes = [f"-I{path}" for path in (*include_paths(), ROOT / "csrc" / "include")]
    common = [nvcc, "-O3", "-std=c++20", "-Xcompiler=-fPIC", *architecture_flags(nvcc)]
    # multiplications and additions stay separate: the CPU and the GPU must round alike
    compile_flags = [STABLE_ABI, "-DUSE_CUDA", "--fmad=false", *includes]
    for folder in (scratch, target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    objects = [scratch / f"{source.stem}.o" for source in sources]

    def compile_one(pair: tuple[Path, Path]) -> None:
        source, output = pair
        subprocess.run([*common, *compile_flags, "-c", str(source), "-o", str(output)], check=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_one, zip(sources, objects, strict=True)))
    libraries = torch_libraries(nvcc, scratch)
    link = [*common, "-shared", *map(str, objects), *libraries, "-o", str(target)]
    subprocess.run(link, check=True)


def torch_libraries(nvcc: str, scratch: Path) -> list[str]:
    """Return the options that link the CUDA library with the libraries of torch.

    The CUDA library has to name them all as needed: torch does not load its own libraries globally, so symbols
    of a library that is not named are not found. A torch for the CPU has no libtorch_cuda to link with. An empty
    library of that name stands in for it, because a torch that loads the CUDA library has loaded the real one.
    """
    from torch.utils.cpp_extension import library_paths

    folder = Path(library_paths()[0])
    places = [folder]
    if not (folder / "libtorch_cuda.so").exists():
        places.append(scratch / "named")
        places[-1].mkdir(exist_ok=True)
        (places[-1] / "empty.cpp").write_text("")
        stand_in = [
            "-Xlinker",
            "-soname=libtorch_cuda.so",
            "-o",
            str(places[-1] / "libtorch_cuda.so"),
        ]
        source = str(places[-1] / "empty.cpp")
        subprocess.run([nvcc, "-shared", "-cudart=none", source, *stand_in], check=True)
    names = ["-ltorch_cuda", "-ltorch_cpu", "-lc10"]
    return ["-Xlinker", "--no-as-needed", *(f"-L{place}" for place in places), *names]


def describe(nvcc: str | None) -> str:
    """Return one line that says what was compiled, and why the rest was not."""
    if SKIP_CPP:
        return "C++ skipped by EDMFAST_SKIP_CPP=1"
    if SKIP_CUDA:
        return "CUDA skipped by EDMFAST_SKIP_CUDA=1"
    if nvcc is None:
        return "CUDA skipped: no nvcc found"
    return f"C++ and CUDA ({';'.join(architectures(nvcc))})"


class BuildPackage(build_py):
    """The step that copies Python files.

    With EDMFAST_SKIP_CPP=1 it also removes the libraries of an earlier build and records that nothing was
    compiled.
    """

    def run(self) -> None:
        super().run()
        if SKIP_CPP:
            editable = getattr(self, "editable_mode", False)
            package = (ROOT if editable else Path(self.build_lib)) / "edmfast"
            for library in [*package.glob("_C*.so"), *package.glob("_cuda*.so")]:
                library.unlink()
            write_build_info(package, None)


def write_build_info(package: Path, nvcc: str | None) -> None:
    """Write the line that `edmfast info` shows beside kernels that are off."""
    package.mkdir(parents=True, exist_ok=True)
    (package / "_build_info.txt").write_text(describe(nvcc) + "\n")


def kernel_builder() -> type:
    """Return a build_ext that builds the CUDA library beside the C++ one.

    An error in build_ext fails every kind of install. An editable install would swallow one raised in build_py.
    """
    from torch.utils.cpp_extension import BuildExtension

    class BuildKernels(BuildExtension):
        def run(self) -> None:
            check_compiler()
            nvcc = None if SKIP_CUDA else find_nvcc()
            if FORCE_CUDA and nvcc is None:
                raise RuntimeError("EDMFAST_FORCE_CUDA=1, but no nvcc: set CUDA_HOME or PATH")
            package = ROOT / "edmfast" if self.inplace else Path(self.build_lib) / "edmfast"
            library = package / "_cuda.so"
            if nvcc is None:
                super().run()
                # a library of an earlier build does not belong to these sources
                library.unlink(missing_ok=True)
            else:
                cpp, cuda = shared_jobs()
                with ThreadPoolExecutor(1) as pool:
                    scratch = ROOT / "build" / "cuda"
                    built = pool.submit(build_cuda, nvcc, library, scratch, max(cuda, 1))
                    if not cuda:
                        built.result()
                    if cpp is not None:
                        os.environ["MAX_JOBS"] = str(cpp)  # torch reads it from there
                    super().run()
                    built.result()
            write_build_info(package, nvcc)

    return BuildKernels


def shared_jobs() -> tuple[int | None, int]:
    """Return how many compilers of C++ (None: torch's own default) and of CUDA may run at once.

    Without MAX_JOBS each kind has one for every core: a core may then have two, for a few seconds. One job in all
    is 1 of C++ after 0 of CUDA, which then come first.
    """
    asked = os.environ.get("MAX_JOBS")
    if not asked:
        return None, os.cpu_count() or 1
    cuda = int(asked) // 2
    return max(int(asked) - cuda, 1), cuda


def cpp_arguments() -> dict[str, Any]:
    """Return the arguments of `setup` that build the C++ library, or none where it is skipped."""
    if SKIP_CPP:
        return {}
    from torch.utils.cpp_extension import CppExtension

    sources = [
        "csrc/ops.cpp",
        "csrc/python/module.cpp",
        *(f"csrc/cpu/{path.name}" for path in CPU_SOURCES),
    ]
    extension = CppExtension(
        "edmfast._C",
        sources,
        depends=[str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h")],
        extra_compile_args=[
            STABLE_ABI,
            "-O3",
            "-fopenmp-simd",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-fvisibility=hidden",
        ],
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
        "build_ext": kernel_builder(),
    }


check_environment()
CPU_SOURCES = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))
arguments = cpp_arguments()
commands = {"build_py": BuildPackage}
if "build_ext" in arguments:
    commands["build_ext"] = arguments.pop("build_ext")
setuptools.setup(cmdclass=commands, **arguments)
