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
from edmfast.distill.fokker_planck_states import StateDraws, draw_states, states_of
from edmfast.distill.frozen_teacher import FrozenTeacher
from edmfast.distill.path_values import PathPool, make_pool, path_levels, reversal_log_ratio
from edmfast.distill.time_score import COPIES, opposite_draws
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser
from edmfast.models.student_t import student_t_scale

Batch = dict[str, torch.Tensor]
"""The tensors of a batch by name.

Always: x and target [B, *shape], sigma [B]. With labels: class_label int64 [B]. The batch has G groups, for which
    see `DistillConfig.variance_groups`. With the energy-difference loss: pair_from and pair_to [G, n, *shape],
    pair_sigma_from and pair_sigma_to [G], pair_target [G, n], for n = B/(2 G) pairs, and with labels pair_label
    int64 [G, n]. With the value loss: value_x [4 G n, *shape], value_sigma [4 G n] and value_target [4 G, n], for
    n = B/(4 G) states at each of four levels of each group, one level after the other, and with labels
    value_label int64 [4 G, n]. With the Fokker–Planck loss: its tensors in `edmfast.distill.fokker_planck_loss`.
    With the loss of time scores: noise_excess [B], see `edmfast.distill.time_score`. For the student's dropout:
    dropout_seeds int64 [B]."""

