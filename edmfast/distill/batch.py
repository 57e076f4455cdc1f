"""Training batches: noised data, the teacher's answers, and all the randomness of a step.

x = x_0 + sigma n with ln(sigma) ~ N(p_mean, p_std²); target = D_teacher(x; sigma), or x_0 in
mode "dsm". For the energy-difference loss also a noising pair x_to = x_0 + u n', x_from =
x_to + tau z at one shared step s -> u (tau² = s² - u²) of a log-spaced schedule, and
  target = log M(x_to | x_from) - log L(x_from | x_to),
  M = N(x_from + tau² score, kappa tau² I), L = N(x_to, tau² I),
with the teacher's score and kappa = 1 + tau² mean(tr grad score)/d, clamped to [u²/(2 s²), 1]:
its curvature-matched reversal. The trace comes from one Rademacher probe (Hutchinson 1990) and
central differences of the denoiser, which ask nothing of the teacher but to be called.
Source: Karras et al. 2022, arXiv 2206.00364 (noise levels); Thornton et al. 2025,
arXiv 2502.12786 (energy distillation, Feynman-Kac weights).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edmfast._internal.generators import generator
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma

Batch = dict[str, torch.Tensor]
"""x, sigma, target, and where they apply class_label, pair_from, pair_to, pair_sigma_from,
pair_sigma_to, pair_target (pairs reuse the first class labels of the batch); rng, int64 [2], of the
student's dropout."""
Teacher = Callable[..., torch.Tensor]

_PROBE_STEP = 1e-2
"""Half width of the central difference, in units of sigma."""


def condition_of(batch: Batch, rows: int | None = None) -> dict[str, Any]:
    """Keyword conditions for the first rows of a batch."""
    return {"class_label": batch["class_label"][:rows]} if "class_label" in batch else {}


class BatchMaker:
    """Draws one batch after the other; its generator's state is all it remembers."""

    def __init__(self, data: TrainingData, teacher: Teacher | None, config: DistillConfig) -> None:
        self.data, self.teacher, self.config = data, teacher, config
        self.generator = generator(config.seed, data.samples.device)

    @torch.no_grad()
    def __call__(self) -> Batch:
        config, size = self.config, self.config.batch_size
        index = torch.randint(
            len(self.data.samples), (size,), generator=self.generator, device=self.generator.device
        )
        clean = self.data.samples[index]
        batch: Batch = {}
        if self.data.labels is not None:
            labels = self.data.labels[index]
            if config.label_dropout > 0:
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
            batch |= self._pair(clean[: size // 2], condition_of(batch, size // 2))
        return batch

    def _pair(self, clean: torch.Tensor, condition: dict[str, Any]) -> Batch:
        (low, high), (fewest, most) = self.config.difference_sigmas, self.config.difference_steps
        draws = self._uniform(2)
        steps = torch.floor(fewest + draws[0] * (most + 1 - fewest)).clamp(max=most)
        place = torch.floor(draws[1] * steps).clamp(max=steps - 1)
        s = high * (low / high) ** (place / steps)
        u = high * (low / high) ** ((place + 1) / steps)
        tau2 = s.square() - u.square()
        to = clean + u * self._normal(*clean.shape)
        start = to + tau2.sqrt() * self._normal(*clean.shape)
        denoised, trace = self._denoised_and_trace(start, s, condition)
        kappa = 1 + tau2 * ((trace - 1) / s.square())
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
        """D(x; sigma), and the mean over samples and elements of the diagonal of its Jacobian."""
        probe = self._uniform(*x.shape).lt(0.5).to(x.dtype) * 2 - 1
        width = _PROBE_STEP * sigma * probe
        rows = torch.cat([x, x + width, x - width])
        thrice = {name: value.repeat(3) for name, value in condition.items()}
        middle, plus, minus = self._teach(rows, sigma.expand(len(rows)), thrice).chunk(3)
        return middle, ((plus - minus) * probe).mean() / (2 * _PROBE_STEP * sigma)

    def _teach(
        self, x: torch.Tensor, sigma: torch.Tensor, condition: dict[str, Any]
    ) -> torch.Tensor:
        assert self.teacher is not None
        return call_denoiser(self.teacher, x, sigma, **condition).detach()

    def _normal(self, *shape: int) -> torch.Tensor:
        samples, generator = self.data.samples, self.generator
        return torch.randn(shape, generator=generator, dtype=samples.dtype, device=samples.device)

    def _uniform(self, *shape: int) -> torch.Tensor:
        samples, generator = self.data.samples, self.generator
        return torch.rand(shape, generator=generator, dtype=samples.dtype, device=samples.device)
