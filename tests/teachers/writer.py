"""Write networks in the form of EDM's pickles: persistent classes around a state, by Python's own pickle.

The modules `torch_utils.persistence` and `dnnlib.util` exist only while a file is written. The source text that
stands in the files would fail the test if it ran.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types

import torch
from torch import nn

SOURCE = "raise AssertionError('the source text of a persistent class has run')\n"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the file's own function has run")


class EasyDict(dict):
    """A dictionary with attributes."""

    def __getattr__(self, name):
        return self[name]


@contextlib.contextmanager
def foreign_modules():
    """Let pickle find the two names under the modules that the files name."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    modules = {name: types.ModuleType(name) for name in names}
    for function, module in (
        (_reconstruct_persistent_obj, "torch_utils.persistence"),
        (EasyDict, "dnnlib.util"),
    ):
        function.__module__ = module
        setattr(modules[module], function.__name__, function)
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def persistent(class_name):
    """Return a class of modules whose instances are pickled as class name, source text and state."""

    def reduce(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (meta,)

    return type(class_name, (nn.Module,), {"__reduce__": reduce})


def module_of(state, class_name, *, plain=("enc", "dec"), buffers=("resample_filter", "freqs")):
    """Return a tree of persistent modules that holds a state by its dotted names.

    plain: names of children that are dictionaries of torch. buffers: last names of tensors that are no parameters.
    """
    root = persistent(class_name)()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                child = nn.ModuleDict() if part in plain else persistent("Block")()
                module._modules[part] = child
            module = module._modules[part]
        if last in buffers:
            module.register_buffer(last, tensor.clone())
        else:
            module.register_parameter(last, nn.Parameter(tensor.clone(), requires_grad=False))
    return root


def with_arguments(module, *positional, **named):
    """Return a persistent module with the arguments of its constructor, as the files have them."""
    module._init_args, module._init_kwargs = positional, EasyDict(named)
    return module


def write(path, content, protocol=4):
    """Write an object as a pickle."""
    with foreign_modules():
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def precond(class_name, unet, *positional, inside="model", attributes=None, **named):
    """Return a preconditioning around a U-Net."""
    module = with_arguments(persistent(class_name)(), *positional, **named)
    module._modules[inside] = unet
    for name, value in (attributes or {}).items():
        setattr(module, name, value)
    return module


def linear_state(seed=0):
    """Return a small state."""
    draws = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(2, 3, generator=draws),
        "layer.bias": torch.randn(2, generator=draws),
        "layer.resample_filter": torch.tensor([[0.25]]),
    }
