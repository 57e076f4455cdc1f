"""The states at which training looks at the Fokker–Planck residual.

A group of the batch with n rows gives S = 4 floor(n/16) states, 4 at each of S/4 noise levels. A training step
then takes little longer, and each level has states enough for its mean. Two states share a clean sample and its
label, so that no label is alone at its level: the mean of a single residual would cancel it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast.distill.config import DistillConfig
from edmfast.models.preconditioning import expand_sigma

STATES = 4
"""The number of states at each noise level."""
LEAST_ROWS = 16
"""The smallest group of a batch that gives a level."""


class StateDraws(NamedTuple):
    """The draws of G groups with L levels.

    sigma: [G, L]. noise: [G, L, 4, *shape]. probe: signs [G, L, 4, 2, *shape].
    """

    sigma: Tensor
    noise: Tensor
    probe: Tensor


def draw_states(
    config: DistillConfig, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> StateDraws:
    """Return the draws of a whole batch. shape: that of a sample."""
    groups = config.variance_groups
    levels = config.batch_size // groups // LEAST_ROWS
    options: dict[str, Any] = {"generator": generator, "dtype": dtype, "device": generator.device}
    normal = torch.randn(groups, levels, **options)
    size = groups, levels, STATES
    noise = torch.randn(*size, *shape, **options)
    signs = torch.rand(*size, 2, *shape, **options).lt(0.5).to(dtype) * 2 - 1
    return StateDraws((config.p_mean + config.p_std * normal).exp(), noise, signs)


def states_of(
    drawn: StateDraws, groups: slice, clean: Tensor, labels: Tensor | None
) -> dict[str, Tensor]:
    """Return the tensors of some groups, as `fokker_planck_loss` takes them.

    clean: the clean samples of all rows of these groups. labels: their labels, or None.
    """
    sigma, noise, probe = (part[groups] for part in drawn)
    count, levels = sigma.shape
    half = STATES // 2

    def chosen(rows: Tensor) -> Tensor:
        first = rows.unflatten(0, (count, -1))[:, : levels * half]
        pairs: Tensor = first.unflatten(1, (levels, half)).repeat_interleave(2, 2).flatten(0, 1)
        return pairs

    levels_of = sigma.flatten()
    samples = chosen(clean)
    flat = samples.flatten(0, 1)
    noise, probe = noise.flatten(0, 1), probe.flatten(0, 1)
    scale = levels_of[:, None].expand(-1, STATES).flatten()
    x = flat + expand_sigma(scale, flat) * noise.flatten(0, 1)
    batch = {
        "fokker_planck_x": x.view(samples.shape),
        "fokker_planck_sigma": levels_of,
        "fokker_planck_probe": probe,
    }
    return batch if labels is None else batch | {"fokker_planck_label": chosen(labels)}
