"""Count what a piece of code asks a GPU to do: kernels, copies from the host, and reads by the host.

`Launches` sees every operation that reaches torch's dispatcher. It leaves out views, allocations, operations whose
results are all empty, and those whose results are all on the CPU. Everything else is one launch under its name. An
operator of edmfast is one launch, however many kernels it has, and so is an operation of torch, of which some
launch more than one kernel (a sort, a convolution). The count is therefore a lower bound.

A launch is the network's own where it is

- an operator that evaluates a whole network or several of them (`mlp_potential` and its derivatives), or
- made while the forward of a backbone runs, or
- made by the derivative of such an operation, of any order.

All other launches are beside the network. The embedding of the noise level of a perceptron is beside it, because
the operator takes the embedded level as an argument; that of a U-Net is inside its forward, and so its own.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ITEM = "aten::_local_scalar_dense"
_NETWORK = ("edmfast::mlp_potential",)
_READS = {
    _ITEM,  # item(), tolist(), float() and bool() call it
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
_ALLOCATIONS = {"aten::_unsafe_view", "aten::new_empty", "aten::new_empty_strided"}
_COPIES = ("aten::_to_copy", "aten::copy_")
_MASKED = ("aten::index.", "aten::index_put", "aten::index_put_")


class Launches(TorchDispatchMode):
    """A mode that counts by name, while it is `counting`, what a GPU would be asked to do.

    beside: launches beside the network's own. own: the network's own. captured: launches of both kinds inside
    `replay`, which a captured graph makes. reads: reads of the device by the host, each of which waits. copies:
    copies from the host's memory to the device. constants: tensors that are made of numbers on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beside: Counter[str] = Counter()
        self.own: Counter[str] = Counter()
        self.captured: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.constants: Counter[str] = Counter()
        self._counting = self._replaying = False
        self._forwards = 0
        # autograd numbers its nodes in the order in which they are made
        self._nodes = 0
        self._own_nodes: set[int] = set()

    @property
    def total(self) -> int:
        """The number of launches that the host makes, the network's own and others."""
        return self.beside.total() + self.own.total()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count within the block."""
        before, self._counting = self._counting, True
        try:
            yield
        finally:
            self._counting = before

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """Count launches within the block as those of a captured graph."""
        before, self._replaying = self._replaying, True
        try:
            yield
        finally:
            self._replaying = before

    @contextlib.contextmanager
    def watching(self, backbones: Sequence[nn.Module]) -> Iterator[None]:
        """Take the launches of these backbones for the network's own within the block."""
        with contextlib.ExitStack() as stack:
            # hooks would make edmfast call its perceptrons layer by layer, so the class is patched
            for kind in {type(backbone) for backbone in backbones}:
                stack.enter_context(mock.patch.object(kind, "forward", self._watched(kind.forward)))
            yield

    def _watched(self, forward: Any) -> Any:
        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._forwards += 1
            try:
                return forward(module, *args, **kwargs)
            finally:
                self._forwards -= 1

        return watched

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, options = function.name(), kwargs or {}
        own = self._is_own(name)
        inputs = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        if read := _read(name, args, options, inputs):
            if self._counting:
                self.reads[read] += 1
            return _answer(name, function, args, options)
        if name == _ITEM and _has_no_number(args[0]):
            # a copy of what was read before, so that it is no read of its own
            return _answer(name, function, args, options)
        result = function(*args, **options)
        if self._counting:
            self._record(function, name, inputs, tree_leaves(result), own)
        return result

    def _is_own(self, name: str) -> bool:
        """Return whether an operation is the network's own, and remember the nodes of autograd that it has."""
        node = torch._C._current_autograd_node()
        from_node = node is not None and node._sequence_nr() in self._own_nodes
        own = self._forwards > 0 or from_node or name.startswith(_NETWORK)
        made = torch._C._autograd._get_sequence_nr()
        if own:
            self._own_nodes.update(range(self._nodes, made))
        self._nodes = made
        return own

    def _record(
        self, function: Any, name: str, inputs: list[Tensor], leaves: list[Any], own: bool
    ) -> None:
        outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if name == "aten::lift_fresh":
            self.constants[name] += 1
            return
        if name.startswith(_COPIES) and _from_host(inputs, outputs):
            self.copies[name] += 1
            return
        # an operation without results changes what it is called with
        changed = outputs or inputs
        if _is_free(function, name) or not any(_on_device(t) and t.numel() for t in changed):
            return
        if self._replaying:
            self.captured[name] += 1
        else:
            (self.own if own else self.beside)[name] += 1


def _on_device(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _has_no_number(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.constant is None


def _is_free(function: Any, name: str) -> bool:
    """Return whether an operation only makes a view, reserves memory, or asks for a property."""
    if name.startswith(("prim::", "aten::empty")) or name in _ALLOCATIONS:
        return True
    aliases = [r.alias_info for r in function._schema.returns if r.alias_info is not None]
    return torch.Tag.inplace_view in function.tags or not all(a.is_write for a in aliases)


def _from_host(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    return not _on_device(inputs[-1]) and any(map(_on_device, outputs))


def _read(name: str, args: Any, options: dict[str, Any], inputs: list[Tensor]) -> str | None:
    """Return the name of a read of the device by the host, None for any other operation."""
    if not any(map(_on_device, inputs)):
        return None
    if name in _READS:
        return name
    if name.startswith(_MASKED):
        masks = [t for t in args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
        return f"{name} by a mask" if masks else None
    to = options.get("device")
    if name == "aten::_to_copy" and to is not None and torch.device(to).type == "cpu":
        return "aten::_to_copy to the host"
    if name == "aten::copy_" and not _on_device(args[0]):
        return "aten::copy_ to the host"
    return None


def _answer(name: str, function: Any, args: Any, options: dict[str, Any]) -> Any:
    """Return an answer of the right kind for a read of a tensor that has no numbers."""
    if name == _ITEM:
        dtype = args[0].dtype
        # flags that nothing raised, counts of nothing, and numbers that may be divided by
        return 1.0 if dtype.is_floating_point else False if dtype == torch.bool else 0
    if name == "aten::is_nonzero":
        return True
    if name == "aten::_to_copy":
        dtype = options.get("dtype") or args[0].dtype
        return torch.zeros(args[0].shape, dtype=dtype)
    if name == "aten::copy_":
        return args[0].zero_()
    # sizes that follow from numbers are unknown, and torch says so
    return function(*args, **options)
