"""The blocks of a network that recompute their activations, and the choice of these blocks.

A block keeps its arguments alone, and computes its activations again for every derivative. So an energy of K
blocks keeps two tensors for each block, its input and the cotangent of its output, and the activations of one
block. Where a plain step of training takes the time of 6 forward passes, this one takes that of 12 at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as tree

from edmfast._internal.derivatives import is_transformed
from edmfast._internal.numbers import as_int
from edmfast.models.calling.origin import name_of
from edmfast.models.recomputing.function import Outputs, recomputed
from edmfast.models.recomputing.surroundings import Surroundings


def checkpoint_blocks(
    model: nn.Module, classes: Collection[str | type[nn.Module]] = (), *, every: int = 1
) -> nn.Module:
    """Let blocks of a model recompute their activations in training, which saves memory for time.

    The gradients are those of the plain model up to rounding, also where an energy is trained, which
    differentiates a gradient. The blocks recompute in training mode only. They are plain inside torch.func and
    forward mode. The model is changed in place and returned; blocks that recompute already stay as they are.

    A block takes part in derivatives by its arguments, its parameters and its buffers. It must change none of them
    in place, as BatchNorm does in training, and must give the same result when it is called again. Dropout does:
    its masks are repeated.

    Args:
        model: a network, an `EnergyModel` or `Denoiser` of one, or any other module.
        classes: the classes of the blocks, or the names of these classes. A block inside another block of these
            classes is a part of it. By default the blocks are the modules in lists, dictionaries and sequences of
            modules that have modules inside themselves, such as the residual blocks of a U-Net.
        every: the first of every so many blocks recomputes, so that 2 saves about half of the memory for half of
            the time.

    Raises:
        TypeError: a model that is no module.
        ValueError: a model without such blocks, or an every that is not positive.
        RuntimeError: at a call, where a block changes its arguments, parameters or buffers in place; at a
            derivative, where a block reads another tensor that requires grad.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"checkpoint_blocks takes a torch.nn.Module, given {name_of(model)}")
    every = as_int("every", every, least=1)
    for block in blocks_of(model, classes)[::every]:
        if not isinstance(vars(block).get("forward"), Recomputing):
            # a plain entry avoids __setattr__ of the module, which may treat the name specially
            block.__dict__["forward"] = Recomputing(block)
    return model


@contextlib.contextmanager
def checkpointed_blocks(model: nn.Module) -> Iterator[None]:
    """Let the blocks of a model recompute within the context, as `checkpoint_blocks` does.

    A model that has recomputing blocks already keeps this choice.
    """
    if recomputing_blocks(model):
        yield
        return
    checkpoint_blocks(model)
    try:
        yield
    finally:
        restore_blocks(model)


def restore_blocks(model: nn.Module) -> None:
    """Undo `checkpoint_blocks`."""
    for block in recomputing_blocks(model):
        before = vars(block).pop("forward").before
        if before is not None:
            block.__dict__["forward"] = before


