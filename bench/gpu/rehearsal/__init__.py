"""A rehearsal of `bench.gpu.check` on a machine without a GPU, with a CUDA build of torch.

The folder of this module is put in front of PYTHONPATH, so that every Python process of the check runs
`sitecustomize` at its start. That module replaces the device of torch (`stand_in`): what asks for "cuda" gets
the CPU, and events and graphs read the clock of the host. It replaces Triton's driver too (`triton_driver`). In
the stage that calls Triton's operators, kernels are specialised and compiled for the GPU in earnest, and a launch
does nothing. So a rehearsal finds errors of Python, of arguments and of paths, and kernels that do not compile.
Its numbers and times mean nothing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

ACTIVE = "EDMFAST_REHEARSED"
TRITON = "EDMFAST_REHEARSED_TRITON"
_SANITIZER = """#!/bin/sh
# stands in for compute-sanitizer: runs the program after its options
while [ $# -gt 0 ]; do
  case "$1" in
    --tool|--error-exitcode|--kernel-name|--kernel-regex) shift 2 ;;
    --version) echo "a stand-in"; exit 0 ;;
    --help) echo "--kernel-name"; exit 0 ;;
    *) break ;;
  esac
done
exec "$@"
"""


def environment(root: Path, work: Path) -> dict[str, str]:
    """Return the settings under which every process of a check is rehearsed.

    root: the repository. work: a folder for a stand-in for compute-sanitizer.
    """
    programs = work / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    sanitizer = programs / "compute-sanitizer"
    sanitizer.write_text(_SANITIZER)
    sanitizer.chmod(sanitizer.stat().st_mode | stat.S_IXUSR)
    paths = [str(Path(__file__).parent), str(root), os.environ.get("PYTHONPATH", "")]
    return {
        ACTIVE: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
    }
