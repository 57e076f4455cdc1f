"""Save what a run has done: checkpoints on the way, and the last whole step of a run that an error ends.

A checkpoint that cannot be written is no reason to end a run: the run goes on, and warns once.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from edmfast._internal.atomic_write import check_checkpoint, write_or_fall_back
from edmfast._internal.file_kinds import RUN_CHECKPOINT
from edmfast._internal.interrupts import warn_if_ignored
from edmfast.smc.checkpoint.file import load_state, save_state
from edmfast.smc.distributed.share import Share
from edmfast.smc.options import Checkpoint
from edmfast.smc.state import State


class Keeper:
    """Writes and reads the checkpoints of one call of `smc.sample`.

    share: this rank's share of the run, or None for one process. Raises as
    `edmfast._internal.atomic_write.check_checkpoint` does on the rank that writes; the other ranks learn of it by
    `agree`.
    """

    def __init__(self, checkpoint: Checkpoint, share: Share | None) -> None:
        self.path = None if checkpoint.path is None else Path(checkpoint.path)
        self.checkpoint, self.share, self.failed = checkpoint, share, False
        self.agreement: list[Any] = [self.path is not None, checkpoint.every]
        self.fault: Exception | None = None
        if self.path is None or not (share is None or share.speaks):
            return
        warn_if_ignored(stacklevel=4)
        try:
            check_checkpoint(
                self.path,
                RUN_CHECKPOINT,
                checkpoint.resume_from,
                resume_name="resume_from",
                overwrite=checkpoint.overwrite,
                wording=lambda fields: (
                    f"checkpoint=smc.Checkpoint({str(checkpoint.path)!r}, {fields})"
                ),
            )
        except (OSError, ValueError) as error:
            if share is None:
                raise
            # the other ranks wait for this one: they must all learn of it
            self.fault = error
            self.agreement.append(str(error))

    @property
    def used(self) -> bool:
        """True where the run writes checkpoints or resumes from one."""
        return self.path is not None or self.checkpoint.resume_from is not None

    def agree(self, share: Share, description: dict[str, Any]) -> None:
        """Raise, on all ranks, where they were called with different arguments or one cannot write its path."""
        resumes = self.checkpoint.resume_from is not None
        try:
            share.agree({**description, "checkpoint": self.agreement, "resume_from": resumes})
        except ValueError as error:
            raise self.fault or error from error

    def load(self, description: dict[str, Any], device: torch.device) -> State | None:
        """Return the state to resume from, or None for a run that starts anew. Raises as `load_state` does."""
        path = self.checkpoint.resume_from
        if path is None:
            return None
        if self.share is None:
            return load_state(path, description, device)
        return self.share.load(path, description)

    def after_step(self, state: State, description: dict[str, Any]) -> None:
        """Write a checkpoint every few steps. Warns the first time that it cannot be written."""
        if self.path is None or state.index % self.checkpoint.every:
            return
        try:
            self._save(self.path, state, description)
        except OSError as error:
            if not self.failed:
                warnings.warn(
                    f"the checkpoint at step {state.index} could not be written, the run goes on: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
            self.failed = True

    def rescue(self, error: BaseException, state: State, description: dict[str, Any]) -> None:
        """Write the last whole step of a run that an error ends, and warn where it is.

        Where the disk of the checkpoint is full, the folder for temporary files takes it. The caller raises the
        error itself.
        """
        # ranks that are interrupted at different steps cannot write one checkpoint
        if self.path is None or self.share is not None:
            return
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped by {error!r}"

        def save(path: Path) -> None:
            self._save(path, state, description)

        try:
            path, failure = write_or_fall_back(save, self.path)
        except Exception as failed:
            # the caller raises the error that ended the run, so this one only warns
            message = f"the last step could not be written to {self.path}: {failed!r}"
            warnings.warn(f"{reason}, and {message}", stacklevel=4)
            return
        because = "" if failure is None else f", as {self.path} cannot be written: {failure}"
        warnings.warn(f"{reason}; the run is in {path}{because}", stacklevel=4)

    def _save(
        self, path: str | os.PathLike[str], state: State, description: dict[str, Any]
    ) -> None:
        if self.share is None:
            save_state(path, state, description)
        else:
            self.share.save(path, state, description)
