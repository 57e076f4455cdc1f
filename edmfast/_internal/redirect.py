"""Redirection of functions of torch.nn.functional to other functions, in one thread and for a while.

torch's modules look these functions up when they are called, and so does code that writes `F.dropout`. A name that
was imported with `from torch.nn.functional import dropout` cannot be redirected.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.nn import functional

# Blocks of several threads may begin and end at the same time.
_lock = threading.Lock()
_thread = threading.local()
_originals: dict[str, Callable[..., Any]] = {}
_running: dict[str, int] = {}


def _dispatcher(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        # Other threads may call the function while it is redirected in this one.
        stack = getattr(_thread, name, None)
        return (stack[-1] if stack else original)(*args, **kwargs)

    return dispatch


@contextlib.contextmanager
def redirected(**functions: Callable[..., Any]) -> Iterator[None]:
    """Redirect this thread's calls of the named functions of torch.nn.functional within the block."""
    for name, function in functions.items():
        with _lock:
            _running[name] = _running.get(name, 0) + 1
            # Only the first of nested or concurrent blocks replaces the function, and the last one
            # restores it.
            if _running[name] == 1:
                _originals[name] = getattr(functional, name)
                setattr(functional, name, _dispatcher(name, _originals[name]))
        vars(_thread).setdefault(name, []).append(function)
    try:
        yield
    finally:
        for name in functions:
            vars(_thread)[name].pop()
            with _lock:
                _running[name] -= 1
                if not _running[name]:
                    setattr(functional, name, _originals.pop(name))


def current() -> dict[str, Callable[..., Any]]:
    """Return the functions to which this thread's calls are redirected now, by their names."""
    return {name: stack[-1] for name, stack in vars(_thread).items() if stack}


def is_redirected(name: str) -> bool:
    """Return whether this thread's calls of a function of torch.nn.functional are redirected now."""
    return bool(getattr(_thread, name, None))


def original(name: str) -> Callable[..., Any]:
    """Return a function of torch.nn.functional as it is outside of `redirected`."""
    with _lock:
        function: Callable[..., Any] = _originals.get(name) or getattr(functional, name)
    return function
