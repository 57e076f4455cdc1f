"""Safe construction of a model from the description in a file, which may ask for anything.

The model is first built on the meta device, where tensors have shapes but no memory. It is built for good only if
the names, shapes and dtypes of its tensors agree with the tensors in the file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from edmfast.models.saving.fit import check_state


def rebuilt(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return build() on the CPU, with the given tensors as its state and in their dtypes.

    Raises ValueError where the model has other tensors, before any memory is taken for it.
    """
    check_fits(build, tensors)
    model = build()
    state = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            # load_state_dict would convert to the dtype of construction otherwise
            state[name].data = state[name].data.to(tensor.dtype)
    model.load_state_dict(tensors)
    return model


def check_fits(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors of build() have these names, shapes and kinds of numbers."""
    try:
        with torch.device("meta"), _at_most(len(tensors)):
            expected_state = build().state_dict()
    except (RuntimeError, TypeError) as error:
        # torch and NumPy refuse a constructor that reads values, which meta tensors do not have
        if "meta" not in str(error):
            raise
        return
    check_state(expected_state, tensors)


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Raise ValueError where a model is built with far more parts than this number of tensors can fill."""
    # a small file could describe a model whose mere construction takes hours
    thread, count, most = threading.get_ident(), 0, 1000 + 50 * tensors

    def count_part(*_: Any) -> None:
        nonlocal count
        # the hooks are global, so another thread may be building a model of its own
        if threading.get_ident() != thread:
            return
        count += 1
        if count > most:
            raise ValueError(
                f"a file of {tensors} tensors cannot fill a model of more than {most} parts, which it describes"
            )

    hooks = [
        register_module_module_registration_hook(count_part),
        register_module_parameter_registration_hook(count_part),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
