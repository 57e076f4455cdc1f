"""DiffusersNetwork: a network of diffusers as a backbone, which a student can start from and which can be saved.

`as_denoiser` gives D(x; sigma) = a x + b output, where a and b follow from the training law. `EnergyModel` and
`Denoiser` compute D = c_skip x + c_out F(y, ln(sigma)/4) with y = c_in x. Both are equal for

  F = ((a - c_skip) x + b output)/c_out,  x = y/c_in,

whose two coefficients are computed in float64, because the terms of the first one nearly cancel at low noise.
Source: Karras et al. 2022, arXiv 2206.00364, table 1 and appendix C.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.numbers import as_bool
from edmfast.diffusers.as_denoiser import DiffusersDenoiser
from edmfast.diffusers.network_class import network_class
from edmfast.diffusers.training_law import training_of
from edmfast.models import register_backbone
from edmfast.models.patching.attention import patch_attention
from edmfast.models.preconditioning import check_sigma_data, edm_scaling


@register_backbone
class DiffusersNetwork(nn.Module):
    """A network of diffusers, called as the backbones here are: backbone(y, ln(sigma)/4, **condition) -> like y.

    `edmfast.models.student_from` makes it of a denoiser that `as_denoiser` or `load_teacher` returned. Its
    attention has the second derivatives that the training of an energy needs. diffusers must be installed to make
    it, and to load a saved model that holds it.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.

    Args:
        network: the name of a class of diffusers, such as "UNet2DModel".
        network_config: the arguments of its constructor.
        scheduler_config: the configuration of the scheduler that it was trained for; see `as_denoiser`.
        sigma_data: the sigma_data of the model around this backbone, in the units of x.
        round_timesteps: as for `as_denoiser`.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: a name that is no network of diffusers, or a scheduler whose networks are not known here.
    """

    def __init__(
        self,
        network: str,
        network_config: Mapping[str, Any],
        scheduler_config: Mapping[str, Any],
        sigma_data: float = 0.5,
        round_timesteps: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "network": network,
            "network_config": dict(network_config),
            "scheduler_config": dict(scheduler_config),
            "sigma_data": check_sigma_data(sigma_data),
            "round_timesteps": as_bool("round_timesteps", round_timesteps),
        }
        inner = network_class(network, "the model").from_config(dict(network_config))
        # the levels of a schedule are read, even where a model is built without memory to see its shapes
        with torch.device("cpu"):
            law = training_of(scheduler_config)
        self.denoiser = DiffusersDenoiser(inner, law, round_timesteps, {})
        patch_attention(inner)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the network, None for a network without classes."""
        return self.denoiser.num_classes

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample as the configuration of the network has it, None where it has none."""
        return self.denoiser.sample_shape

    def accepted_conditions(self) -> set[str] | None:
        """Return the names of the conditions that the network takes, or None where it takes any."""
        return self.denoiser.accepted_conditions()

    def forward(self, y: Tensor, c_noise: Tensor, **condition: Any) -> Tensor:
        """Return F like y. y: [B, *shape]. c_noise: [B], ln(sigma)/4. condition: that of the network."""
        sigma = (4 * c_noise.double()).exp()
        scaling = edm_scaling(sigma, self.config["sigma_data"])
        x = unsqueeze_like(1 / scaling.c_in, y).to(y.dtype) * y
        output = self.denoiser.prediction(x, sigma.to(c_noise.dtype), **condition)
        one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
        law = self.denoiser.training_law
        of_state = (law.denoised(one, zero, sigma) - scaling.c_skip) / scaling.c_out / scaling.c_in
        of_output = law.denoised(zero, one, sigma) / scaling.c_out
        result: Tensor = (
            unsqueeze_like(of_state, y).to(y.dtype) * y
            + unsqueeze_like(of_output, y).to(y.dtype) * output
        )
        return result


def backbone_of(denoiser: DiffusersDenoiser, sigma_data: float) -> DiffusersNetwork:
    """Return a copy of the network of a denoiser as a backbone for models of that sigma_data.

    Raises ValueError for a denoiser with bound conditions, for a network that is not of diffusers, and for a
    configuration that JSON cannot hold.
    """
    if denoiser.bound_conditions:
        raise ValueError(
            f"a student cannot keep the bound conditions {', '.join(sorted(denoiser.bound_conditions))}: make the "
            "teacher without them, or pass backbone="
        )
    network = denoiser.network
    backbone = DiffusersNetwork(
        type(network).__name__,
        _plain(getattr(network, "config", None), f"the config of {type(network).__name__}"),
        _plain(denoiser.scheduler_config, "the configuration of the scheduler"),
        sigma_data,
        denoiser.round_timesteps,
    )
    # the tensors of the state bring their dtypes and devices along
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    backbone.denoiser.network.load_state_dict(state, assign=True)
    return backbone.train(network.training)


def _plain(config: Any, what: str) -> dict[str, Any]:
    """Return a configuration as JSON holds it. Of the private entries of diffusers, the class's name is kept."""
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{what} must be a dictionary, given {type(config).__name__}: pass backbone="
        )
    kept = {k: v for k, v in config.items() if k == "_class_name" or not k.startswith("_")}
    try:
        return dict(json.loads(json.dumps(kept)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be saved: {error}") from error
