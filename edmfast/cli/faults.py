"""Turn whatever stops a command into one line on stderr and an exit code.

2: something is wrong with the request, or a resource is missing. 1: a fault that edmfast does not expect.
130: Ctrl-C. A traceback is printed only where EDMFAST_TRACEBACK=1 asks for it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import typer

_LONGEST = 600
_EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
)
_TRACEBACK = "EDMFAST_TRACEBACK"


@contextmanager
def told(command: str) -> Iterator[None]:
    """Run a command so that every error, interrupt and warning in it becomes one line of stderr."""

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        typer.echo(f"edmfast {command}: note: {one_line(str(message))}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            yield
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # the last one closes the command quietly: who read the output has gone
        except KeyboardInterrupt as stopped:
            typer.echo(f"edmfast {command}: {one_line(str(stopped)) or 'interrupted'}", err=True)
            raise typer.Exit(130) from stopped
        except Exception as error:
            if os.environ.get(_TRACEBACK) == "1":
                raise
            typer.echo(f"edmfast {command}: {describe(error)}", err=True)
            raise typer.Exit(2 if isinstance(error, _EXPECTED) else 1) from error


def describe(error: Exception) -> str:
    """Return one line that says what went wrong."""
    text = _of_the_command_line(one_line(str(error)))
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return f"out of memory: {text or 'fewer particles, populations or steps need less'}"
    if isinstance(error, RecursionError):
        return f"nested too deeply: {text}"
    if isinstance(error, _EXPECTED):
        return text or type(error).__name__
    return (
        f"unexpected {type(error).__name__}: {text} (this is a fault of edmfast: "
        f"{_TRACEBACK}=1 shows where)"
    )


def _of_the_command_line(text: str) -> str:
    """Return a message of the library with the options of the command line in place of Python's arguments."""
    text = text.replace("overwrite=True", "--overwrite").replace("say overwrite", "add --overwrite")
    return re.sub(r"--resume='([^']*)'", r"--resume \1", text)


def one_line(text: str) -> str:
    """Return the text on one line of at most 600 characters, the middle left out where it is longer."""
    line = " ".join(text.split())
    line = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST - 203]} … {line[-200:]}"
