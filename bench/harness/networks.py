"""Build the networks whose energies are timed, and count the matrix products that they need."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edmfast.models import DhariwalUNet, DiT, EnergyModel, ResidualMLP, SongUNet, UNet

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: ResidualMLP(64, width=128, depth=4),
    "unet": lambda: UNet(1, (32, 64), num_classes=10),
    "unet32": lambda: UNet(3, (64, 128)),
    "unet64": lambda: UNet(3, (64, 128, 128)),
    "dit-xs": lambda: DiT(4, 16, width=192, depth=4, heads=3),
    "dit-s": lambda: DiT(4, 32, **DiT.PRESETS["S"]),
    # DDPM++ of few channels, and the networks of Karras et al. 2022 for CIFAR-10 and ImageNet at 64x64. A step is
    # timed without dropout, whose masks would differ between implementations.
    "ddpmpp-s": lambda: SongUNet(
        32, 3, 3, model_channels=32, channel_mult=(1, 2), num_blocks=1, dropout=0.0
    ),
    "ddpmpp-32": lambda: SongUNet(32, 3, 3, channel_mult=(2, 2, 2), dropout=0.0),
    "adm-64": lambda: DhariwalUNet(64, 3, 3, dropout=0.0),
}
MLP_PRODUCTS = [(64, 128), *[(128, 128)] * 4, (128, 64)]
"""in and out of each layer of "mlp"; that of the noise level is left out, which one level need not pay."""


@functools.cache
def network(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> EnergyModel:
    """The energy `name`, the same at every call, with numbers where its layers start at zero."""
    if dtype == torch.float64:
        # both dtypes have the same weights, so that float64 can judge float32
        return copy.deepcopy(network(name, device)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EnergyModel(BUILDERS[name]())
        for parameter in model.parameters():
            # layers of zeros would make the score trivial, and errors would not show
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return model.to(device)


@functools.cache
def _operands(rows: int, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, device=device)

    return [(ones(o, i), ones(rows, i), ones(rows, o)) for i, o in MLP_PRODUCTS]


def mlp_products(rows: int, device: torch.device, *, training: bool) -> None:
    """Forward and adjoint of "mlp" as bare matrix products, 2 F flops; for training all 6 F."""
    for weight, entry, exit_ in _operands(rows, device):
        entry @ weight.T, exit_ @ weight
        if training:
            entry @ weight.T, exit_ @ weight, exit_.T @ entry, exit_.T @ entry


def mlp_flops(rows: int) -> int:
    """F, of one forward."""
    return 2 * rows * sum(i * o for i, o in MLP_PRODUCTS)
