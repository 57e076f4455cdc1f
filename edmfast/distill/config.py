"""The settings of a distillation run, and what follows from them at each step."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import torch

MODES = ("distill", "dsm")
SCHEDULES = ("cosine", "constant")
AUTOCAST = {None: None, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Settings of `distill`. Raises ValueError for a value out of range or an unknown name."""

    mode: str = "distill"
    """"distill": regress on the teacher's denoiser. "dsm": on the clean data, without a teacher."""
    steps: int = 2000
    batch_size: int = 128
    seed: int = 0
    """Of every random draw of the run."""

    p_mean: float = -1.2
    p_std: float = 1.2
    """ln(sigma) ~ N(p_mean, p_std²), in the units of the data."""
    label_dropout: float = 0.0
    """Probability that a class label is replaced by num_classes ("unconditional")."""

    learning_rate: float = 1e-3
    """Adam's, after warm-up."""
    warmup_steps: int = 100
    """Linear warm-up."""
    schedule: str = "cosine"
    """After warm-up: "cosine" to zero at the last step, or "constant"."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    """Largest global gradient norm; None to leave gradients alone."""
    ema_decay: float = 0.999
    """Of the averaged weights; min(ema_decay, (1 + k)/(10 + k)) at step k."""

    difference_weight: float = 0.0
    """Weight of the energy-difference loss (0: not computed)."""
    difference_sigmas: tuple[float, float] = (0.05, 20.0)
    """Lowest and highest noise level of its log-spaced schedules."""
    difference_steps: tuple[int, int] = (16, 128)
    """Fewest and most steps of those schedules."""

    autocast: str | None = None
    """"bfloat16": that of the student's matrix products and convolutions, see torch.autocast; loss, energy
    and weights keep theirs. None: everything in the student's dtype."""
    compile: bool = False
    """Trace loss and parameter gradients as one graph and compile it (minutes for a U-Net)."""
    checkpoint: str | os.PathLike[str] | None = None
    """safetensors file to write; None writes one only when interrupted."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is always one at the end."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, given {self.mode!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, given {self.schedule!r}")
        for name in ("steps", "batch_size", "checkpoint_every"):
            self._require(name, _is_int(getattr(self, name), 1), "a positive integer")
        if self.autocast not in AUTOCAST:
            raise ValueError(f"autocast must be one of {[*AUTOCAST]}, given {self.autocast!r}")
        self._require("warmup_steps", _is_int(self.warmup_steps, 0), "an integer >= 0")
        self._require("seed", _is_int(self.seed, 0), "an integer >= 0")
        self._require("p_mean", math.isfinite(self.p_mean), "finite")
        for name in ("p_std", "learning_rate"):
            value = getattr(self, name)
            self._require(name, math.isfinite(value) and value > 0, "positive and finite")
        self._require("label_dropout", 0 <= self.label_dropout <= 1, "within [0, 1]")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "within [0, 1)")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two within [0, 1)")
        if self.clip_norm is not None:
            self._require("clip_norm", self.clip_norm > 0, "positive, or None")
        weight = self.difference_weight
        self._require("difference_weight", math.isfinite(weight) and weight >= 0, "finite, >= 0")
        low, high = self.difference_sigmas
        self._require("difference_sigmas", 0 < low < high < math.inf, "0 < lowest < highest")
        fewest, most = self.difference_steps
        self._require("difference_steps", 1 <= fewest <= most, "1 <= fewest <= most")
        if weight > 0 and self.batch_size < 4:
            raise ValueError(
                f"difference_weight > 0 needs batch_size >= 4, given {self.batch_size}"
            )

    def _require(self, name: str, condition: bool, accepted: str) -> None:
        if not condition:
            raise ValueError(f"{name} must be {accepted}, given {getattr(self, name)!r}")

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return AUTOCAST[self.autocast]

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return self.learning_rate * warmup
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def ema_decay_at(self, step: int) -> float:
        """Decay of the averaged weights after step 0, 1, ...; small at first, so that the random
        start is soon forgotten."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    def trajectory(self) -> dict[str, Any]:
        """The JSON-able settings that the weights at a given step depend on."""
        settings = dataclasses.asdict(self)
        for name in ("checkpoint", "checkpoint_every", "compile"):
            del settings[name]
        if self.schedule == "constant":
            del settings["steps"]
        return {
            name: [*value] if isinstance(value, tuple) else value
            for name, value in settings.items()
        }


def _is_int(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest
