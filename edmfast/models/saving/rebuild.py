"""Models from descriptions that a file holds, which may ask for anything: compared first, allocated then.

A description is first followed on the meta device, where tensors have shapes and no memory. Only where names,
shapes and kinds of numbers are those of the tensors at hand is the model built for good.
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

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def rebuilt(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return build(), on the CPU and with the given state, whose dtypes it takes.

    Raises ValueError where the model has other tensors, before it takes memory.
    """
    check_fits(build, tensors)
    model = build()
    state = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            state[name].data = state[name].data.to(tensor.dtype)
    model.load_state_dict(tensors)
    return model


def check_fits(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless build() has tensors of these names, shapes and kinds."""
    try:
        with torch.device("meta"), _at_most(len(tensors)):
            wanted = build().state_dict()
    except (RuntimeError, TypeError) as error:  # of torch, and of a conversion to NumPy
        if "meta" not in str(error):
            raise
        return  # a constructor that looks at numbers, which meta tensors have not
    for name in wanted.keys() & tensors.keys():
        expected, tensor = wanted[name], tensors[name]
        if expected.shape != tensor.shape:
            raise ValueError(
                f"size mismatch: {name} is {[*tensor.shape]} in the file and {[*expected.shape]} in the model"
            )
        both = expected.is_floating_point() and tensor.dtype in _FLOATS
        if expected.dtype != tensor.dtype and not both:
            raise ValueError(
                f"{name} is {tensor.dtype} in the file and {expected.dtype} in the model"
            )
    missing, foreign = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing or foreign:
        raise ValueError(f"tensors missing: {_few(missing)}; not of this model: {_few(foreign)}")


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Within, a model of far more modules than so many tensors can be of stops growing: ValueError."""
    thread, count, most = threading.get_ident(), 0, 1000 + 50 * tensors

    def grown(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() != thread:  # of a model that another thread builds
            return
        count += 1
        if count > most:
            raise ValueError(f"a model of more parts than a file of {tensors} tensors can fill")

    hooks = [
        register_module_module_registration_hook(grown),
        register_module_parameter_registration_hook(grown),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _few(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown}, … ({len(names)})" if len(names) > 3 else shown or "none"
