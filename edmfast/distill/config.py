"""The settings of a distillation run, and what follows from them at each step."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import torch

from edmfast._internal.numbers import as_float, as_int, as_pair, as_seed, check_level

MODES = ("distill", "dsm")
SCHEDULES = ("cosine", "constant")
AUTOCAST = {None: None, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Settings of `distill`. Raises ValueError for a value out of range or an unknown name, TypeError for a value
    that is no number where one belongs."""

    mode: str = "distill"
    """"distill": regress on the teacher's denoiser. "dsm": on the clean data, without a teacher."""
    steps: int = 2000
    batch_size: int = 128
    seed: int = 0
    """64 bits, of every random draw of the run."""

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
    """Weight of the energy-difference loss (0: not computed).

    It makes energies less noisy at small noise levels, at the price of the denoiser. Perceptrons on digits,
    5,000 steps at 512: the total variance of log-weights below noise level 0.3 falls from 8.1 to 3.7 nats² with
    0.05, and stays at 2.3 above it (`python -m bench.studies.control`, bench/results). Those of the demo, 1,500
    steps: Fréchet distance 1.10 times the teacher's at 0, 1.38 times at 0.05. So take 0.05 for an energy that is
    to weigh below noise level 0.3 (of data about 0.5 wide), and 0 where weights end above it."""
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
        if self.autocast not in AUTOCAST:
            raise ValueError(f"autocast must be one of {[*AUTOCAST]}, given {self.autocast!r}")
        for name, value in self._converted().items():
            object.__setattr__(self, name, value)
        self._check()

    def _converted(self) -> dict[str, Any]:
        """Every number as a Python int or float, which JSON and hashing take, within its own range."""
        counts = {"steps": 1, "batch_size": 1, "checkpoint_every": 1, "warmup_steps": 0}
        found: dict[str, Any] = {
            name: as_int(name, getattr(self, name), least=least) for name, least in counts.items()
        }
        found["seed"] = as_seed(self.seed)
        found["p_mean"] = as_float("p_mean", self.p_mean)
        for name in ("p_std", "learning_rate"):
            found[name] = as_float(name, getattr(self, name), positive=True)
        found["difference_weight"] = as_float("difference_weight", self.difference_weight, least=0)
        found["label_dropout"] = as_float("label_dropout", self.label_dropout, least=0, most=1)
        found["ema_decay"] = as_float("ema_decay", self.ema_decay, least=0)
        betas = as_pair("betas", self.betas)
        found["betas"] = tuple(as_float("betas", beta, least=0) for beta in betas)
        if self.clip_norm is not None:
            found["clip_norm"] = as_float("clip_norm", self.clip_norm, positive=True, finite=False)
        sigmas = as_pair("difference_sigmas", self.difference_sigmas)
        found["difference_sigmas"] = tuple(as_float("difference_sigmas", s) for s in sigmas)
        steps = as_pair("difference_steps", self.difference_steps)
        found["difference_steps"] = tuple(as_int("difference_steps", step) for step in steps)
        return found

    def _check(self) -> None:
        self._require("ema_decay", self.ema_decay < 1, "within [0, 1)")
        self._require("betas", max(self.betas) < 1, "two within [0, 1)")
        low, high = self.difference_sigmas
        self._require("difference_sigmas", 0 < low < high, "0 < lowest < highest")
        for sigma in self.difference_sigmas:
            check_level("difference_sigmas", sigma, torch.float32)
        fewest, most = self.difference_steps
        self._require("difference_steps", 1 <= fewest <= most, "1 <= fewest <= most")
        for sign in (-1, 1):
            # all but one in 1e9 draws of a normal variable lie within six standard deviations
            exponent = self.p_mean + sign * 6 * self.p_std
            level = math.exp(max(-700.0, min(700.0, exponent)))
            check_level(
                "exp(p_mean ± 6 p_std), the noise levels of training,", level, torch.float32
            )
        if self.difference_weight > 0 and self.batch_size < 4:
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
