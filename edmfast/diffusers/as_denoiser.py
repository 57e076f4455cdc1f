"""`as_denoiser`: a network of diffusers as a denoiser D(x; sigma), which every sampler and `distill` take.

The network is called as network(alpha x, t, **conditions), and its output becomes the denoised states; see
`edmfast.diffusers.training_law` for the formulas.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.nested import with_tensors
from edmfast._internal.numbers import as_bool
from edmfast.diffusers.training_law import Training, scheduler_settings, training_of
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.origin import name_of
from edmfast.models.calling.second_order import watched_attention
from edmfast.models.preconditioning import expand_sigma, refuse_zero

_LABELS = "class_labels"
_OUR_LABELS = "class_label"
"""The name that this package gives to class labels, beside that of diffusers."""
_ADDED = ("text_time", "text_image", "image", "image_hint")
"""The embeddings that read added_cond_kwargs."""


def as_denoiser(
    model: nn.Module, scheduler_config: Any, *, round_timesteps: bool = False, **conditions: Any
) -> DiffusersDenoiser:
    """Return a network of diffusers as a denoiser D(x; sigma) of states x = x_0 + sigma eps.

    The network may be a `UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel`, or another one that is
    called as model(states, timestep, **conditions, return_dict=False) and returns its output first. An output of
    twice the channels holds a learned variance too, which is dropped. Settings of the scheduler that change
    predictions, such as clip_sample and thresholding, do not apply.

    Conditions have the names of the network: class_labels (or class_label), encoder_hidden_states,
    added_cond_kwargs and others. Tensors in them have one row for each sample, or one row that all samples share,
    and floating ones take the dtype of the network. To guide a sampler, wrap the denoiser by
    `edmfast.sampling.guidance.ClassifierFreeGuidance`. To train an energy on it, call
    `edmfast.models.patch_attention` where a second derivative of the network is needed.

    Sources: Karras et al. 2022, arXiv 2206.00364 (preconditioning of other networks, appendix C.3).

    Args:
        model: the network, in eval mode for predictions without dropout.
        scheduler_config: the configuration of the scheduler that the network was trained for, or the scheduler.
            It has the betas and the prediction type (epsilon, v_prediction or sample), or is that of EDM or of a
            flow.
        round_timesteps: give the network the nearest training timesteps, nearest in ln(sigma). By default
            timesteps are continuous. A network with a table of learned timesteps always gets whole ones.
        conditions: conditions of every call. A call may replace them.

    Raises:
        TypeError: a model that is no module, a configuration of another type, or a condition that the network does
            not take. At a call: an x that is not floating, or a condition that the network needs and lacks.
        ValueError: a scheduler whose networks are not known here. At a call: other shapes, a level that is not
            positive, a condition with another number of rows, or a network that returns another shape.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {name_of(model)}")
    whole = as_bool("round_timesteps", round_timesteps)
    law = training_of(scheduler_config)
    denoiser = DiffusersDenoiser(model, law, whole, conditions)
    denoiser.scheduler_config = scheduler_settings(scheduler_config)
    return denoiser


