"""A function whose derivatives are taken inside it, traced as one flat graph and compiled.

A score is a gradient and a training step takes the gradient of a gradient; torch.compile's own autograd has
no double backward (pytorch issue 91469). So make_fx traces everything into one graph of plain operators,
in which ours are single nodes; it needs no derivative any more, and inductor compiles it as it is. Sizes of
the first call are constants. Those that differ from it at a later call are symbols there: a changed batch
size costs one more compilation, and the next ones none unless the compiler decides something by them.
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

Tensors = Sequence[Tensor]
Function = Callable[[Tensors, Tensors], tuple[Tensor, ...]]
"""(fixed, inputs) -> outputs. The sizes of the fixed tensors, parameters as a rule, never change."""

MOST_GRAPHS = 8
"""Graphs of one key. More changes of size than that are run without a graph."""


class _Graph(NamedTuple):
    call: Callable[..., tuple[Tensor, ...]]
    sizes: list[list[Any]]
    """Per dimension of each input a number, or the symbol of the tracer."""
    guards: list[Any]
    """What the trace took for true of the symbols."""

    def fits(self, inputs: Tensors) -> bool:
        from sympy import Integer  # importing it takes as long as importing all of edmfast

        values: dict[Any, Integer] = {}
        for tensor, sizes in zip(inputs, self.sizes, strict=True):
            for size, wanted in zip(tensor.shape, sizes, strict=True):
                if isinstance(wanted, int):
                    if size != wanted:
                        return False
                elif size < 2:  # the tracer holds 0 and 1 apart from all other sizes
                    return False
                else:
                    values[wanted] = Integer(size)
        return all(bool(guard.xreplace(values)) for guard in self.guards)


# torch's tracer and its compiler are not made for several threads at once
_tracing = threading.RLock()


class FlatGraph:
    """Calls function by compiled flat graphs; what the caller would do without, after one warning naming the
    reason, where tracing or compiling fails.

    otherwise: what the warning says happens instead. mode: of torch.compile, on a GPU only.
    """

    def __init__(self, function: Function, *, otherwise: str, mode: str | None = None) -> None:
        self.function, self.otherwise, self.mode = function, otherwise, mode
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
        """eager: the same without a graph. key: of whatever else the trace depends on."""
        if self.failed:
            return eager()
        given = [tensor.contiguous() for tensor in inputs]  # a graph is for one order of strides
        try:
            graph = self._graph(fixed, given, key)
            if graph is not None:
                return self._run(graph, fixed, given)
            reason = f"more than {MOST_GRAPHS} sizes of inputs"
        # Whatever the tracer or the compiler stumbles over, the function itself is still right.
        except Exception as error:
            message = (str(error).strip() or "no message").splitlines()[0]
            reason = f"{type(error).__name__}: {message}"
        outputs = eager()  # first: a mistake of the caller's raises, and costs no compilation
        self.failed = True
        warnings.warn(f"compile=True failed, {self.otherwise}: {reason}", stacklevel=3)
        return outputs

    def _graph(self, fixed: Tensors, inputs: Tensors, key: Hashable) -> _Graph | None:
        state = key, _state_of(fixed, inputs)
        sizes = tuple(tensor.shape for tensor in inputs)
        if found := self.chosen.get((state, sizes)):
            return found
        known = self.graphs.setdefault(state, [])
        found = next((graph for graph in known if graph.fits(inputs)), None)
        if found is None and len(known) < MOST_GRAPHS:
            with _tracing:
                changed = _changed(inputs, known[0].sizes if known else None)
                found = self._trace(fixed, inputs, changed)
            known.append(found)
        if found is not None:
            self.chosen[state, sizes] = found
        return found

    def _trace(self, fixed: Tensors, inputs: Tensors, dynamic: list[set[int]]) -> _Graph:
        given: list[Any] = [*fixed, *inputs]
        count = len(fixed)

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            return self.function(tensors[:count], tensors[count:])

        mode = self.mode if _on_gpu(inputs) else None
        if not any(dynamic):
            before = [(tensor._version, tensor.clone()) for tensor in fixed]
            graph = make_fx(function)(*given)
            _refuse_changes(fixed, before)
            call = compile_graph(graph, given, mode)
            return _Graph(call, [[*tensor.shape] for tensor in inputs], [])
        from torch.fx.experimental.symbolic_shapes import ShapeEnv  # it imports sympy

        # one symbol to a size, though several be alike now
        shapes = ShapeEnv(duck_shape=False)
        faker = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
        fakes: list[Any] = [
            *(_fake(faker, tensor, set()) for tensor in fixed),
            *(_fake(faker, tensor, dims) for tensor, dims in zip(inputs, dynamic, strict=True)),
        ]
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*fakes)
        # the compiler's cache looks at guards of sizes that are arguments only, not at those of tensors
        call = compile_graph(graph, fakes, mode, {"force_disable_caches": True})
        sizes = [[_symbol(size) for size in fake.shape] for fake in fakes[count:]]
        # the compiler adds guards too, where it decides by a size
        return _Graph(call, sizes, [guard.expr for guard in shapes.guards])

    def _run(self, graph: _Graph, fixed: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        outputs = graph.call(*fixed, *inputs)
        # a CUDA graph writes its outputs to the same place at every replay
        if self.mode and _on_gpu(inputs):
            return tuple(output.clone() for output in outputs)
        return outputs


def _on_gpu(inputs: Tensors) -> bool:
    return any(tensor.is_cuda for tensor in inputs)


def _refuse_changes(fixed: Tensors, before: list[tuple[int, Tensor]]) -> None:
    """Undoes what the trace has done to parameters and buffers, and raises where it has: every run of the
    graph would do it again, and the first one twice."""
    changed = [i for i, tensor in enumerate(fixed) if tensor._version != before[i][0]]
    for i in changed:
        fixed[i].detach().copy_(before[i][1])
    if changed:
        raise RuntimeError("the function changes its parameters or buffers")


def compile_graph(
    graph: GraphModule, inputs: list[Any], mode: str | None, options: dict[str, Any] | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """By inductor, which takes a second to import and imports Triton: not before it is needed."""
    from torch import _inductor

    by_mode = _inductor.list_mode_options(mode) if mode else {}
    # channels_last around the convolutions of a double backward costs more copies than it saves: the step of
    # a small U-Net was 1.2 times slower with it
    layout = {} if _on_gpu(inputs) else {"layout_optimization": False}
    return _inductor.compile(graph, inputs, by_mode | layout | (options or {}))


def _state_of(fixed: Tensors, inputs: Tensors) -> Hashable:
    """What else of torch's state and of the tensors a trace has for granted."""
    tensors = [*fixed, *inputs]
    device = tensors[-1].device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    kinds = tuple((tensor.dtype, tensor.device, tensor.dim()) for tensor in tensors)
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    numerics = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    return kinds, tuple(t.stride() for t in fixed), autocast, modes, numerics


def _changed(inputs: Tensors, sizes: list[list[Any]] | None) -> list[set[int]]:
    """The dimensions of each input that differ from sizes, but for those that are 0 or 1 now."""
    if sizes is None:
        return [set() for _ in inputs]
    return [
        {dim for dim, size in enumerate(tensor.shape) if size != wanted[dim] and size > 1}
        for tensor, wanted in zip(inputs, sizes, strict=True)
    ]


def _fake(mode: FakeTensorMode, tensor: Tensor, dynamic: set[int]) -> Tensor:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    kinds = [
        DimDynamic.DYNAMIC if dim in dynamic else DimDynamic.STATIC for dim in range(tensor.dim())
    ]
    context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
    return mode.from_tensor(tensor, symbolic_context=context)


def _symbol(size: Any) -> Any:
    return size if isinstance(size, int) else size.node._expr
