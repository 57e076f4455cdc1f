"""A denoiser and an energy from one network with two heads.

The backbone returns, for y = c_in x, a tensor with twice the numbers of y on axis 1: first F, then h. In the
preconditioning of EDM, F is an ordinary denoiser, and h an inner-product energy (see `edmfast.models.energy`):
  D(x, sigma) = c_skip x + c_out F,   score = (D - x)/sigma² = c_in ((sigma_data/sigma) F - y),
  E(x, sigma) = |x|²/(2 (sigma² + sigma_data²)) - (sigma_data/sigma) <h, y>.
Training draws grad_y <h, y> towards F, so that the score is -grad E up to the error of that fit. One forward pass
therefore gives an energy with its score, where an `EnergyModel` needs a forward and a backward pass.

Sources: Karras et al. 2022, arXiv 2206.00364 (preconditioning); Thornton et al. 2025, arXiv 2502.12786
(inner-product energies distilled from a denoiser). The two heads are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.rows import pad_rows, shared_names, without_padding
from edmfast.models.backbones.embedding import check_conditions_of
from edmfast.models.calling.foreign import call_backbone
from edmfast.models.compiling.methods import CompiledMethods, Method, is_called_plainly
from edmfast.models.potentials import Potential
from edmfast.models.preconditioning import (
    Scaling,
    check_sigma_data,
    noise_levels,
    refuse_zero,
    shared_scaling,
)

Pair = tuple[Tensor, Tensor]


class TwoHeads(nn.Module):
    """One network with a head for the denoiser and a head for the energy, which trains without a teacher.

    `distill(None, model, data, config=DistillConfig(mode="two_heads"))` trains both heads at once. The model is a
    denoiser (`forward`, the head of scores) and a target (`energy_and_score`, exponent 1), so every sampler takes
    it. Energy and score of one state cost one forward pass together. The score is that of the denoiser: it is not
    exactly -grad E, which `score_is_exact = False` tells the samplers. Weights and accept steps correct for that.
    Results are differentiable wherever grad mode is on.

    Conditions are those of `EnergyModel`, and so is the promise that the result for one sample has the same bits
    whatever the batch size.

    Sources: Karras et al. 2022, arXiv 2206.00364; Thornton et al. 2025, arXiv 2502.12786.

    Args:
        backbone: called as backbone(y [B, *shape], c_noise [B], **condition), returns a tensor with twice the
            numbers of y on axis 1: `UNet` and `DiT` with out_channels=2 in_channels, or `ResidualMLP` with
            out_dim=2 dim.
        sigma_data: standard deviation of the data, in the units of x.

    Raises:
        ValueError: a sigma_data that is not positive. The methods raise it for conditions with another number of
            rows, for noise levels that are not positive, and for a network with another number of outputs.
    """

    exponent = 1.0
    score_is_exact = False

    def __init__(self, backbone: nn.Module, *, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data = check_sigma_data(sigma_data)
        self.backbone = backbone
        self._potential = Potential("inner")
        self._compiled: CompiledMethods | None = None

    def heads(self, y: Tensor, c_noise: Tensor, **condition: Any) -> Pair:
        """Return the outputs (F, h) of the two heads, each like y.

        Args:
            y: [B, *shape], states scaled by c_in.
            c_noise: [B], ln(sigma)/4.
            condition: keyword arguments of the backbone.
        """
        output = call_backbone(self.backbone, y, c_noise, heads=2, **condition)
        score_head, energy_head = output.chunk(2, 1)
        return score_head, energy_head

    def energy(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return E(x, sigma), [B], in nats: one forward pass of the network.

        Args:
            x: [B, *shape], floating.
            sigma: a float, [] or [B], positive, in the units of x.
            condition: keyword arguments of the backbone.
        """
        return self._call(TwoHeads._energy, x, sigma, condition)[0]

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (E [B] in nats, the score of the denoiser, like x): one forward pass of the network.

        x, sigma and conditions are those of `energy`.
        """
        energy, score = self._call(TwoHeads._energy_and_score, x, sigma, condition)
        return energy, score

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states x0 of the head of scores, like x: one forward pass of the network.

        x, sigma and conditions are those of `energy`.
        """
        return self._call(TwoHeads._denoised, x, sigma, condition)[0]

    def compile(self, *, mode: str | None = None) -> None:
        """Let compiled graphs answer later calls under torch.no_grad().

        The first call of each method makes its graph. Where that fails, the model is called eagerly after one
        warning that names the reason. Training is compiled by `DistillConfig(compile=True)`, and `smc.sample` by
        its own argument compile=True.

        Args:
            mode: the mode of torch.compile, used on a GPU only; "reduce-overhead" captures CUDA graphs.
        """
        self._compiled = CompiledMethods(self, mode)

    def _call(
        self, method: Method, x: Tensor, sigma: float | Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Return what one of the methods below gives for the caller's rows, evaluated on padded rows."""
        batch, levels = x.shape[0], noise_levels(x, sigma)
        refuse_zero(self, sigma)
        # errors name the caller's sizes, so the checks come before the padding
        check_conditions_of(self.backbone, condition, batch)
        # a graph has no derivatives, and tracers cannot see inside it, so those calls stay eager
        if self._compiled is not None and not torch.is_grad_enabled() and is_called_plainly():
            return self._compiled(method, x, levels, condition)
        x, levels, condition = pad_rows(x, levels, condition, shared_names(self.backbone))
        results = method(self, x, levels, condition)
        return tuple(without_padding(tensor, batch) for tensor in results)

    def _energy(self, x: Tensor, levels: Tensor, condition: dict[str, Any]) -> tuple[Tensor]:
        levels, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
        y = scaling.c_in * x
        return (self._energy_of(self._heads(y, scaling, condition)[1], y, levels),)

    def _energy_and_score(self, x: Tensor, levels: Tensor, condition: dict[str, Any]) -> Pair:
        levels, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
        y = scaling.c_in * x
        score_head, energy_head = self._heads(y, scaling, condition)
        score = scaling.c_in * (self.sigma_data / levels * score_head - y)
        return self._energy_of(energy_head, y, levels), score

    def _denoised(self, x: Tensor, levels: Tensor, condition: dict[str, Any]) -> tuple[Tensor]:
        _, scaling = shared_scaling(levels, x.shape[0], self.sigma_data)
        score_head = self._heads(scaling.c_in * x, scaling, condition)[0]
        return (scaling.c_skip * x + scaling.c_out * score_head,)

    def _heads(self, y: Tensor, scaling: Scaling, condition: dict[str, Any]) -> Pair:
        """Return both heads in the dtype of y, which autocast may have left."""
        score_head, energy_head = self.heads(y, scaling.c_noise.expand(y.shape[0]), **condition)
        return score_head.to(y.dtype), energy_head.to(y.dtype)

    def _energy_of(self, energy_head: Tensor, y: Tensor, levels: Tensor) -> Tensor:
        weight = (self.sigma_data / levels.flatten()).expand(y.shape[0])
        return self._potential.energy(lambda _: energy_head, y, weight)