class DiffusersDenoiser(nn.Module):
    """A denoiser around a network of diffusers; `as_denoiser` makes it and describes its arguments.

    Attributes:
        network: the network itself.
        sigma_min: the lowest noise level of training. Below it the network gets its first timestep.
        sigma_max: the highest noise level of training, infinite for flows. Above it the network gets its last one.
        scheduler_config: the configuration of the scheduler, by which the network was trained.
        round_timesteps: True where the network gets whole timesteps on request.
        bound_conditions: the conditions of every call.
    """

    scheduler_config: dict[str, Any]

    def __init__(
        self,
        network: nn.Module,
        training: Training,
        round_timesteps: bool,
        conditions: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network, self.training_law = network, training
        self.sigma_min, self.sigma_max = training.sigma_range
        self.round_timesteps = round_timesteps
        learned = _setting(network, "time_embedding_type") == "learned"
        if learned and not training.counted:
            raise ValueError(
                f"{name_of(network)} has a table of timesteps, and the scheduler gives it ln(sigma)/4"
            )
        self._whole, self._integers = (round_timesteps or learned) and training.counted, learned
        self._parameters_of_call, self._needed = _parameters(network)
        self.bound_conditions = dict(conditions)
        self._named(self.bound_conditions)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the network, None for a network without a table of classes."""
        classes = _setting(self.network, "num_class_embeds")
        return classes if isinstance(classes, int) and classes > 0 else None

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample as the configuration of the network has it, None where it has none."""
        channels, size = (_setting(self.network, name) for name in ("in_channels", "sample_size"))
        if not isinstance(channels, int) or size is None:
            return None
        return (channels, *((size, size) if isinstance(size, int) else size))

    def backbone_for(self, sigma_data: float) -> nn.Module:
        """Return a copy of the network as the backbone of a student with that sigma_data.

        Raises ValueError for a denoiser with bound conditions, which a student cannot keep, and for a network that
        is not of diffusers.
        """
        # the backbone holds a denoiser, so that the two modules import each other
        from edmfast.diffusers.backbone import backbone_of

        return backbone_of(self, sigma_data)

    def accepted_conditions(self) -> set[str] | None:
        """Return the names of the conditions that the network takes, or None where it takes any."""
        names = self._parameters_of_call
        if names is None:
            return None
        if _without_classes(self.network):
            return names - {_LABELS}
        return names | ({_OUR_LABELS} if _LABELS in names else set())

    def timestep_of(self, sigma: float | Tensor) -> Tensor:
        """Return the timesteps that the network receives at noise levels, like sigma, in float64."""
        times = self.training_law.timestep(torch.as_tensor(sigma, dtype=torch.float64))
        return times.round() if self._whole else times

    def sigma_of(self, timestep: float | Tensor) -> Tensor:
        """Return the noise levels at timesteps, like timestep, in float64."""
        return self.training_law.sigma(torch.as_tensor(timestep, dtype=torch.float64))

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised states, like x.

        Args:
            x: [B, *shape], floating.
            sigma: a float, [] or [B], positive, in the units of x.
            condition: the network's conditions; see `as_denoiser`.
        """
        refuse_zero(self, sigma)
        # half precisions cannot hold the squares of large levels
        levels = expand_sigma(sigma, x).to(torch.promote_types(x.dtype, torch.float32))
        output = self.prediction(x, sigma, **condition)
        return self.training_law.denoised(x, output, levels).to(x.dtype)

    def prediction(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the output of the network, like x, for the arguments of a call."""
        levels = expand_sigma(sigma, x)
        batch, dtype = x.shape[0], _dtype_of(self.network, x)
        named = {**self._named(self.bound_conditions), **self._named(condition)}
        self._check_complete(named)
        check_condition_rows(self.network, named, batch)
        rows = {name: with_tensors(v, lambda t: _row(t, batch, dtype)) for name, v in named.items()}
        wide = levels.to(torch.promote_types(x.dtype, torch.float32))
        scaled = (self.training_law.alpha(wide) * x).to(dtype)
        times = self.timestep_of(levels.reshape(-1))
        times = times.long() if self._integers else times.float()
        with watched_attention():
            returned = self.network(scaled, times, **rows, return_dict=False)
        return self._output(returned, x)

    def _named(self, condition: dict[str, Any]) -> dict[str, Any]:
        """Return conditions under the names of the network. Raises TypeError for one that it does not take."""
        named = {_LABELS if key == _OUR_LABELS else key: v for key, v in condition.items()}
        known = self._parameters_of_call
        unknown = [] if known is None else sorted(named.keys() - known)
        if len(named) < len(condition):
            raise TypeError(f"{_LABELS} and {_OUR_LABELS} are one condition: pass one of them")
        if known is not None and unknown:
            raise TypeError(
                f"{name_of(self.network)} takes the conditions {', '.join(sorted(known))}, "
                f"got {', '.join(unknown)}"
            )
        return named

    def _check_complete(self, condition: dict[str, Any]) -> None:
        """Raise TypeError for a condition that the network needs and that is not there."""
        missing = sorted(self._needed - condition.keys())
        added = _setting(self.network, "addition_embed_type") in _ADDED
        if added and "added_cond_kwargs" not in condition:
            missing.append("added_cond_kwargs")
        if missing:
            raise TypeError(
                f"{name_of(self.network)} needs the condition {missing[0]}: pass it to as_denoiser, in extra_args "
                "of a sampler, or in the call"
            )

    def _output(self, returned: Any, x: Tensor) -> Tensor:
        """Return the prediction of a call in the dtype of x, without a learned variance."""
        output = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{name_of(self.network)} must return a tensor, or a tuple that begins with one, got "
                f"{type(returned).__name__}"
            )
        expected = [*x.shape]
        doubled = [x.shape[0], 2 * x.shape[1], *x.shape[2:]]
        if [*output.shape] == doubled:
            output = output[:, : x.shape[1]]
        if [*output.shape] != expected:
            raise ValueError(
                f"{name_of(self.network)} must return {expected} for states of that shape, or {doubled} with a "
                f"learned variance, got {[*output.shape]}"
            )
        return output.to(x.dtype)


def _setting(network: nn.Module, name: str) -> Any:
    """Return an entry of the configuration of a network, None where it has none."""
    config: Any = getattr(network, "config", None)
    return getattr(config, name, None)


def _without_classes(network: nn.Module) -> bool:
    """Return whether a network has no embedding of class labels, although it has an argument for them."""
    config: Any = getattr(network, "config", None)
    names = ("num_class_embeds", "class_embed_type")
    return all(hasattr(config, name) and getattr(config, name) is None for name in names)


def _dtype_of(network: nn.Module, x: Tensor) -> torch.dtype:
    """Return the floating dtype of a network's weights, that of x where it has none."""
    kinds = (p.dtype for p in network.parameters() if p.is_floating_point())
    return next(kinds, x.dtype)


def _row(tensor: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """Return a condition with one row for each sample, in the dtype of the network where it is floating."""
    if tensor.dim() > 0 and tensor.shape[0] == 1 != batch:
        tensor = tensor.expand(batch, *tensor.shape[1:])
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _parameters(network: nn.Module) -> tuple[set[str] | None, set[str]]:
    """Return (the conditions that a network takes, or None for any; those that it needs)."""
    # a method that was replaced on the instance may hide the names of the parameters
    parameters = [*inspect.signature(type(network).forward).parameters.values()]
    free = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters)
    # the first three are the network itself, the states and the timestep
    named = [p for p in parameters[3:] if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    names = {p.name for p in named} - {"return_dict"}
    needed = {p.name for p in named if p.default is p.empty} - {"return_dict"}
    return None if free else names, needed
