"""Read targets that are written as text: `guided(conditioned(a, class_label=10), product([a, b]), 1.5)`.

An expression is parsed into a tree and never run as code. It may hold the names of the given models, signed
numbers, lists, and calls of the functions below, with the positional or keyword arguments of their classes. A
list of numbers in place of one number gives every population its own.

    tempered(model, gamma)          product(models, exponents)          guided(base, model, weight)
    mixture(models, weights)        conditioned(model, name=value or values)

An expression has at most 10,000 characters, and calls nest at most 32 deep.
"""

from __future__ import annotations

import ast
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from edmfast.targets import Conditioned, Guided, Mixture, Product, Tempered

_LONGEST = 10_000
_DEEPEST = 32
_INT64 = 2**63


class ExpressionError(ValueError):
    """Error for an expression that cannot be read; its message is one line that says where."""


def parse_target(expression: str, models: Mapping[str, Any]) -> Any:
    """Return the target that an expression describes, made of the models that it names.

    Raises ExpressionError for anything that is not in the list above, for unknown names, for arguments that a
    class refuses, and for a model with the name of a function.
    """
    for name in models:
        if name in FUNCTIONS or not name.isidentifier():
            raise ExpressionError(
                f"a model cannot be called {name!r}: its name must be an identifier and no function"
            )
    if len(expression) > _LONGEST:
        raise ExpressionError(
            f"an expression has at most {_LONGEST} characters, got {len(expression)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "2(a)" is refused below
            tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"cannot read {expression!r}: {error.msg}") from error
    except ValueError as error:  # a NUL character, or half of a surrogate pair
        raise ExpressionError(f"cannot read {expression!r}: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise ExpressionError(
            f"the expression is nested too deeply: at most {_DEEPEST} deep"
        ) from error
    target = _read(tree.body, models)
    if isinstance(target, (int, float, list)):
        raise ExpressionError(f"{expression!r} is not a target: write a model or a call")
    return target


def _read(node: ast.expr, models: Mapping[str, Any], depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ExpressionError(f"the expression is nested too deeply: at most {_DEEPEST} deep")
    if isinstance(node, ast.Name):
        if node.id not in models:
            raise ExpressionError(f"unknown name {node.id!r}; models: {', '.join(models)}")
        return models[node.id]
    # bool is a subclass of int, but True is no number here
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _read(node.operand, models, depth + 1)
        if isinstance(number, (int, float)):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read(item, models, depth + 1) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node, node.func.id, models, depth + 1)
    try:
        text = repr(ast.unparse(node))
    except (RecursionError, ValueError):  # too deep, or an integer too long to print
        text = "this"
    raise ExpressionError(
        f"cannot use {text} in a target: it takes models, numbers, lists and {', '.join(FUNCTIONS)}"
    )


def _number(value: int | float) -> int | float:
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"numbers must be finite, got {value}")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        # the message leaves the integer out, since python refuses to print very long ones
        raise ExpressionError("integers must fit 64 bits")
    return value


def _call(node: ast.Call, name: str, models: Mapping[str, Any], depth: int) -> Any:
    if name not in FUNCTIONS:
        raise ExpressionError(f"unknown function {name!r}; known: {', '.join(FUNCTIONS)}")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ExpressionError(f"cannot use ** in a call of {name}: name every argument")
    function = FUNCTIONS[name]
    positional = [_read(argument, models, depth) for argument in node.args]
    named = {str(keyword.arg): _read(keyword.value, models, depth) for keyword in node.keywords}
    try:
        # bind gives a short message about missing and unknown arguments
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


# the first argument is positional only, so a condition may be called model as well
def _conditioned(model: Any, /, **condition: Any) -> Conditioned:
    for name, value in condition.items():
        if isinstance(value, list) and not value:
            raise ValueError(f"{name} is an empty list")
    # a list of values becomes one value for each population
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
