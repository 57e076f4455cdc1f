"""Learned layers without biases whose outputs have the variance of their inputs, whatever the size of the weight.

The product is taken with ŵ = g w/(sqrt(n) (ε + rms(w))) for each output, where n is the number of its weights and
g an optional gain. A gradient with respect to w is therefore orthogonal to it, and a step of an optimiser only
makes w longer, which would slow down later steps. So w itself is divided by its root mean square after each step,
by the method `after_update` of the network ("forced weight normalisation").

Source: Karras et al. 2024, arXiv 2312.02696, sections 2.3 and B.4, algorithm 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edmfast._internal.batch_invariant import batch_invariant_linear
from edmfast.models.backbones.edm2.functions import EPSILON, rms
from edmfast.models.level_table import of_level


class MPLayer(nn.Module):
    """The base of the layers: a weight [out, in, *kernel] drawn from N(0, 1) and normalised.

    kernel: the sizes of a kernel; none for a linear layer.
    """

    def __init__(self, in_channels: int, out_channels: int, *kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.force_normal()

    @torch.no_grad()
    def force_normal(self) -> None:
        """Divide the weight of each output by its root mean square, in place."""
        if not self.weight.is_meta:
            self.weight.div_((EPSILON + self._rms()).to(self.weight.dtype))

    def effective(self, gain: Tensor | None = None) -> Tensor:
        """Return ŵ, like the weight. gain: [], or None for 1."""
        size = self.weight[0].numel()
        factor = (math.sqrt(size) * (EPSILON + self._rms())).reciprocal()
        if gain is not None:
            factor = factor * gain
        return self.weight * factor.to(self.weight.dtype)

    def _rms(self) -> Tensor:
        return rms(self.weight, [*range(1, self.weight.dim())])


class MPLinear(MPLayer):
    """A linear layer on the last dimension, [..., in] to [..., out].

    order: the shape (heads, d, 3) of the outputs as the weight holds them. The layer returns them in the order
        (3, heads, d), as `self_attention` takes them. None keeps their order.
    kernel: (1, 1) where the weight of a state is that of a 1x1 convolution.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: tuple[int, ...] = (),
        order: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(in_features, out_features, *kernel)
        self.order = order

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return [..., out]. x: [..., in]. gain: [], or None for 1."""
        # a row that depends on the noise level alone, such as an embedding, gives one for all levels of a run
        if x.shape[0] == 1 and (row := self._of_level(x, gain)) is not None:
            return row
        return self._product(x, gain)

    def _product(self, x: Tensor, gain: Tensor | None) -> Tensor:
        weight = self.effective(gain).flatten(1)
        if self.order is not None:
            # weights are fewer numbers than tokens, so it is they that are permuted
            weight = weight.unflatten(0, self.order).permute(2, 0, 1, 3).flatten(0, 2)
        return batch_invariant_linear(x, weight)

    def _of_level(self, x: Tensor, gain: Tensor | None) -> Tensor | None:
        sources = (self.weight,) if gain is None else (self.weight, gain)
        name = ("mp linear", id(self))
        found = of_level((x,), name, sources, lambda rows: (self._product(rows, gain),))
        return None if found is None else found[0]


class MPConv2d(MPLayer):
    """A convolution [B, in, H, W] to [B, out, H, W] with zeros beyond the border. kernel: its odd side."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, kernel)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return [B, out, H, W]. gain: [], or None for 1."""
        weight = self.effective(gain)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
