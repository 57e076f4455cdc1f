"""torch's own fake tensors of a CUDA device, with derivatives, on a machine without a GPU.

They need a CUDA build of torch, and a process that `bench.gpu.no_device` has started. Everything else is as on a
machine with a GPU: edmfast has loaded its CUDA library and registered its Triton kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch.utils import _foreach_utils


class _FakeMode(fake_tensor.FakeTensorMode):
    # no constant is to be moved to a device that holds nothing
    avoid_device_init = True


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Make fake tensors within the block, of a CUDA device where one is asked for.

    A model is made before the block and moved to the device inside it. Derivatives run in the calling thread, so
    that modes which count see them in their order.
    """
    one_thread = torch.autograd.set_multithreading_enabled(False)
    context = mock.patch.object(fake_tensor, "init_gpu_context")
    # torch works on lists of plain tensors in one launch, and would not take fake ones for plain
    plain = [torch.Tensor, fake_tensor.FakeTensor]
    lists = mock.patch.object(_foreach_utils, "_foreach_supported_types", plain)
    with context, lists, one_thread, _FakeMode(allow_non_fake_inputs=True):
        yield
