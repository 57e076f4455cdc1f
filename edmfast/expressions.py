"""Targets written as text: `guided(conditioned(a, class_label=10), product([a, b]), 1.5)`.

An expression is parsed into a tree and only these are understood, never evaluated as code: names of the given
models; calls of the functions below, with positional or keyword arguments as their classes have them; numbers
with a sign; lists. A list of numbers where a number is expected gives each population its own.

    tempered(model, gamma)          product(models, exponents)          guided(base, model, weight)
    conditioned(model, name=value or values)
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from edmfast.models import Conditioned, Guided, Mixture, Product, Tempered

_LONGEST = 10_000


class ExpressionError(ValueError):
    """An expression that is not understood; the message is one line that says where."""


def parse_target(expression: str, models: Mapping[str, Any]) -> Any:
    """The target that an expression describes, made of the models it names.

    Raises ExpressionError for anything that is not in the list above, unknown names and arguments that the
    class refuses, and for a model whose name is that of a function.
    """
    for name in models:
        if name in FUNCTIONS or not name.isidentifier():
            raise ExpressionError(f"a model cannot be called {name!r}")
    if len(expression) > _LONGEST:
        raise ExpressionError(f"an expression has at most {_LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        found = _read(tree.body, models)
    except SyntaxError as error:
        raise ExpressionError(f"cannot read {expression!r}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise ExpressionError("the expression is nested too deeply") from error
    if isinstance(found, (int, float, list)):
        raise ExpressionError(f"{expression!r} is not a target")
    return found


def _read(node: ast.expr, models: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        if node.id not in models:
            raise ExpressionError(f"unknown name {node.id!r}; models: {', '.join(models)}")
        return models[node.id]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _read(node.operand, models)
        if isinstance(number, (int, float)):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read(item, models) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node, node.func.id, models)
    raise ExpressionError(
        f"cannot use {ast.unparse(node)!r} in a target: it takes models, numbers, lists and "
        f"{', '.join(FUNCTIONS)}"
    )


def _call(node: ast.Call, name: str, models: Mapping[str, Any]) -> Any:
    if name not in FUNCTIONS:
        raise ExpressionError(f"unknown function {name!r}; known: {', '.join(FUNCTIONS)}")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ExpressionError(f"cannot use ** in a call of {name}")
    function = FUNCTIONS[name]
    positional = [_read(argument, models) for argument in node.args]
    named = {str(keyword.arg): _read(keyword.value, models) for keyword in node.keywords}
    try:
        inspect.signature(function).bind(*positional, **named)
        return function(*positional, **named)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ExpressionError(f"{name}: {error}".splitlines()[0]) from error


def _tempered(model: Any, gamma: Any) -> Tempered:
    return Tempered(model, _exponent(gamma))


def _product(models: Any, exponents: Any = None) -> Product:
    if not isinstance(models, list) or not isinstance(exponents, (list, type(None))):
        raise TypeError("models and exponents must be lists")
    return Product(models, None if exponents is None else [_exponent(a) for a in exponents])


def _guided(base: Any, model: Any, weight: Any) -> Guided:
    return Guided(base, model, _exponent(weight))


def _mixture(models: Any, weights: Any = None) -> Mixture:
    if not isinstance(models, list) or not isinstance(weights, (list, type(None))):
        raise TypeError("models and weights must be lists")
    return Mixture(models, weights)


def _conditioned(model: Any, /, **condition: Any) -> Conditioned:
    bound = {
        name: torch.tensor(value) if isinstance(value, list) else value
        for name, value in condition.items()
    }
    return Conditioned(model, **bound)


def _exponent(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tempered": _tempered,
    "product": _product,
    "guided": _guided,
    "mixture": _mixture,
    "conditioned": _conditioned,
}
