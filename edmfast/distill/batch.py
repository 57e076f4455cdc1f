"""Training batches: noised data, the teacher's answers, and all random draws of a step.

A batch holds x = x_0 + sigma n with ln(sigma) ~ N(p_mean, p_std²), and as target D_teacher(x; sigma), or x_0 in
mode "dsm". The noise n is Gaussian, or the Student-t noise of PFGM++ (see `edmfast.models.student_t`). For the
energy-difference loss it also holds noising pairs x_to = x_0 + u n', x_from = x_to + tau z. They share one step
s -> u of a log-spaced schedule, with tau² = s² - u², and their target is the log-ratio
  log M(x_to | x_from) - log L(x_from | x_to),
  M = N(x_from + tau² score, kappa tau² I), L = N(x_to, tau² I).
M is the curvature-matched reversal of the teacher: it has the teacher's score, and
kappa = 1 + tau² mean(tr grad score)/d clamped to [u²/(2 s²), 1], with the mean over the pairs.

For the value loss it holds states at a few noise levels, with the teacher's log-density there up to a constant. It
comes from the teacher's own energy where there is one, and else from a pool of paths (see
`edmfast.distill.path_values`).

Sources: Karras et al. 2022, arXiv 2206.00364 (noise levels); Thornton et al. 2025, arXiv 2502.12786 (energy
distillation, Feynman–Kac weights); Xu et al. 2023, arXiv 2302.04265 (Student-t noise).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch

from edmfast._internal.generators import generator
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.distill.frozen_teacher import FrozenTeacher
from edmfast.distill.path_values import PathPool, make_pool, path_levels, reversal_log_ratio
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser
from edmfast.models.student_t import student_t_scale

Batch = dict[str, torch.Tensor]
"""The tensors of a batch by name.

Always: x and target [B, *shape], sigma [B]. With labels: class_label int64 [B]. With the energy-difference loss:
pair_from and pair_to [B/2, *shape], pair_sigma_from and pair_sigma_to [], pair_target [B/2]; the pairs reuse the
first class labels of the batch. With the value loss: value_x [L n, *shape], value_sigma [L n] and value_target
[L, n], for n states at each of L levels, one level after the other, and with labels value_label int64 [L, n]. For
the student's dropout: rng int64 [2]."""

VALUE_LEVELS = 4
"""The number of noise levels in each batch of values, which has as many states as the batch."""


def condition_of(batch: Batch, rows: int | None = None) -> dict[str, Any]:
    """Return the keyword conditions for the first rows of a batch, or for all rows by default."""
    return {"class_label": batch["class_label"][:rows]} if "class_label" in batch else {}


def value_condition_of(batch: Batch) -> dict[str, Any]:
    """Return the keyword conditions for the rows of value_x."""
    if "value_label" not in batch:
        return {}
    return {"class_label": batch["value_label"].flatten()}


class BatchSource(Protocol):
    """A source of training batches, whose only state is that of its random generator.

    data: what the batches are drawn from. model: the teacher, or None. compared: the names of the tensors of the
    first batch that a resumed run compares. between: a function that is called where a batch takes long, and may
    raise an exception to stop.
    """

    data: TrainingData
    model: Denoiser | None
    compared: tuple[str, ...]
    generator: torch.Generator
    between: Callable[[], None]

    def __call__(self, step: int = 0) -> Batch:
        """Return the next batch, on the device of the data."""
        ...

    def first_batch(self) -> Batch:
        """Return the compared tensors of the first batch of a run, without a change of the generator."""
        ...


