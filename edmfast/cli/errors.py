"""Print every error, warning and interrupt of a command as one line on stderr, and choose the exit code.

| exit code | meaning                                                         |
|-----------|-----------------------------------------------------------------|
| 1         | a fault that edmfast does not expect                            |
| 2         | a mistake in the request, or a missing resource such as memory  |
| 130       | Ctrl-C                                                          |

With EDMFAST_TRACEBACK=1 in the environment, errors show their traceback instead.
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
_LAST_PART = 200
"""Characters at the end of a long line that are kept."""
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
_OPTIONS = (
    ("pass overwrite=True", "add --overwrite"),
    (
        'pass condition_names={"class_label": NAME}',
        "add --set teacher.condition_names.class_label=NAME",
    ),
    ("give data.shape, such as [3, 32, 32]", "add --set data.shape=[3,32,32]"),
    ("open_data(data, labels=False) leaves", "--set data.labels=false leaves"),
    (
        'pass backbone=, its own network, such as backbone=edmfast.models.UNet(3) with start="zero"',
        "give the student a network of its own by --network, such as --network UNet "
        "--set student.config.in_channels=3",
    ),
    ("pass sigma_data=,", "add --set student.sigma_data=NUMBER,"),
)
"""Pieces of messages with Python arguments, and what they are on the command line."""


@contextmanager
def errors_on_one_line(command: str) -> Iterator[None]:
    """Run the body of a command, and print each of its errors and warnings as one line on stderr.

    Raises typer.Exit with the exit code of an error.
    """

    def print_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        typer.echo(f"edmfast {command}: note: {one_line(str(message))}", err=True)

    with warnings.catch_warnings():
        # Python's own format takes two lines and names a source file
        warnings.showwarning = print_warning
        try:
            yield
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # a broken pipe ends the command quietly, because the reader of its output has gone
        except KeyboardInterrupt as interrupt:
            text = _with_option_names(one_line(str(interrupt))) or "interrupted"
            typer.echo(f"edmfast {command}: {text}", err=True)
            # this is the exit code that shells give to a process that Ctrl-C has ended
            raise typer.Exit(130) from interrupt
        except Exception as error:
            if os.environ.get(_TRACEBACK) == "1":
                raise
            typer.echo(f"edmfast {command}: {describe(error)}", err=True)
            raise typer.Exit(2 if isinstance(error, _EXPECTED) else 1) from error


def describe(error: Exception) -> str:
    """Return one line that says what went wrong."""
    text = _with_option_names(one_line(str(error)))
    # torch raises RuntimeError where it runs out of memory
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return f"out of memory: {text or 'use fewer particles, populations or steps'}"
    if isinstance(error, RecursionError):
        return f"nested too deeply: {text}"
    if isinstance(error, _EXPECTED):
        return text or type(error).__name__
    return (
        f"unexpected {type(error).__name__}: {text} (this is a fault of edmfast: "
        f"{_TRACEBACK}=1 shows where)"
    )


def _with_option_names(text: str) -> str:
    """Return a message of the library with command-line options in place of Python arguments."""
    for python, option in _OPTIONS:
        text = text.replace(python, option)
    text = re.sub(r"continue with resume_from='[^']*'", "--resume continues the run", text)
    return re.sub(r"--resume='([^']*)'", r"--resume \1", text)


def one_line(text: str) -> str:
    """Return the text on one line of at most 600 printable characters; a longer line loses its middle."""
    line = " ".join(text.split())
    # control characters from a file name could change the terminal
    line = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST - _LAST_PART - 3]} … {line[-_LAST_PART:]}"
