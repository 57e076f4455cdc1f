"""Loggers: where the measures of a training run go while it runs.

A logger is any callable logger(step, values). The measures are loss (the mean since the last record),
gradient_norm, learning_rate, steps_per_second, samples_per_second, seconds_left and memory_gib.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """A callable that receives the measures of a run from time to time."""

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Take the measures after so many steps."""
        ...


class JsonLines:
    """A logger that appends one JSON object per record to a file, such as {"step": 50, "loss": 0.31, ...}.

    A record that is not finite is written as null. A run that is resumed first removes the records of steps that
    it repeats, so that each step stands in the file once.

    Args:
        path: the file, whose folder must exist.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ValueError: a file that holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"the folder of {self.path} does not exist")
        self._last = max(_steps(self.path), default=-1)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Append the measures after so many steps."""
        if step <= self._last:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] < step]
            self.path.write_text("".join(kept), encoding="utf-8")
        finite = {n: float(v) if math.isfinite(v) else None for n, v in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._last = step


class TensorBoard:
    """A logger that writes scalars for TensorBoard, which needs the package tensorboard.

    Args:
        folder: the folder of the run's event files, which is made.
        prefix: what the names of the scalars start with.

    Raises:
        ImportError: the package tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, prefix: str = "train/") -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "edmfast.distill.TensorBoard needs the package tensorboard: pip install tensorboard"
            ) from error
        self.prefix = prefix
        self._writer: Any = SummaryWriter(os.fspath(folder))

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Write the measures after so many steps."""
        for name, value in values.items():
            self._writer.add_scalar(self.prefix + name, value, step)
        self._writer.flush()


class WeightsAndBiases:
    """A logger that sends the measures to a run of Weights & Biases, which needs the package wandb.

    Args:
        run: a run that wandb.init has returned; None starts one with the further arguments.
        options: arguments of wandb.init, such as project="edm" and mode="offline".

    Raises:
        ImportError: the package wandb is not installed.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        if run is None:
            try:
                import wandb
            except ImportError as error:
                raise ImportError(
                    "edmfast.distill.WeightsAndBiases needs the package wandb: pip install wandb"
                ) from error
            run = wandb.init(**options)
        self.run = run

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Send the measures after so many steps."""
        self.run.log(dict(values), step=step)


def _steps(path: Path) -> list[int]:
    """Return the steps of the records in a file. Raises ValueError for a file that holds something else."""
    if not path.exists():
        return []
    try:
        return [int(json.loads(line)["step"]) for line in path.read_text("utf-8").splitlines()]
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} holds no records of a training run: {error}") from error
