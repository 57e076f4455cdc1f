"""Training batches: noised data, the teacher's denoised states, and all random draws of a step.

A batch holds x = x_0 + sigma n with ln(sigma) ~ N(p_mean, p_std²), and as target D_teacher(x; sigma), or x_0 in
mode "dsm". For the energy-difference loss it also holds noising pairs x_to = x_0 + u n', x_from = x_to + tau z.
They share one step s -> u of a log-spaced schedule, with tau² = s² - u², and their target is the log-ratio
  log M(x_to | x_from) - log L(x_from | x_to),
  M = N(x_from + tau² score, kappa tau² I), L = N(x_to, tau² I).
M is the curvature-matched reversal of the teacher: it has the teacher's score, and
kappa = 1 + tau² mean(tr grad score)/d clamped to [u²/(2 s²), 1]. The trace comes from one Rademacher probe
(Hutchinson 1990) and central differences of the denoiser, so that the teacher needs no derivative.

Sources: Karras et al. 2022, arXiv 2206.00364 (noise levels); Thornton et al. 2025, arXiv 2502.12786 (energy
distillation, Feynman–Kac weights).
"""

from __future__ import annotations

from typing import Any

import torch

from edmfast._internal.generators import generator
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.calling.origin import name_of
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser

Batch = dict[str, torch.Tensor]
"""The tensors of a batch by name.

Always: x and target [B, *shape], sigma [B]. With labels: class_label int64 [B]. With the energy-difference loss:
pair_from and pair_to [B/2, *shape], pair_sigma_from and pair_sigma_to [], pair_target [B/2]; the pairs reuse the
first class labels of the batch. For the student's dropout: rng int64 [2]."""

_PROBE_STEP = 1e-2
"""The half width of the central difference, in units of sigma."""


def condition_of(batch: Batch, rows: int | None = None) -> dict[str, Any]:
    """Return the keyword conditions for the first rows of a batch, or for all rows by default."""
    return {"class_label": batch["class_label"][:rows]} if "class_label" in batch else {}


class BatchMaker:
    """A source of training batches, whose only state is that of its random generator."""

    def __init__(self, data: TrainingData, teacher: Denoiser | None, config: DistillConfig) -> None:
        self.data, self.teacher, self.config = data, teacher, config
        self.generator = generator(config.seed, data.samples.device)

    @torch.no_grad()
    def __call__(self) -> Batch:
        """Return the next batch, on the device of the data."""
        config, size = self.config, self.config.batch_size
        # rows are drawn with replacement, so that the generator's state is the only state
        index = torch.randint(
            len(self.data.samples), (size,), generator=self.generator, device=self.generator.device
        )
        clean = self.data.samples[index]
        batch: Batch = {}
        if self.data.labels is not None:
            labels = self.data.labels[index]
            if config.label_dropout > 0:
                # the label num_classes means unconditional, as guidance needs it
                dropped = self._uniform(size) < config.label_dropout
                labels = torch.where(dropped, self.data.num_classes, labels)
            batch["class_label"] = labels
        sigma = (config.p_mean + config.p_std * self._normal(size)).exp()
        batch["sigma"] = sigma
        batch["x"] = clean + expand_sigma(sigma, clean) * self._normal(*clean.shape)
        if config.mode == "dsm":
            batch["target"] = clean
        else:
            batch["target"] = self._teach(batch["x"], sigma, condition_of(batch))
        if config.difference_weight > 0:
            # half as many pairs have as many states as the batch
            batch |= self._pair(clean[: size // 2], condition_of(batch, size // 2))
        return batch

    def _pair(self, clean: torch.Tensor, condition: dict[str, Any]) -> Batch:
        (low, high), (fewest, most) = self.config.difference_sigmas, self.config.difference_steps
        draws = self._uniform(2)
        # the draws stay on the device, so that no step waits for the host
        steps = torch.floor(fewest + draws[0] * (most + 1 - fewest)).clamp(max=most)
        place = torch.floor(draws[1] * steps).clamp(max=steps - 1)
        s = high * (low / high) ** (place / steps)
        u = high * (low / high) ** ((place + 1) / steps)
        tau2 = s.square() - u.square()
        to = clean + u * self._normal(*clean.shape)
        start = to + tau2.sqrt() * self._normal(*clean.shape)
        denoised, trace = self._denoised_and_trace(start, s, condition)
        kappa = 1 + tau2 * ((trace - 1) / s.square())
        # the estimate of the trace is random, and the bounds keep the variance meaningful
        kappa = torch.minimum(torch.maximum(kappa, 0.5 * (u / s).square()), torch.ones_like(s))
        mean = start + tau2 / s.square() * (denoised - start)
        forward = (to - mean).square().flatten(1).sum(1) / (2 * kappa * tau2)
        backward = (start - to).square().flatten(1).sum(1) / (2 * tau2)
        return {
            "pair_from": start,
            "pair_to": to,
            "pair_sigma_from": s,
            "pair_sigma_to": u,
            "pair_target": backward - forward,
        }

    def _denoised_and_trace(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return D(x; sigma), and the mean of its Jacobian's diagonal over samples and elements."""
        probe = self._uniform(*x.shape).lt(0.5).to(x.dtype) * 2 - 1
        width = _PROBE_STEP * sigma * probe
        # the three evaluations go to the teacher as one batch
        rows = torch.cat([x, x + width, x - width])
        repeated = {name: value.repeat(3) for name, value in condition.items()}
        middle, plus, minus = self._teach(rows, sigma.expand(len(rows)), repeated).chunk(3)
        return middle, ((plus - minus) * probe).mean() / (2 * _PROBE_STEP * sigma)

    def _teach(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: dict[str, Any]
    ) -> torch.Tensor:
        assert self.teacher is not None
        # the teacher is a constant of the training
        try:
            return call_denoiser(self.teacher, x, sigma, **condition).detach()
        except IndexError as error:
            if self.config.label_dropout == 0:
                raise
            raise ValueError(
                f"the teacher {name_of(self.teacher)} failed with IndexError: {error}. label_dropout > 0 also "
                f"gives it the label {self.data.num_classes}, which means unconditional: it needs that class too"
            ) from error

    def _normal(self, *shape: int) -> torch.Tensor:
        samples, generator = self.data.samples, self.generator
        return torch.randn(shape, generator=generator, dtype=samples.dtype, device=samples.device)

    def _uniform(self, *shape: int) -> torch.Tensor:
        samples, generator = self.data.samples, self.generator
        return torch.rand(shape, generator=generator, dtype=samples.dtype, device=samples.device)