class BatchMaker:
    """A source of batches for denoisers and energies, whose only state is that of its random generator.

    A pool of paths follows from the seed and the step, so that it is no state. between: a function that is called
    while a pool is made, and may raise an exception to stop.
    """

    compared: tuple[str, ...] = ("x", "target")

    def __init__(self, data: TrainingData, teacher: Denoiser | None, config: DistillConfig) -> None:
        self.data, self.config, self.model = data, config, teacher
        self.teacher = None if teacher is None else FrozenTeacher(teacher, config, data.num_classes)
        self.generator = generator(config.seed, data.samples.device)
        self.between: Callable[[], None] = lambda: None
        self._pool: tuple[int, PathPool] | None = None

    def first_batch(self) -> Batch:
        """Return the compared tensors of the first batch of a run, without a change of the generator."""
        # these draws and targets come before those of the value loss
        without = dataclasses.replace(self.config, value_weight=0.0)
        batch = BatchMaker(self.data, self.model, without)()
        return {name: batch[name] for name in self.compared}

    @torch.no_grad()
    def __call__(self, step: int = 0) -> Batch:
        """Return the next batch, on the device of the data. step: the training step, which decides on the pool."""
        config, size = self.config, self.config.batch_size
        # rows are drawn with replacement, so that the generator's state is the only state
        index = torch.randint(
            len(self.data.samples), (size,), generator=self.generator, device=self.generator.device
        )
        clean = self.data.samples[index]
        batch: Batch = {}
        if self.data.labels is not None:
            batch["class_label"] = self._dropped(self.data.labels[index])
        sigma = (config.p_mean + config.p_std * self._normal(size)).exp()
        batch["sigma"] = sigma
        batch["x"] = clean + expand_sigma(sigma, clean) * self._noise(*clean.shape)
        if config.mode == "dsm":
            batch["target"] = clean
        else:
            assert self.teacher is not None
            batch["target"] = self.teacher.denoised(batch["x"], sigma, condition_of(batch))
        if config.difference_weight > 0:
            # half as many pairs have as many states as the batch
            batch |= self._pair(clean[: size // 2], condition_of(batch, size // 2))
        if config.value_weight > 0:
            batch |= self._values(step)
        return batch

    def _pair(self, clean: torch.Tensor, condition: dict[str, Any]) -> Batch:
        assert self.teacher is not None
        (low, high), (fewest, most) = self.config.difference_sigmas, self.config.difference_steps
        draws = self._uniform(2)
        # the draws stay on the device, so that no step waits for the host
        steps = torch.floor(fewest + draws[0] * (most + 1 - fewest)).clamp(max=most)
        place = torch.floor(draws[1] * steps).clamp(max=steps - 1)
        s = high * (low / high) ** (place / steps)
        u = high * (low / high) ** ((place + 1) / steps)
        to = clean + u * self._normal(*clean.shape)
        start = to + (s.square() - u.square()).sqrt() * self._normal(*clean.shape)
        probe = self._uniform(*clean.shape).lt(0.5).to(clean.dtype) * 2 - 1
        denoised, traces = self.teacher.denoised_and_trace(start, s, condition, probe)
        # one kappa for all pairs makes it a constant, which drops out of the variance
        target = reversal_log_ratio(start, to, s, u, denoised, traces.mean(), most=1.0)
        return {
            "pair_from": start,
            "pair_to": to,
            "pair_sigma_from": s,
            "pair_sigma_to": u,
            "pair_target": target,
        }

    def _values(self, step: int) -> Batch:
        """Return states at a few noise levels with the log-density of the teacher there, up to a constant."""
        assert self.teacher is not None
        data, size = self.data, self.config.batch_size // VALUE_LEVELS
        own = self.teacher.has_own_energy()
        pool = None if own else self._pool_at(step)
        sigmas = path_levels(self.config, data.samples) if pool is None else pool.sigmas
        count = len(data.samples) if pool is None else len(pool.clean)
        device = self.generator.device
        levels = torch.randint(
            len(sigmas), (VALUE_LEVELS,), generator=self.generator, device=device
        )
        # the levels of one path depend on each other, so that each level takes paths of its own
        index = torch.randint(count, (VALUE_LEVELS, size), generator=self.generator, device=device)
        sigma = sigmas[levels].repeat_interleave(size)
        batch: Batch = {}
        if pool is not None and pool.labels is not None:
            batch["value_label"] = pool.labels[index]
        elif pool is None and data.labels is not None:
            batch["value_label"] = self._dropped(data.labels[index])
        if pool is None:
            clean = data.samples[index.flatten()]
            x = clean + expand_sigma(sigma, clean) * self._normal(*clean.shape)
            energy = self.teacher.energy(x, sigma, value_condition_of(batch))
            target = -energy.to(x.dtype).view(VALUE_LEVELS, size)
        else:
            x = pool.states(sigma, index.flatten())
            target = pool.values[levels[:, None], index]
        return batch | {"value_x": x, "value_sigma": sigma, "value_target": target}

    def _pool_at(self, step: int) -> PathPool:
        """Return the pool of paths that serves this step, which is made at its first step."""
        assert self.teacher is not None
        refresh = self.config.value_refresh
        number = step // refresh if refresh else 0
        if self._pool is None or self._pool[0] != number:
            # the old pool is freed before the new one is made
            self._pool = None
            pool = make_pool(self.data, self.teacher, self.config, number, self.between)
            self._pool = number, pool
        return self._pool[1]

    def _dropped(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels, some of which label_dropout replaces by num_classes."""
        if self.config.label_dropout == 0:
            return labels
        # the label num_classes means unconditional, as guidance needs it
        dropped = self._uniform(*labels.shape) < self.config.label_dropout
        return torch.where(dropped, self.data.num_classes, labels)

    def _noise(self, *shape: int) -> torch.Tensor:
        """Return the noise n of a batch: Gaussian, or Student-t where the configuration has a finite noise_dof."""
        normals, dof = self._normal(*shape), self.config.noise_dof
        if dof == math.inf:
            return normals
        # the scale needs all digits of a float64 uniform, since its tail is heavy
        device = self.data.samples.device
        u = torch.rand(shape[0], generator=self.generator, dtype=torch.float64, device=device)
        scale = student_t_scale(u.clamp_min(2.0**-54), dof).to(normals.dtype)
        return normals * scale.reshape(-1, *[1] * (len(shape) - 1))

    def _normal(self, *shape: int) -> torch.Tensor:
        samples, generator = self.data.samples, self.generator
        return torch.randn(shape, generator=generator, dtype=samples.dtype, device=samples.device)

    def _uniform(self, *shape: int) -> torch.Tensor:
        samples, generator = self.data.samples, self.generator
        return torch.rand(shape, generator=generator, dtype=samples.dtype, device=samples.device)
