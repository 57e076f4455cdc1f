"""Compilation of a function that takes derivatives inside, as one flat graph.

A score is a gradient, and a training step takes the gradient of a gradient, but torch.compile's own autograd has
no double backward (pytorch issue 91469). So make_fx traces the function and its derivatives into one graph of
plain operators, in which ours are single nodes. That graph needs no further derivative, and inductor compiles it.

The sizes of the first call are constants of its graph. Sizes that differ at a later call become symbols of a
second graph. So a changed batch size costs one more compilation, and later changes cost none, unless the compiler
has made a decision that depends on the size.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from edmfast.models.compiling.constants import lift_constants

Tensors = Sequence[Tensor]
Function = Callable[[Tensors, Tensors], tuple[Tensor, ...]]
"""A function (fixed, inputs) -> outputs. The fixed tensors, usually parameters, never change in size."""

MOST_GRAPHS = 8
"""The largest number of graphs per key. After more changes of size the function runs without a graph."""


class _Graph(NamedTuple):
    call: Callable[..., tuple[Tensor, ...]]
    sizes: list[list[Any]]
    """A number, or a symbol of the tracer, for each dimension of each input."""
    guards: list[Any]
    """The assumptions that the trace made about symbolic sizes."""
    around: list[Tensor]
    """Tensors that the function reads from its closure or its globals, which are arguments of the call too."""

    def fits(self, inputs: Tensors) -> bool:
        """Return whether the sizes of the inputs agree with the numbers and assumptions of this graph."""
        from sympy import Integer  # importing it takes as long as importing all of edmfast

        values: dict[Any, Integer] = {}
        for tensor, sizes in zip(inputs, self.sizes, strict=True):
            for size, expected in zip(tensor.shape, sizes, strict=True):
                if isinstance(expected, int):
                    if size != expected:
                        return False
                elif size < 2:  # the tracer distinguishes 0 and 1 from all other sizes
                    return False
                else:
                    values[expected] = Integer(size)
        return all(bool(guard.xreplace(values)) for guard in self.guards)


# torch's tracer and its compiler are not thread-safe
_tracing = threading.RLock()


class FlatGraph:
    """A function that is called by compiled flat graphs.

    Where tracing or compiling fails, the caller's eager alternative runs from then on, after one warning that
    names the reason. otherwise: the clause of that warning which says what happens instead. what: what the caller
    asked for, which begins the warning. mode: the mode of torch.compile, used on a GPU only.
    """

    def __init__(
        self,
        function: Function,
        *,
        otherwise: str,
        what: str = "compile=True",
        mode: str | None = None,
    ) -> None:
        self.function, self.otherwise, self.what, self.mode = function, otherwise, what, mode
        self.graphs: dict[Hashable, list[_Graph]] = {}
        self.chosen: dict[Hashable, _Graph] = {}
        self.failed = False

    def __call__(
        self,
        fixed: Tensors,
        inputs: Tensors,
        eager: Callable[[], tuple[Tensor, ...]],
        key: Hashable = None,
    ) -> tuple[Tensor, ...]:
        """Return function(fixed, inputs).

        eager: computes the same without a graph. key: identifies everything else that the trace depends on.
        """
        return self.attempt(lambda: self.call(fixed, inputs, key), eager)

    def attempt(
        self, compiled: Callable[[], tuple[Tensor, ...]], eager: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return compiled(), or eager() after the first failure, of which one warning tells."""
        if self.failed:
            return eager()
        try:
            return compiled()
        # the tracer and the compiler may fail in any way, while the function itself is still right
        except Exception as error:
            message = (str(error).strip() or "no message").splitlines()[0]
            # the first line is the message, and the rest is the trace of a compiler
            reason = f"{type(error).__name__}: {message}"
        # a mistake of the caller raises here, before the graphs are given up for it
        outputs = eager()
        self.failed = True
        warnings.warn(f"{self.what} failed, {self.otherwise}: {reason}", stacklevel=4)
        return outputs

    def call(self, fixed: Tensors, inputs: Tensors, key: Hashable = None) -> tuple[Tensor, ...]:
        """Return function(fixed, inputs) by a graph. Raises whatever the tracer or the compiler raises."""
        # a graph holds for one order of strides only
        dense = [tensor.contiguous() for tensor in inputs]
        graph = self._graph(fixed, dense, key)
        if graph is None:
            raise RuntimeError(f"more than {MOST_GRAPHS} sizes of inputs")
        return self._run(graph, fixed, dense)

    def _graph(self, fixed: Tensors, inputs: Tensors, key: Hashable) -> _Graph | None:
        state = key, _state_of(fixed, inputs)
        # a graph chosen before for the same sizes needs no check of its assumptions
        sizes = tuple(tensor.shape for tensor in inputs)
        if chosen := self.chosen.get((state, sizes)):
            return chosen
        known = self.graphs.setdefault(state, [])
        graph = next((graph for graph in known if graph.fits(inputs)), None)
        if graph is None and len(known) < MOST_GRAPHS:
            with _tracing:
                changed = _changed(inputs, known[0].sizes if known else None)
                graph = self._trace(fixed, inputs, changed)
            known.append(graph)
        if graph is not None:
            self.chosen[state, sizes] = graph
        return graph

    def _trace(self, fixed: Tensors, inputs: Tensors, dynamic: list[set[int]]) -> _Graph:
        arguments: list[Any] = [*fixed, *inputs]
        count = len(fixed)

        # make_fx takes tensors as positional arguments only
        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            return self.function(tensors[:count], tensors[count:])

        # the modes of torch.compile concern CUDA graphs and tuning on a GPU
        mode = self.mode if _on_gpu(inputs) else None
        if not any(dynamic):
            # the trace of fixed sizes runs on the real tensors, so that it may change them
            before = [(tensor._version, tensor.clone()) for tensor in fixed]
            graph = make_fx(function)(*arguments)
            _refuse_changes(fixed, before)
            around = lift_constants(graph)
            call = compile_graph(graph, [*arguments, *_detached(around)], mode)
            return _Graph(call, [[*tensor.shape] for tensor in inputs], [], around)
        from torch.fx.experimental.symbolic_shapes import ShapeEnv  # it imports sympy

        # each size gets its own symbol, even where several sizes are equal now
        shapes = ShapeEnv(duck_shape=False)
        faker = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
        fakes: list[Any] = [
            *(_fake(faker, tensor, set()) for tensor in fixed),
            *(_fake(faker, tensor, dims) for tensor, dims in zip(inputs, dynamic, strict=True)),
        ]
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*fakes)
        around = lift_constants(graph)
        arguments = [*fakes, *(_fake(faker, tensor, set()) for tensor in _detached(around))]
        # the compiler's cache checks guards on sizes that are arguments, but not those on sizes of tensors
        call = compile_graph(graph, arguments, mode, {"force_disable_caches": True})
        sizes = [[_symbol(size) for size in fake.shape] for fake in fakes[count:]]
        # read after compiling, because the compiler adds guards where a decision depends on a size
        return _Graph(call, sizes, [guard.expr for guard in shapes.guards], around)

    def _run(self, graph: _Graph, fixed: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        outputs = graph.call(*fixed, *inputs, *_detached(graph.around))
        # a CUDA graph writes its outputs to the same memory at every replay
        if self.mode and _on_gpu(inputs):
            return tuple(output.clone() for output in outputs)
        return outputs


def _detached(tensors: Tensors) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors]


