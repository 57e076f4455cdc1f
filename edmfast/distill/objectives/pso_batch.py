"""Batches of pairwise sample optimisation: two trajectories of the current student for each condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edmfast._internal.generators import generator
from edmfast.distill.batch import Batch
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.distill.objectives.prompts import Prompts
from edmfast.distill.objectives.reference import Reference, evaluated
from edmfast.models.calling.foreign import call_denoiser, call_reward
from edmfast.models.protocols import Denoiser


class PSODraws(NamedTuple):
    """The draws of B pairs: which labels, and the noise of all levels above 0, [B, 2, S + 1, *shape]."""

    prompts: Tensor
    noise: Tensor


class PSOBatches:
    """A source of pairs of trajectories, as `PSOLoss` takes them.

    A batch also has the rewards [B, 2], of the trajectories as they were drawn. Of the first of them it has the
    start and the reference's answer to that, by which a resumed run recognises the reference.

    sigmas: the levels of the steps, strictly decreasing. Trajectories follow the student's weights at the step, so
    that the generator is the only state besides these.
    """

    model: Denoiser | None = None
    compared: tuple[str, ...] = ("start", "start_reference")

    def __init__(
        self,
        prompts: Prompts,
        student: nn.Module,
        reference: Reference,
        reward: Callable[..., Tensor],
        sigmas: list[float],
        config: DistillConfig,
    ) -> None:
        self.data: TrainingData = prompts
        self.student, self.reference = student, reference
        self.reward, self.sigmas, self.config = reward, sigmas, config
        self.prompts = prompts
        self.steps = sum(sigma > 0 for sigma in sigmas) - 1
        self.generator = generator(config.seed, prompts.device)
        self.between: Callable[[], None] = lambda: None

    def first_batch(self, rows: int) -> Batch:
        """Return the compared tensors of the first rows of the first batch; the generator is not used."""
        first = PSOBatches(
            self.prompts, self.student, self.reference, self.reward, self.sigmas, self.config
        )
        drawn = first.draw(0)
        start = self.sigmas[0] * drawn.noise[:rows, 0, 0]
        labels = self.data.rows(drawn.prompts, slice(0, rows))[1]
        # without a trajectory, whose end would depend on the student
        with evaluated(self.student):
            level = start.new_full((len(start),), self.sigmas[0])
            answer = self.reference(start, level, **_condition(labels, 1))
        return {"start": start, "start_reference": answer}

    @torch.no_grad()
    def draw(self, step: int) -> PSODraws:
        """Return the draws of the next batch. step: the training step."""
        data, size = self.data, self.config.batch_size
        prompts = data.draw(step, size, self.generator)
        noise = torch.randn(
            (size, 2, self.steps + 1, *data.shape),
            generator=self.generator,
            dtype=data.dtype,
            device=data.device,
        )
        return PSODraws(prompts, noise)

    @torch.no_grad()
    def part(self, drawn: PSODraws, rows: slice) -> Batch:
        """Return the trajectories of some rows, by the student's weights of this moment."""
        noise, labels = drawn.noise[rows], self.data.rows(drawn.prompts, rows)[1]
        condition = _condition(labels, 2)
        flat = noise.flatten(0, 1)
        x = self.sigmas[0] * flat[:, 0]
        states, references = [], []
        # dropout would draw from torch's generator, which no checkpoint holds
        with evaluated(self.student):
            for i, sigma in enumerate(self.sigmas[:-1]):
                self.between()
                level = x.new_full((len(x),), sigma)
                if i < self.steps:
                    references.append(self.reference(x, level, **condition))
                states.append(x)
                x = call_denoiser(self.student, x, level, **condition)
                if i < self.steps:
                    x = x + self.sigmas[i + 1] * flat[:, i + 1]
        states.append(x)

        def by_pair(steps: list[Tensor]) -> Tensor:
            pairs: Tensor = torch.stack(steps, 1).unflatten(0, (-1, 2))
            return pairs

        rewards = self._rewards(x, condition).view(-1, 2)
        first, second = rewards.unbind(1)
        # the winner is the first of each pair
        order = torch.stack([second > first, second <= first], 1).long()
        index = torch.arange(len(order), device=order.device)[:, None]
        count = self.steps
        sigmas = torch.tensor(self.sigmas, dtype=x.dtype, device=x.device)
        size = (len(order), 2, count)
        batch: Batch = {
            "x": by_pair(states[:count])[index, order],
            "next": by_pair(states[1 : count + 1])[index, order],
            "reference": by_pair(references)[index, order],
            "levels": sigmas[:count].expand(size).contiguous(),
            "next_levels": sigmas[1 : count + 1].expand(size).contiguous(),
            # a pair of equal rewards, or with a NaN, has no winner
            "decided": ((first > second) | (second > first)).to(x.dtype),
            "reward": rewards,
            "start": states[0][::2],
            "start_reference": references[0][::2],
        }
        return batch if labels is None else batch | {"class_label": labels}

    def _rewards(self, x: Tensor, condition: dict[str, Any]) -> Tensor:
        if not condition:
            return call_reward(self.reward, x).to(x.dtype)
        return call_reward(lambda samples: self.reward(samples, **condition), x).to(x.dtype)


def _condition(labels: Tensor | None, each: int) -> dict[str, Tensor]:
    """Return the labels as a condition, each repeated for some rows in succession."""
    return {} if labels is None else {"class_label": labels.repeat_interleave(each)}
