"""Tensors that a traced function takes from elsewhere: they are constants of its graph, and become arguments here.

The compiler may copy the numbers of a small constant into its code, and the graph would miss a later change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_FRESH = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)


def lift_constants(graph: GraphModule) -> list[Tensor]:
    """Give a graph one more argument for each tensor that it reads as an attribute, and return these tensors.

    Tensors that the function made of numbers while it was traced stay constants. Raises RuntimeError where the
    graph changes one of the others, because the trace has changed it already.
    """
    nodes = graph.graph.nodes
    last = [node for node in nodes if node.op == "placeholder"][-1]
    lifted: dict[str, Node] = {}
    tensors = []
    for node in [*nodes]:
        if node.op != "get_attr" or not isinstance(getattr(graph, node.target, None), Tensor):
            continue
        if all(user.target in _FRESH for user in node.users):
            continue
        if any(_changes(user, node) for user in node.users):
            raise RuntimeError("the function changes a tensor that it was not given")
        if node.target not in lifted:
            with graph.graph.inserting_after(last):
                last = lifted[node.target] = graph.graph.placeholder(f"around{len(lifted)}")
            last.meta = dict(node.meta)
            tensors.append(getattr(graph, node.target))
        node.replace_all_uses_with(lifted[node.target])
        graph.graph.erase_node(node)
    graph.recompile()
    return tensors


def _changes(user: Node, node: Node) -> bool:
    """Return whether an operator writes to the tensor of a node."""
    schema: Any = getattr(user.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    given = zip(schema.arguments, user.args, strict=False)
    written = [value for argument, value in given if _is_written(argument)]
    written += [
        user.kwargs.get(argument.name) for argument in schema.arguments if _is_written(argument)
    ]
    return any(value is node for value in written)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