def _on_gpu(inputs: Tensors) -> bool:
    return any(tensor.is_cuda for tensor in inputs)


def _refuse_changes(fixed: Tensors, before: list[tuple[int, Tensor]]) -> None:
    """Undo changes that the trace has made to parameters and buffers, and raise RuntimeError where there are any.

    Every run of the graph would repeat such a change, so that the first step would make it twice.
    """
    changed = [i for i, tensor in enumerate(fixed) if tensor._version != before[i][0]]
    for i in changed:
        fixed[i].detach().copy_(before[i][1])
    if changed:
        raise RuntimeError("the function changes its parameters or buffers")


def compile_graph(
    graph: GraphModule, inputs: list[Any], mode: str | None, options: dict[str, Any] | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """Return the graph compiled by inductor. mode: the mode of torch.compile. options: options of inductor."""
    # the import takes a second and imports Triton, so it waits until it is needed
    from torch import _inductor

    by_mode = _inductor.list_mode_options(mode) if mode else {}
    # channels_last around the convolutions of a double backward costs more copies than it saves: it made
    # the training step of a small U-Net 1.2 times slower
    layout = {} if _on_gpu(inputs) else {"layout_optimization": False}
    compiled: Callable[..., tuple[Tensor, ...]] = _inductor.compile(
        graph, inputs, by_mode | layout | (options or {})
    )
    return compiled


def _state_of(fixed: Tensors, inputs: Tensors) -> Hashable:
    """Return everything besides sizes that a trace assumes about the tensors and about torch's state."""
    tensors = [*fixed, *inputs]
    device = tensors[-1].device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    kinds = tuple((tensor.dtype, tensor.device, tensor.dim()) for tensor in tensors)
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    # the compiler chooses kernels by these settings
    numerics = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    return kinds, tuple(t.stride() for t in fixed), autocast, modes, numerics


def _changed(inputs: Tensors, sizes: list[list[Any]] | None) -> list[set[int]]:
    """Return the dimensions of each input that differ from sizes, except those that are 0 or 1 now."""
    if sizes is None:
        return [set() for _ in inputs]
    return [
        {dim for dim, size in enumerate(tensor.shape) if size != expected[dim] and size > 1}
        for tensor, expected in zip(inputs, sizes, strict=True)
    ]


def _fake(mode: FakeTensorMode, tensor: Tensor, dynamic: set[int]) -> Tensor:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    kinds = [
        DimDynamic.DYNAMIC if dim in dynamic else DimDynamic.STATIC for dim in range(tensor.dim())
    ]
    # only the dimensions that were seen to change become symbols
    context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
    return mode.from_tensor(tensor, symbolic_context=context)


def _symbol(size: Any) -> Any:
    return size if isinstance(size, int) else size.node._expr