def recomputing_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model that recompute their activations."""
    return [m for m in model.modules() if isinstance(vars(m).get("forward"), Recomputing)]


def find_blocks(
    model: nn.Module, classes: Collection[str | type[nn.Module]] = ()
) -> list[nn.Module]:
    """Return the blocks that `checkpoint_blocks` would choose, in the order of their registration, or none."""
    classes = _listed(classes)
    names = {kind for kind in classes if isinstance(kind, str)}
    kinds = tuple(kind for kind in classes if not isinstance(kind, str))
    blocks: dict[nn.Module, None] = {}

    def collect(module: nn.Module, listed: bool) -> None:
        is_list = isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
        if classes:
            chosen = isinstance(module, kinds) or type(module).__name__ in names
        else:
            chosen = listed and not is_list and any(True for _ in module.children())
        if chosen:
            blocks[module] = None
            return
        for child in module.children():
            collect(child, is_list)

    collect(model, False)
    return [*blocks]


def blocks_of(model: nn.Module, classes: Collection[str | type[nn.Module]] = ()) -> list[nn.Module]:
    """Return what `find_blocks` returns. Raises ValueError where there is no block."""
    blocks = find_blocks(model, classes)
    if not blocks:
        sought = sorted(
            kind if isinstance(kind, str) else kind.__name__ for kind in _listed(classes)
        )
        known = sorted({type(module).__name__ for module in model.modules()} - {"ModuleList"})
        raise ValueError(
            f"{name_of(type(model))} has no blocks that could recompute their activations"
            f"{f', sought are modules of {sought}' if sought else ''}: name classes of its modules, as in "
            f"checkpoint_blocks(model, [name]). Its classes are {known[:30]}"
        )
    return blocks


def _listed(classes: Collection[str | type[nn.Module]]) -> list[str | type[nn.Module]]:
    # a name alone is a collection of letters
    return [classes] if isinstance(classes, (str, type)) else [*classes]


class Recomputing:
    """The forward of a recomputing block.

    It is an object that holds its block, so that a deep copy of the block gets a forward bound to the copy.
    """

    def __init__(self, block: nn.Module) -> None:
        # a forward that was already replaced on the instance stays in force
        self.block, self.before = block, vars(block).get("forward")
        self.original = _Original(self)
        self.checked = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the block's own forward returns."""
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(self.block).forward(self.block, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plain = not self.block.training or not torch.is_grad_enabled()
        if plain or torch.compiler.is_dynamo_compiling() or is_transformed():
            return self.forward(*args, **kwargs)
        call = _Call(self, args, kwargs)
        if not any(tensor.requires_grad for tensor in call.tensors):
            return self.forward(*args, **kwargs)
        outputs = recomputed(call, call.tensors)
        assert call.result is not None
        return call.result.filled(outputs)


class _Original(nn.Module):
    """A module around a block that runs its own forward, for functional_call."""

    def __init__(self, recomputing: Recomputing) -> None:
        super().__init__()
        self.block = recomputing.block
        self.recomputing = recomputing

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.recomputing.forward(*args, **kwargs)


class _Nested:
    """A nested value, apart from the tensors in it."""

    def __init__(self, value: Any) -> None:
        self.leaves, self.spec = tree.tree_flatten(value)
        self.places = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]
        self.tensors = [self.leaves[i] for i in self.places]
        # the tensors must not be kept alive by this object
        for i in self.places:
            self.leaves[i] = None

    def filled(self, tensors: Any) -> Any:
        """Return the value with other tensors in their places."""
        leaves = [*self.leaves]
        for i, tensor in zip(self.places, tensors, strict=True):
            leaves[i] = tensor
        return tree.tree_unflatten(leaves, self.spec)


class _Call:
    """One call of a block as a function of tensors: those in its arguments, its parameters and its buffers."""

    def __init__(
        self, recomputing: Recomputing, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.recomputing = recomputing
        self.arguments = _Nested((args, kwargs))
        given = self.arguments.tensors
        state = {
            **dict(recomputing.block.named_parameters()),
            **dict(recomputing.block.named_buffers()),
        }
        self.names = [f"block.{name}" for name in state]
        self.count = len(given)
        self.tensors: list[Tensor] = [*given, *state.values()]
        self.arguments.tensors = []
        self.result: _Nested | None = None
        self.surroundings = Surroundings(self.tensors[0].device)

    def __call__(self, *tensors: Tensor) -> Outputs:
        args, kwargs = self.arguments.filled(tensors[: self.count])
        if self.result is None:
            # the first call is that of the caller, and everything is as it must be
            versions = [tensor._version for tensor in tensors]
            with self.surroundings.first():
                value = self.recomputing.forward(*args, **kwargs)
            if [tensor._version for tensor in tensors] != versions:
                raise RuntimeError(
                    f"a block of class {name_of(type(self.recomputing.block))} changes its arguments, "
                    "parameters or buffers in place, so that it cannot be computed again: choose other blocks "
                    "by checkpoint_blocks(model, classes)"
                )
            self.tensors = []
            self.result = _Nested(value)
            outputs, self.result.tensors = self.result.tensors, []
            return tuple(outputs)
        named = dict(zip(self.names, tensors[self.count :], strict=True))
        with self.surroundings.again():
            value = functional_call(self.recomputing.original, named, (args, kwargs))
        outputs = _Nested(value).tensors
        if not self.recomputing.checked:
            _refuse_others(outputs, tensors, self.recomputing.block)
            self.recomputing.checked = True
        return tuple(outputs)


def _refuse_others(outputs: list[Tensor], tensors: tuple[Tensor, ...], block: nn.Module) -> None:
    """Raise RuntimeError where the outputs depend on other tensors that require grad.

    These tensors would get no gradient.
    """
    known = {id(tensor) for tensor in tensors}
    seen = {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None}
    pending = [output.grad_fn for output in outputs]
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known:
            raise RuntimeError(
                f"a block of class {name_of(type(block))} reads a tensor {[*variable.shape]} that requires grad "
                "and is none of its arguments, parameters and buffers, so that this tensor would get no gradient: "
                "pass it as an argument, or choose other blocks by checkpoint_blocks(model, classes)"
            )
        pending += [following for following, _ in node.next_functions]
