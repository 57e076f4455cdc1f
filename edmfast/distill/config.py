"""The settings of a distillation run, and the learning rate and averaging that follow from them at each step."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import torch

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_bool, as_float, as_int, as_pair, as_seed
from edmfast.distill.averages.power_function import as_widths
from edmfast.distill.time_score import ROWS

MODES = ("distill", "dsm", "two_heads")
SCHEDULES = ("cosine", "constant")
_LEAST_STEP = 1e-5
"""The smallest logarithm of the ratio of two neighbouring levels of a schedule."""
AUTOCAST = {None: None, "bfloat16": torch.bfloat16}
_WITHOUT_EFFECT = (
    "checkpoint",
    "checkpoint_every",
    "compile",
    "accumulate",
    "keep_last",
    "keep_best",
    "log_every",
    "activation_checkpointing",
    "shard",
    "snapshot_every",
    "snapshot_folder",
)

# the compiler orders and fuses the whole graph, so that recomputed activations live as long as others: for a
# transformer of 14 blocks it needs 0.43 times the memory of a plain step, with and without recomputation
ONE_OF_BOTH = (
    "recomputation saves no memory inside a compiled graph. Choose compile=True for speed, which needs about half "
    "the memory of a plain step, or activation_checkpointing=True or shard=True for the least memory"
)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """The settings of `distill`.

    The energy-difference loss makes energies less noisy at small noise levels, at the price of the denoiser. For
    perceptrons on digits (5,000 steps of 512 samples) a weight of 0.05 reduces the total variance of log-weights
    below noise level 0.3 from 8.1 to 3.7 nats², and leaves it at 2.3 above that level; bench/studies/control
    measures it. For wider perceptrons (1,500 steps) the Fréchet distance is 1.10 times the
    teacher's at weight 0, and 1.38 times at 0.05. So use 0.05 for an energy whose weights are needed below noise
    level 0.3 (for data about 0.5 wide), and 0 where weighting ends above it.

    The value loss regresses the energy on the log-density of the teacher. Scores hardly show how probable two
    modes are against each other, and these values do. A weight of 0.02 divided by the number of elements of a
    sample is enough. On the smooth digits of the demonstration (64 elements, weight 0.0003, a student that starts
    from the weights of a learned denoiser, 1,000 steps) the sd of the energy's error between components at noise
    level .06 falls from 2.0 to 1.3 nats, where the teacher's own values have 1.1, and the score keeps its error. A
    weight of 0.02 raised the error of the score by half, since the gradient of a value is thousands of times that
    of a score; bench/studies/learned measures it. The default is 0, because training must stay cheap by default: a
    pool takes 3 value_paths value_levels evaluations of the teacher, or a third of these and as many traces where
    it has the method `jacobian_trace`, and a step takes up to twice as long. A pool needs the memory of a few
    times value_paths samples.

    Sources: Karras et al. 2022, arXiv 2206.00364 (noise levels); Thornton et al. 2025, arXiv 2502.12786; He et al.
    2025, arXiv 2506.05668 (the path-ratio identity behind the values); Xu et al. 2023, arXiv 2302.04265 (PFGM++);
    Karras et al. 2024, arXiv 2312.02696 (power-function averages).

    Args:
        mode: "distill" regresses on the teacher's denoiser, "dsm" on the clean data without a teacher. "two_heads"
            trains the denoiser and the energy of an `edmfast.models.TwoHeads` together: its denoiser on the clean
            data, or on the teacher where there is one, and its energy on its own denoiser.
        steps: number of optimiser steps.
        batch_size: samples per step.
        accumulate: rounds in which a step evaluates its batch, each with an equal part of it. The gradient is the
            mean over all parts, so that the result is the same up to rounding, in less memory. With several ranks
            each of them has batch_size/ranks rows.
        seed: 64 bits, for all random draws of the run.
        p_mean: mean of ln(sigma) at training, where sigma is in the units of the data.
        p_std: standard deviation of ln(sigma) at training, which is normally distributed.
        noise_dof: D, the degrees of freedom of the noise. math.inf is Gaussian noise. A finite D is the Student-t
            noise of PFGM++, sigma z/sqrt(c/D) with one chi-square draw c of D degrees of freedom for each sample;
            samplers then start from `edmfast.sampling.student_t_prior`. The losses of energy differences and of
            values belong to Gaussian noise, and need math.inf.
        label_dropout: probability that a class label is replaced by num_classes ("unconditional").
        learning_rate: the learning rate of Adam after warm-up.
        warmup_steps: steps over which the learning rate rises linearly.
        schedule: after warm-up, "cosine" falls to zero at the last step, and "constant" stays.
        betas: the two decay rates of Adam.
        clip_norm: largest global norm of the gradient; None leaves gradients as they are.
        ema_decay: decay of the averaged weights; at step k it is min(ema_decay, (1 + k)/(10 + k)).
        energy_weight: weight of the loss of the energy in mode "two_heads", beside that of the denoiser. At 0.1 a
            perceptron on a mixture in the plane learns its scores as fast as without an energy. At 1 the two
            heads compete, and after 400 steps the error of its scores is two to three times as large.
        ema_profiles: sigma_rel of power-function averages that the run keeps besides, such as (0.05, 0.10). Their
            snapshots give averages of any width after training; see `post_hoc_ema`. Each takes the memory of the
            weights.
        snapshot_every: steps between snapshots of these averages; there is always one at the end.
        snapshot_folder: the folder of the snapshots; None is <name of the checkpoint>-ema beside the checkpoint.
        difference_weight: weight of the energy-difference loss; 0 does not compute it.
        difference_sigmas: lowest and highest noise level of the log-spaced schedules of its pairs.
        difference_steps: smallest and largest number of steps of those schedules.
        variance_groups: number of equal groups of the batch within which the losses of energy differences, of
            values and of the Fokker–Planck residual take their variances. Each group lies in one part of the
            batch, so it must be a multiple of accumulate times the number of ranks where one of these losses is
            used.
        value_weight: weight of the value loss; 0 does not compute it.
        value_paths: number of noising paths in the pool from which values come. A pool holds a sample, its noise
            and the values of all levels for each path. A teacher with an energy of its own needs no paths.
        value_levels: number of noise levels of a path.
        value_sigmas: lowest and highest noise level of a path. At the highest one the density must be that of a
            Gaussian, so it must be many times the width of the data. None takes 1/15 and 30 times the standard
            deviation of the data. A teacher with an energy of its own needs no path; then 3 times the standard
            deviation is high enough, and the values serve the levels at which energies err.
        value_refresh: steps after which a new pool replaces the old one; 0 keeps the first.
        fokker_planck_weight: weight of the loss of the Fokker–Planck residual, see
            `edmfast.distill.fokker_planck_loss`; 0 does not compute it. For small perceptrons 1 closes the gap
            between the samples of ODE and SDE, at the price of the denoiser; bench/studies/fokker_planck measures
            it. A quarter as many states as the batch has rows are evaluated at three points each.
        time_score_weight: weight of the loss of the energy's slope in the noise level, which learns from data
            alone how probable modes are against each other; 0 does not compute it. See the module
            `edmfast.distill.time_score`. It joins the training of a `TwoHeads` or an `EnergyModel` without further
            passes of the network. Eight successive rows of a batch then share their noise level, and two of these
            share their sample, so that each part of a batch must be a multiple of eight rows.
        autocast: "bfloat16" runs the student's matrix products and convolutions in that dtype, as torch.autocast
            does; loss, energy and weights keep theirs. None runs everything in the dtype of the student.
        compile: trace the loss and its parameter gradients as one graph and compile it, which takes minutes for a
            U-Net.
        activation_checkpointing: let the blocks of the student keep their inputs alone and recompute the rest,
            through the double backward too. It saves most of the memory of activations, for up to twice the time.
            `edmfast.models.checkpoint_blocks(student)` chooses other blocks, or fewer. A compiled step cannot.
        shard: with several ranks, let each hold an equal share of the weights, of the optimiser's state and of the
            average. Blocks recompute their activations, and gather their weights while they run.
        checkpoint: the safetensors file to write; None writes one only where the run is interrupted.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        keep_last: number of checkpoints that stay, with their steps in their names where it is more than 1.
        keep_best: also keep the checkpoint with the lowest mean loss since the one before.
        log_every: steps between the records that loggers receive.

    Raises:
        TypeError: a value that is not a number where one is needed.
        ValueError: a value out of range, or an unknown name.
    """

    mode: str = "distill"
    steps: int = 2000
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 0

    p_mean: float = -1.2
    p_std: float = 1.2
    noise_dof: float = math.inf
    label_dropout: float = 0.0

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    ema_decay: float = 0.999
    ema_profiles: tuple[float, ...] = ()
    snapshot_every: int = 500
    snapshot_folder: str | os.PathLike[str] | None = None

    energy_weight: float = 0.1

    difference_weight: float = 0.0
    difference_sigmas: tuple[float, float] = (0.05, 20.0)
    difference_steps: tuple[int, int] = (16, 128)
    variance_groups: int = 1

    value_weight: float = 0.0
    value_paths: int = 2048
    value_levels: int = 64
    value_sigmas: tuple[float, float] | None = None
    value_refresh: int = 0

    fokker_planck_weight: float = 0.0
    time_score_weight: float = 0.0

    autocast: str | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    shard: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int = 500
    keep_last: int = 1
    keep_best: bool = False
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, given {self.mode!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, given {self.schedule!r}")
        for name in ("activation_checkpointing", "shard"):
            if self.compile and getattr(self, name):
                raise ValueError(f"compile=True with {name}=True: {ONE_OF_BOTH}")
        if self.autocast not in AUTOCAST:
            raise ValueError(f"autocast must be one of {[*AUTOCAST]}, given {self.autocast!r}")
        for name, value in self._converted().items():
            # the dataclass is frozen, and this is still its construction
            object.__setattr__(self, name, value)
        self._check()

    def _converted(self) -> dict[str, Any]:
        """Return the numbers as Python ints and floats, which JSON can hold, each within its range."""
        numbers: dict[str, Any] = {
            "steps": as_int("steps", self.steps, least=1),
            "batch_size": as_int("batch_size", self.batch_size, least=1),
            "accumulate": as_int("accumulate", self.accumulate, least=1),
            "variance_groups": as_int("variance_groups", self.variance_groups, least=1),
            "checkpoint_every": as_int("checkpoint_every", self.checkpoint_every, least=1),
            "keep_last": as_int("keep_last", self.keep_last, least=1),
            "log_every": as_int("log_every", self.log_every, least=1),
            "warmup_steps": as_int("warmup_steps", self.warmup_steps, least=0),
            "seed": as_seed(self.seed),
            "p_mean": as_float("p_mean", self.p_mean),
            "p_std": as_float("p_std", self.p_std, positive=True),
            "noise_dof": as_float("noise_dof", self.noise_dof, positive=True, finite=False),
            "learning_rate": as_float("learning_rate", self.learning_rate, positive=True),
            "energy_weight": as_float("energy_weight", self.energy_weight, positive=True),
            "difference_weight": as_float("difference_weight", self.difference_weight, least=0),
            "value_weight": as_float("value_weight", self.value_weight, least=0),
            "fokker_planck_weight": as_float(
                "fokker_planck_weight", self.fokker_planck_weight, least=0
            ),
            "time_score_weight": as_float("time_score_weight", self.time_score_weight, least=0),
            "value_paths": as_int("value_paths", self.value_paths, least=2),
            "value_levels": as_int("value_levels", self.value_levels, least=2),
            "value_refresh": as_int("value_refresh", self.value_refresh, least=0),
            "label_dropout": as_float("label_dropout", self.label_dropout, least=0, most=1),
            "ema_decay": as_float("ema_decay", self.ema_decay, least=0),
            "ema_profiles": as_widths("ema_profiles", self.ema_profiles),
            "snapshot_every": as_int("snapshot_every", self.snapshot_every, least=1),
        }
        # a text such as "no" counts as true
        for name in ("compile", "activation_checkpointing", "shard", "keep_best"):
            numbers[name] = as_bool(name, getattr(self, name))
        betas = as_pair("betas", self.betas)
        numbers["betas"] = tuple(as_float("betas", beta, least=0) for beta in betas)
        if self.clip_norm is not None:
            clip_norm = as_float("clip_norm", self.clip_norm, positive=True, finite=False)
            numbers["clip_norm"] = clip_norm
        for name in ("difference_sigmas", "value_sigmas"):
            if (sigmas := getattr(self, name)) is not None:
                numbers[name] = tuple(as_float(name, sigma) for sigma in as_pair(name, sigmas))
        steps = as_pair("difference_steps", self.difference_steps)
        numbers["difference_steps"] = tuple(as_int("difference_steps", step) for step in steps)
        return numbers

    def _check(self) -> None:
        _require("ema_decay", self.ema_decay, self.ema_decay < 1, "within [0, 1)")
        _require("betas", self.betas, max(self.betas) < 1, "two numbers within [0, 1)")
        if self.ema_profiles and self.snapshot_folder is None and self.checkpoint is None:
            raise ValueError("ema_profiles needs a snapshot_folder or a checkpoint, given neither")
        for name in ("difference_sigmas", "value_sigmas"):
            if (sigmas := getattr(self, name)) is not None:
                _require(name, sigmas, 0 < sigmas[0] < sigmas[1], "0 < lowest < highest")
                for sigma in sigmas:
                    check_level(name, sigma, torch.float32)
        fewest, most = self.difference_steps
        steps = self.difference_steps
        _require("difference_steps", steps, 1 <= fewest <= most, "1 <= fewest <= most")
        low, high = self.difference_sigmas
        # the difference of the squares of two levels keeps two digits of float32
        if math.log(high / low) < _LEAST_STEP * most:
            raise ValueError(
                f"difference_sigmas={self.difference_sigmas} in up to {most} steps have neighbours that single "
                "precision cannot tell apart: take fewer difference_steps or levels farther from each other"
            )
        # a noise level whose square overflows would surface only after hours of training
        for sign in (-1, 1):
            # a normal variable lies within six standard deviations in all but two of 1e9 draws
            exponent = self.p_mean + sign * 6 * self.p_std
            level = math.exp(max(-700.0, min(700.0, exponent)))
            check_level(
                "exp(p_mean ± 6 p_std), the noise levels of training,", level, torch.float32
            )
        groups = self.variance_groups
        if self.groups_needed and self.batch_size % groups:
            raise ValueError(
                f"batch_size must be a multiple of variance_groups={groups}, given {self.batch_size}"
            )
        # the pairs are half a group and the states of one level a quarter, and both need a variance; the residual
        # has four states at each level for 16 rows
        needed = {
            "difference_weight": 4,
            "value_weight": 8,
            "fokker_planck_weight": 16,
            "time_score_weight": 1,
        }
        for name, least in needed.items():
            if getattr(self, name) > 0 and self.batch_size < least * groups:
                raise ValueError(
                    f"{name} > 0 needs batch_size >= {least * groups}, given {self.batch_size}"
                )
            # the reversals, the paths and the heat equation behind these losses are those of Gaussian noise
            if getattr(self, name) > 0 and self.noise_dof < math.inf:
                raise ValueError(
                    f"{name} > 0 needs Gaussian noise, noise_dof=math.inf, given {self.noise_dof:g}"
                )
        if self.batch_size % self.rows_together:
            raise ValueError(
                f"time_score_weight > 0 needs a batch_size that is a multiple of {ROWS}, given {self.batch_size}"
            )

    @property
    def groups_needed(self) -> int:
        """The number of groups of a batch that must stay whole, 0 where rows are independent."""
        weights = self.difference_weight, self.value_weight, self.fokker_planck_weight
        return self.variance_groups if max(weights) > 0 else 0

    @property
    def rows_together(self) -> int:
        """The number of successive rows of a batch that share their noise level."""
        return ROWS if self.time_score_weight > 0 else 1

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype that autocast names, or None."""
        return AUTOCAST[self.autocast]

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate at step 0, 1, ...."""
        # Adam's first steps are large while its averages are still short
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return self.learning_rate * warmup
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def ema_decay_at(self, step: int) -> float:
        """Return the decay of the averaged weights after step 0, 1, ....

        It is small at first, so that the average soon forgets the random start.
        """
        return min(self.ema_decay, (1 + step) / (10 + step))

    def trajectory(self) -> dict[str, Any]:
        """Return the settings on which the weights at a given step depend, as JSON can hold them."""
        settings = dataclasses.asdict(self)
        # these settings do not change the weights, so a resumed run may change them
        for name in _WITHOUT_EFFECT:
            del settings[name]
        if self.mode != "two_heads":
            # other modes have no such loss, and checkpoints of earlier versions lack its weight
            del settings["energy_weight"]
        if not self.ema_profiles:
            # checkpoints of earlier versions have no such averages
            del settings["ema_profiles"]
        if self.noise_dof == math.inf:
            # JSON has no infinity, and checkpoints of earlier versions have Gaussian noise
            del settings["noise_dof"]
        if self.variance_groups == 1:
            # checkpoints of earlier versions have one group
            del settings["variance_groups"]
        if self.value_weight == 0:
            # without the loss its settings change nothing, and checkpoints of earlier versions have none of them
            for name in [name for name in settings if name.startswith("value_")]:
                del settings[name]
        if self.fokker_planck_weight == 0:
            # checkpoints of earlier versions do not have it
            del settings["fokker_planck_weight"]
        if self.time_score_weight == 0:
            # checkpoints of earlier versions do not have it
            del settings["time_score_weight"]
        if self.schedule == "constant":
            # a constant schedule does not depend on its end, so that a run can be extended
            del settings["steps"]
        return {
            name: [*value] if isinstance(value, tuple) else value
            for name, value in settings.items()
        }


def _require(name: str, value: object, condition: bool, accepted: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {accepted}, given {value!r}")
