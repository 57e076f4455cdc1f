"""Run Python on a machine without a GPU as if it had one CUDA device, which does nothing.

Command: `python -m bench.gpu.no_device ARGUMENTS OF PYTHON`, such as `-m pytest tests/cuda_build`.

It compiles a library that takes the place of the CUDA driver and of the few functions of the CUDA runtime that ask
for devices, and preloads it. A CUDA build of torch then says that a device is available, edmfast loads its CUDA
library and registers its Triton kernels, and autograd runs on fake tensors of that device. A real CUDA tensor
cannot be made. It needs a CUDA build of torch, a C compiler and nm, and exits with status 2 where one is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

MARK = "EDMFAST_NO_DEVICE"
"""The environment variable that is 1 in processes that this command has started."""

# every function returns 0, the status of success
_RUNTIME = """
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0; }
int cudaStreamIsCapturing(void *stream, int *status) { return *status = 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = *active = 0; }
"""


def active() -> bool:
    """Return whether this process was started by this command."""
    return os.environ.get(MARK) == "1" and torch.cuda.is_available()


def source(libraries: Path) -> str:
    """Return the C source of a driver with all functions that torch's own libraries ask of it.

    libraries: the folder with the libraries of a CUDA build of torch. Raises FileNotFoundError where they are not
    there, and CalledProcessError where nm fails.
    """
    library = libraries / "libcaffe2_nvrtc.so"
    if not library.exists():
        raise FileNotFoundError(
            f"torch {torch.__version__} is no CUDA build: there is no {library}"
        )
    command = ["nm", "-D", "--undefined-only", str(library)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = sorted({*re.findall(r"\bcu[A-Z]\w*", listed)})
    others = (f"int {name}(void) {{ return 0; }}" for name in names if name not in _RUNTIME)
    return _RUNTIME + "\n".join(others) + "\n"


def build(folder: Path) -> Path:
    """Compile the library into a folder and return its path. Raises as `source` does, or where cc fails."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no C compiler: install one, or name it by CC")
    (folder / "no_device.c").write_text(source(Path(torch.__file__).parent / "lib"))
    # torch looks for the driver by this name, and takes the library that has it already
    library = folder / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library)]
    subprocess.run([compiler, str(folder / "no_device.c"), *options], check=True)
    return library


def main(arguments: Sequence[str] | None = None) -> int:
    """Run Python with the arguments and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given == ["--help"]:
        print(__doc__)
        return 0 if given else 2
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = build(Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no_device: {error}", file=sys.stderr)
            return 2
        environment = {**os.environ, "LD_PRELOAD": str(library), MARK: "1"}
        return subprocess.run([sys.executable, *given], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