VALUE_LEVELS = 4
"""The number of noise levels in each group of values, which has as many states as the group has rows."""


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
    first batch that a resumed run compares. generator: the source of all draws. between: a function that is called
    where a batch takes long, and may raise an exception to stop.
    """

    data: TrainingData
    model: Denoiser | None
    compared: tuple[str, ...]
    generator: torch.Generator
    between: Callable[[], None]

    def draw(self, step: int) -> Any:
        """Return the random draws of a whole batch, which are equal on all ranks. step: the training step."""
        ...

    def part(self, drawn: Any, rows: slice) -> Batch:
        """Return the tensors of some rows of a batch, on the device of the data."""
        ...

    def first_batch(self, rows: int) -> Batch:
        """Return the compared tensors of the first rows of the first batch; the generator is not used."""
        ...


@dataclasses.dataclass
class Draws:
    """The random draws of one batch of B rows in G groups.

    clean and value_rows: what the data say. sigma: [B]. noise: [B, *shape]. dropped: a bool for each clean sample,
        or None without label dropout. The pairs have positions uniform [2, G], noises [B/2, *shape] and signs like
        them. The values have levels int64 [4 G], and where the teacher has its own energy dropped labels and
        noises of their own.
    """

    step: int
    clean: Any
    dropped: torch.Tensor | None
    sigma: torch.Tensor
    noise: torch.Tensor
    pair_steps: torch.Tensor | None = None
    pair_noises: tuple[torch.Tensor, torch.Tensor] | None = None
    pair_probe: torch.Tensor | None = None
    value_levels: torch.Tensor | None = None
    value_rows: Any = None
    value_dropped: torch.Tensor | None = None
    value_noise: torch.Tensor | None = None
    residual_states: StateDraws | None = None


class BatchMaker:
    """A source of batches for denoisers and energies, whose only state is that of its random generator.

    A pool of paths follows from the seed and the step, so that it is no state. between: a function that is called
    while a pool is made, and may raise an exception to stop.
    """

    compared: tuple[str, ...] = ("x", "target")

    def __init__(self, data: TrainingData, teacher: Denoiser | None, config: DistillConfig) -> None:
        self.data, self.config, self.model = data, config, teacher
        self.teacher = None if teacher is None else FrozenTeacher(teacher, config, data.num_classes)
        self.generator = generator(config.seed, data.device)
        self.between: Callable[[], None] = lambda: None
        self._pool: tuple[int, PathPool] | None = None
        self._value_sigmas: torch.Tensor | None = None

    def first_batch(self, rows: int) -> Batch:
        """Return x and target of the first rows of the first batch of a run; the generator is not used."""
        # these draws and targets come before those of the other losses
        without = dataclasses.replace(
            self.config, value_weight=0.0, difference_weight=0.0, fokker_planck_weight=0.0
        )
        maker = BatchMaker(self.data, self.model, without)
        batch = maker.part(maker.draw(0), slice(0, rows))
        return {name: batch[name] for name in self.compared}

    def __call__(self, step: int = 0) -> Batch:
        """Return the next whole batch, on the device of the data."""
        return self.part(self.draw(step), slice(0, self.config.batch_size))

    @torch.no_grad()
    def draw(self, step: int) -> Draws:
        """Return the draws of the next batch. step: the training step, which decides on the pool."""
        config, size, groups = self.config, self.config.batch_size, self.config.variance_groups
        samples = size // self._copies
        drawn = Draws(
            step,
            clean=self.data.draw(step, samples, self.generator),
            dropped=self._drop(samples),
            sigma=self._levels(size),
            noise=self._noise(size, *self.data.shape),
        )
        if config.difference_weight > 0:
            # half as many pairs have as many states as the batch
            pairs = (size // (2 * groups) * groups, *self.data.shape)
            drawn.pair_steps = self._uniform(2, groups)
            drawn.pair_noises = self._normal(*pairs), self._normal(*pairs)
            drawn.pair_probe = self._uniform(*pairs).lt(0.5).to(self.data.dtype) * 2 - 1
        if config.value_weight > 0:
            self._draw_values(drawn, size // (VALUE_LEVELS * groups) * VALUE_LEVELS * groups)
        if config.fokker_planck_weight > 0:
            data = self.data
            drawn.residual_states = draw_states(config, data.shape, data.dtype, self.generator)
        return drawn

    @torch.no_grad()
    def part(self, drawn: Draws, rows: slice) -> Batch:
        """Return the batch of some rows, which are whole groups where a loss of energies needs them."""
        clean, labels = self._samples(drawn, rows)
        sigma = drawn.sigma[rows]
        batch: Batch = {"sigma": sigma}
        if labels is not None:
            batch["class_label"] = labels
        noise = drawn.noise[rows]
        if self.config.time_score_weight > 0:
            # the sum is nearly the number of elements, so that float32 would lose digits of the difference
            square = noise.flatten(1).square().sum(1, dtype=torch.float64)
            batch["noise_excess"] = (square - noise[0].numel()).to(noise.dtype)
        batch["x"] = clean + expand_sigma(sigma, clean) * noise
        if self.config.mode == "dsm" or self.teacher is None:
            batch["target"] = clean
        else:
            batch["target"] = self.teacher.denoised(batch["x"], sigma, condition_of(batch))
        size = self.config.batch_size // self.config.variance_groups
        groups = slice(rows.start // size, rows.stop // size)
        if self.config.difference_weight > 0:
            batch |= self._pairs(drawn, groups, clean, batch.get("class_label"))
        if self.config.value_weight > 0:
            batch |= self._values(drawn, groups)
        if drawn.residual_states is not None:
            labels = batch.get("class_label")
            batch |= states_of(drawn.residual_states, groups, clean, labels)
        return batch

    def _samples(self, drawn: Draws, rows: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the clean samples of some rows and their labels, of which label_dropout has replaced some."""
        copies = self._copies
        own = slice(rows.start // copies, rows.stop // copies)
        clean, labels = self.data.rows(drawn.clean, own)
        if labels is not None:
            labels = self._with_dropped(
                labels, None if drawn.dropped is None else drawn.dropped[own]
            )
        if copies > 1:
            clean = clean.repeat_interleave(copies, 0)
            labels = None if labels is None else labels.repeat_interleave(copies)
        return clean, labels

    def _pairs(
        self, drawn: Draws, groups: slice, clean: torch.Tensor, labels: torch.Tensor | None
    ) -> Batch:
        """Return the noising pairs of some groups. clean and labels: those of all rows of these groups."""
        assert self.teacher is not None
        assert drawn.pair_steps is not None
        assert drawn.pair_noises is not None
        assert drawn.pair_probe is not None
        (low, high), (fewest, most) = self.config.difference_sigmas, self.config.difference_steps
        count = groups.stop - groups.start
        pairs = len(drawn.pair_probe) // self.config.variance_groups
        rows = slice(groups.start * pairs, groups.stop * pairs)
        draws = drawn.pair_steps[:, groups]
        # the draws stay on the device, so that no step waits for the host
        steps = torch.floor(fewest + draws[0] * (most + 1 - fewest)).clamp(max=most)
        place = torch.floor(draws[1] * steps).clamp(max=steps - 1)
        s = high * (low / high) ** (place / steps)
        u = high * (low / high) ** ((place + 1) / steps)
        # the first half of each group gives the pairs
        clean = clean.unflatten(0, (count, -1))[:, :pairs].flatten(0, 1)
        to_noise, step_noise = (noise[rows] for noise in drawn.pair_noises)
        s_rows, u_rows = s.repeat_interleave(pairs), u.repeat_interleave(pairs)
        to = clean + expand_sigma(u_rows, clean) * to_noise
        tau = (s_rows.square() - u_rows.square()).sqrt()
        start = to + expand_sigma(tau, clean) * step_noise
        batch: Batch = {"pair_sigma_from": s, "pair_sigma_to": u}
        condition: dict[str, Any] = {}
        if labels is not None:
            batch["pair_label"] = labels.unflatten(0, (count, -1))[:, :pairs]
            condition["class_label"] = batch["pair_label"].flatten()
        denoised, traces = self.teacher.denoised_and_trace(
            start, s_rows, condition, drawn.pair_probe[rows]
        )
        # one kappa for all pairs of a group makes it a constant, which drops out of the variance
        trace = traces.view(count, pairs).mean(1).repeat_interleave(pairs)
        target = reversal_log_ratio(start, to, s_rows, u_rows, denoised, trace, most=1.0)
        batch["pair_from"], batch["pair_to"] = (x.unflatten(0, (count, -1)) for x in (start, to))
        return batch | {"pair_target": target.view(count, pairs)}

    def _draw_values(self, drawn: Draws, count: int) -> None:
        """Add the draws of the value loss for `count` states."""
        assert self.teacher is not None
        own, config = self.teacher.has_own_energy(), self.config
        levels = (VALUE_LEVELS * config.variance_groups,)
        device = self.generator.device
        drawn.value_levels = torch.randint(
            config.value_levels, levels, generator=self.generator, device=device
        )
        # the levels of one path depend on each other, so that each level takes paths of its own
        if not own:
            drawn.value_rows = torch.randint(
                config.value_paths, (count,), generator=self.generator, device=device
            )
            return
        drawn.value_rows = self.data.draw(drawn.step, count, self.generator)
        drawn.value_dropped = self._drop(count)
        drawn.value_noise = self._normal(count, *self.data.shape)

    def _values(self, drawn: Draws, groups: slice) -> Batch:
        """Return states at a few noise levels with the log-density of the teacher there, up to a constant."""
        assert self.teacher is not None
        assert drawn.value_levels is not None
        levels = drawn.value_levels[groups.start * VALUE_LEVELS : groups.stop * VALUE_LEVELS]
        size = self.config.batch_size // (VALUE_LEVELS * self.config.variance_groups)
        states = VALUE_LEVELS * size
        part = slice(groups.start * states, groups.stop * states)
        if not self.teacher.has_own_energy():
            pool = self._pool_at(drawn.step)
            index = drawn.value_rows[part].view(len(levels), size)
            sigma = pool.sigmas[levels].repeat_interleave(size)
            labels = {} if pool.labels is None else {"value_label": pool.labels[index]}
            x = pool.states(sigma, index.flatten())
            target = pool.values[levels[:, None], index]
            return labels | {"value_x": x, "value_sigma": sigma, "value_target": target}
        assert drawn.value_noise is not None
        clean, given = self.data.rows(drawn.value_rows, part)
        if self._value_sigmas is None:
            self._value_sigmas = path_levels(self.config, self.data)
        sigma = self._value_sigmas[levels].repeat_interleave(size)
        batch: Batch = {}
        if given is not None:
            dropped = None if drawn.value_dropped is None else drawn.value_dropped[part]
            batch["value_label"] = self._with_dropped(given, dropped).view(len(levels), size)
        x = clean + expand_sigma(sigma, clean) * drawn.value_noise[part]
        energy = self.teacher.energy(x, sigma, value_condition_of(batch))
        target = -energy.to(x.dtype).view(len(levels), size)
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

    def _drop(self, count: int) -> torch.Tensor | None:
        """Return which labels label_dropout replaces, bool [count], or None for none of them."""
        if not self.data.has_labels or self.config.label_dropout == 0:
            return None
        return self._uniform(count) < self.config.label_dropout

    def _with_dropped(self, labels: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
        if dropped is None:
            return labels
        # the label num_classes means unconditional, as guidance needs it
        return torch.where(dropped, self.data.num_classes, labels)

    def _noise(self, *shape: int) -> torch.Tensor:
        """Return the noise n of a batch: Gaussian, or Student-t where the configuration has a finite noise_dof."""
        normals, dof = self._normal(*shape), self.config.noise_dof
        if self.config.time_score_weight > 0:
            return opposite_draws(normals)
        if dof == math.inf:
            return normals
        # the scale needs all digits of a float64 uniform, since its tail is heavy
        device = self.data.device
        u = torch.rand(shape[0], generator=self.generator, dtype=torch.float64, device=device)
        scale = student_t_scale(u.clamp_min(2.0**-54), dof).to(normals.dtype)
        return normals * scale.reshape(-1, *[1] * (len(shape) - 1))

    @property
    def _copies(self) -> int:
        """The number of successive rows of a batch with the same clean sample."""
        return COPIES if self.config.time_score_weight > 0 else 1

    def _levels(self, size: int) -> torch.Tensor:
        """Return the noise levels of a batch, [size]."""
        config, shared = self.config, self.config.rows_together
        levels = (config.p_mean + config.p_std * self._normal(size // shared)).exp()
        return levels.repeat_interleave(shared) if shared > 1 else levels

    def _normal(self, *shape: int) -> torch.Tensor:
        data, generator = self.data, self.generator
        return torch.randn(shape, generator=generator, dtype=data.dtype, device=data.device)

    def _uniform(self, *shape: int) -> torch.Tensor:
        data, generator = self.data, self.generator
        return torch.rand(shape, generator=generator, dtype=data.dtype, device=data.device)
