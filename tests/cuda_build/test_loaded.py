"""With a CUDA build of torch both libraries load, and every operator has a kernel for CUDA."""

import pytest
import torch

from edmfast import _extension
from tests.test_house import defined_schemas


def test_everything_is_live():
    status = _extension.kernel_status()
    assert (status["cpu"], status["cuda"]) == ("_C.abi3.so", "_cuda.so")
    assert not status["triton"].startswith("off"), status


# its reference is plain torch on every device; steps call weigh_and_resample
PLAIN = {"resample"}


@pytest.mark.parametrize("name", sorted({*defined_schemas()} - PLAIN))
def test_every_operator_has_one_kernel_for_cuda(name):
    """A CUDA kernel of the library, or else a Triton kernel, which is called from Python."""
    table = torch._C._dispatch_dump_table(f"edmfast::{name}").splitlines()
    (line,) = (line for line in table if line.startswith("CUDA:"))
    by_triton = name in _extension.kernel_status()["triton"].split(", ")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"edmfast::{name}", "CUDA")
    assert ("_extension.py" in line or "python" in line.lower()) == by_triton, line
