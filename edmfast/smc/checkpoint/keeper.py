"""Keep what a run has done: checkpoints on the way, and the last whole step of a run that an error ends.

A checkpoint that cannot be written is no reason to end a run: it goes on, and says so once.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edmfast._internal.atomic_write import check_checkpoint, write_or_fall_back
from edmfast._internal.file_kinds import RUN_CHECKPOINT
from edmfast._internal.interrupts import warn_if_ignored
from edmfast.smc.distributed.share import Share
from edmfast.smc.state import State


class Keeper:
    """Writes the checkpoints of one call of `smc.sample`, whose arguments these are.

    Raises as `edmfast._internal.atomic_write.check_checkpoint` does, on the rank that writes; the other ranks
    learn of it by `told`, in which the ranks must agree.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        every: int,
        resume: str | os.PathLike[str] | None,
        overwrite: bool,
        share: Share,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.every, self.share, self.failed = every, share, False
        self.told: list[Any] = [path is not None, every]
        self.fault: Exception | None = None
        if path is None or not share.speaks:
            return
        warn_if_ignored(stacklevel=4)
        try:
            options: dict[str, Any] = {"resume_name": "resume", "overwrite": overwrite}
            check_checkpoint(path, RUN_CHECKPOINT, resume, **options)
        except (OSError, ValueError) as error:
            if share.ranks is None:
                raise
            # the other ranks wait for this one: they must all learn of it
            self.fault = error
            self.told.append(str(error))

    @contextlib.contextmanager
    def naming_fault(self) -> Iterator[None]:
        """Within, where the ranks find that they differ, raise what this rank has found wrong with the path."""
        try:
            yield
        except ValueError as error:
            raise self.fault or error from error

    def after_step(self, state: State, run: dict[str, Any]) -> None:
        """Write a checkpoint every `every` steps. Warns the first time that it cannot be written."""
        if self.path is None or state.index % self.every:
            return
        try:
            self.share.save(self.path, state, run)
        except OSError as error:
            if not self.failed:
                warnings.warn(
                    f"the checkpoint at step {state.index} could not be written, the run goes on: {error}",
                    RuntimeWarning,
                    stacklevel=3,
                )
            self.failed = True

    def rescue(self, error: BaseException, state: State, run: dict[str, Any]) -> None:
        """Write the last whole step of a run that an error ends, in the folder for temporary files where the
        disk of the checkpoint is full, and say where. The error itself is for the caller to raise."""
        # ranks that are interrupted at different steps cannot write one checkpoint
        if self.path is None or self.share.ranks is not None:
            return
        told = "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped by {error!r}"
        try:
            path, failure = write_or_fall_back(
                lambda place: self.share.save(place, state, run), self.path
            )
        except Exception as failure:
            message = f"the last step could not be written to {self.path}: {failure!r}"
            warnings.warn(f"{told}, and {message}", stacklevel=3)
            return
        because = "" if failure is None else f", as {self.path} cannot be written: {failure}"
        warnings.warn(f"{told}; the run is in {path}{because}", stacklevel=3)
