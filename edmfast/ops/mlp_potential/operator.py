"""Energies and scores of residual perceptrons in one operator: one NFE of a sampler, of K models at once.

A block of rows passes forward and back through all layers while its activations are on the chip: in cache on
the CPU, where torch multiplies the matrices and C++ does what stands between two products; in registers on a
GPU (Triton). The first derivative, that of a training step or of a probe of the score's Jacobian, is an
operator by hand too; higher ones are left to autograd on the plain formulas.
Source: Thornton et al. 2025, arXiv 2502.12786 (inner-product energies); the adjoints are derived in
`edmfast.ops.mlp_potential.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from edmfast import _extension
from edmfast._internal.derivatives import refuse_transforms
from edmfast.ops._shared.dtypes import HALVES
from edmfast.ops.mlp_potential import reference

DTYPES = (torch.float32, torch.float64)
_ALIGNED = 4
"""Numbers of a row on the CPU: matrix libraries sum it in another order where it does not start at 16 bytes."""


class Perceptron(NamedTuple):
    """Weights as in torch.nn.Linear: h -> layer h + shift, then h + silu of it, between entry and exit."""

    entry: Tensor
    """[W, d]"""
    entry_bias: Tensor
    """[W]"""
    layers: Sequence[Tensor]
    """[W, W] each"""
    exit: Tensor
    """[d, W]"""
    exit_bias: Tensor
    """[d]"""


def _fake(
    x: Tensor, coefficients: Tensor, shifts: list[Tensor], entry: list[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    _, layers, _, _, save = rest
    models, batch = len(entry), x.shape[0]
    saved = x.new_empty(0)
    if save and x.device.type == "cpu" and not _extension.kernel_status()["cpu"].startswith("off"):
        rows = (2 * models + 2 * len(layers)) * batch
        saved = x.new_empty(rows, entry[0].shape[0])
    return x.new_empty(models, batch), x.new_empty(models, *x.shape), saved


def _fake_backward(
    grad_energy: Tensor, grad_field: Tensor, x: Tensor, coefficients: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *lists, _, inputs, weights = rest
    nothing = [x.new_empty(0) for _ in range(8)]
    first = [x.new_empty(x.shape), x.new_empty(coefficients.shape)] if inputs else nothing[:2]
    if not weights:
        return *first, *nothing[2:]
    models = len(lists[0])
    stacked = []
    for index, tensors in enumerate(lists):
        shape = [*tensors[0].shape] if tensors else [*lists[1][0].shape[:1]] * 2
        each = [len(tensors) // models] if index == 3 else []
        stacked.append(lists[1][0].new_empty(models, *each, *shape))
    return *first, *stacked


_extension.define(
    "mlp_potential(Tensor x, Tensor coefficients, Tensor[] shifts, Tensor[] entry, Tensor[] entry_bias, "
    "Tensor[] layers, Tensor[] exit, Tensor[] exit_bias, bool save) -> (Tensor, Tensor, Tensor)",
    reference.mlp_potential,
    _fake,
    triton="mlp_potential",
)
_extension.define(
    "mlp_potential_backward(Tensor grad_energy, Tensor grad_field, Tensor x, Tensor coefficients, "
    "Tensor[] shifts, Tensor[] entry, Tensor[] entry_bias, Tensor[] layers, Tensor[] exit, Tensor[] exit_bias, "
    "Tensor saved, bool inputs, bool weights) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.mlp_potential_backward,
    _fake_backward,
    triton="mlp_potential",
)


def _keep(ctx: Any, inputs: tuple[Any, ...], rest: tuple[Tensor, ...] = ()) -> None:
    """Saves tensors and lists of tensors, after them the rest."""
    ctx.counts = [len(each) if isinstance(each, (list, tuple)) else None for each in inputs]
    ctx.save_for_backward(*_flat(inputs), *rest)


def _flat(inputs: Sequence[Any]) -> list[Any]:
    return [t for one in inputs for t in (one if isinstance(one, (list, tuple)) else [one])]


def _kept(ctx: Any) -> list[Any]:
    tensors = iter(ctx.saved_tensors)
    found = [
        next(tensors) if count is None else [next(tensors) for _ in range(count)]
        for count in ctx.counts
    ]
    return [*found, *tensors]


def _no_slopes(ctx: Any) -> list[Any]:
    return [None if count is None else [None] * count for count in ctx.counts]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)  # what is saved is large, and zeros of its size would be made
    _keep(ctx, inputs[:8], output[2:])


def _backward(ctx: Any, e: Tensor | None, v: Tensor | None, _: None) -> tuple[Any, ...]:
    nothing = _no_slopes(ctx)
    if e is None and v is None:
        return *nothing, None
    kept = _kept(ctx)
    x, models = kept[0], ctx.counts[2]
    e = x.new_zeros(models, len(x)) if e is None else e
    v = x.new_zeros(models, *x.shape) if v is None else v
    asked = [*map(_asked, _flat(ctx.needs_input_grad), ctx.next_functions)]
    inputs, weights = any(asked[:2]), any(asked[2:])
    found = torch.ops.edmfast.mlp_potential_backward(e, v, *kept, inputs, weights)
    lists = nothing[2:]
    if weights:
        lists = [[*stacked.unbind(0)] for stacked in found[2:]]
        lists[3] = [layer for model in lists[3] for layer in model.unbind(0)]
    return *(found[:2] if inputs else (None, None)), *lists, None


def _asked(needed: bool, function: tuple[Any, int]) -> bool:
    """Whether this run of autograd goes on to an input. In training x requires grad, or there would be no score to
    differentiate, and nobody asks for its gradient; a sampler's probe asks for that of x alone."""
    return needed and bool(torch._C._will_engine_execute_node(function[0]))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.flags = inputs[11:]
    ctx.set_materialize_grads(False)
    _keep(ctx, inputs[:10])


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    """By autograd on the plain formulas, whatever the order."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # views, since a tensor that is given twice has a derivative for either place
        given = [
            [t.view_as(t) for t in one] if isinstance(one, list) else one.view_as(one)
            for one in _kept(ctx)
        ]
        x: Any = given[2]
        inputs: Any = *given, x.new_empty(0), *ctx.flags
        outputs = reference.mlp_potential_backward(*inputs)
        wanted = [tensor for tensor in _flat(given) if tensor.requires_grad]
        pairs = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
            if cotangent is not None and output.requires_grad
        ]
        if not pairs:
            return *_no_slopes(ctx), None, None, None
        slopes = torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [cotangent for _, cotangent in pairs],
            create_graph=graph,
            allow_unused=True,
        )
    by_id = {id(tensor): slope for tensor, slope in zip(wanted, slopes, strict=True)}
    found = [
        [by_id.get(id(t)) for t in one] if isinstance(one, list) else by_id.get(id(one))
        for one in given
    ]
    return *found, None, None, None


_extension.differentiate("mlp_potential", _backward, _setup)
_extension.differentiate("mlp_potential_backward", _double_backward, _setup_backward)


def takes(x: Tensor, dtype: torch.dtype, width: int, depth: int) -> bool:
    """Whether a compiled kernel evaluates perceptrons of so many numbers in x, with weights of a dtype: on the
    CPU those of a width whose rows start aligned, on a GPU those that the Triton kernels have tiles for."""
    if x.is_cuda:
        if "mlp_potential" not in _extension.kernel_status()["triton"] or x.dtype != torch.float32:
            return False
        # Triton is imported where it is needed, since it may not be installed
        from edmfast.ops.mlp_potential.triton_launch import fits

        return fits(dtype, x.shape[1:].numel(), width, depth)
    aligned = width <= 2 or width % _ALIGNED == 0
    return x.device.type == "cpu" and x.dtype == dtype and dtype in DTYPES and aligned


def mlp_potential(
    x: Tensor, coefficients: Tensor, shifts: Tensor, network: Perceptron
) -> tuple[Tensor, Tensor]:
    """(E [B], field like x) of one network: `mlp_potentials` for K = 1, without its first dimension.

    x: [B, *shape] of d numbers; coefficients: (c, w, a, b) [B, 4], or [1, 4] for all rows; shifts: [B, depth·W],
    or [1, depth·W].
    """
    energies, fields = mlp_potentials(x, coefficients[None], [shifts], [network])
    return energies[0], fields[0]


def mlp_potentials(
    x: Tensor, coefficients: Tensor, shifts: Sequence[Tensor], networks: Sequence[Perceptron]
) -> tuple[Tensor, Tensor]:
    """(E [K, B] in nats, fields [K, B, *shape]): |y|²/2 - w <h(y), y> and a grad_y(w <h(y), y>) + b y, y = c x.

    x: [B, *shape] of d numbers. coefficients: (c, w, a, b) [K, B, 4], or [K, 1, 4] for all rows: with
    c = a = c_in, b = -c_in and w = sigma_data/sigma the fields are scores. shifts: K of [B, depth·W], or of
    [1, depth·W] for all rows. networks: K of one shape, which may be one and the same. All is float32 or float64;
    on a GPU networks and shifts may be float16 or bfloat16 beside float32 states: products then are of halves
    with sums in float32.
    A row's numbers depend on its place in the batch as those of torch's matrix products do.

    Derivatives with respect to everything: the first by kernels, higher ones by autograd on the plain formulas.
    Raises TypeError for dtypes, ValueError for shapes, RuntimeError for forward-mode differentiation.
    """
    flat = x if x.dim() == 2 else x.flatten(1)
    _check(flat, coefficients, shifts, networks)
    elements = flat.shape[1]
    missing = 0 if flat.is_cuda or elements <= 2 else -elements % _ALIGNED
    if missing:
        flat, networks = pad(flat, (0, missing)), [_padded(net, missing) for net in networks]
    entry, entry_bias, middles, exit, exit_bias = ([*part] for part in zip(*networks, strict=True))
    layers = [layer for middle in middles for layer in middle]
    given: Any = (flat, coefficients, [*shifts], entry, entry_bias, layers, exit, exit_bias)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _flat(given))
    if save:
        given = tuple([*map(_view, t)] if isinstance(t, list) else _view(t) for t in given)
    energies, fields, _ = torch.ops.edmfast.mlp_potential(*given, save)
    if missing:
        fields = fields[..., :elements]
    return energies, fields.reshape(len(networks), *x.shape)


def _view(tensor: Tensor) -> Tensor:
    """Of leaves autograd does not tell whether they are asked for."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor


def _padded(network: Perceptron, missing: int) -> Perceptron:
    """With zeros for numbers of a state that are missing."""
    return network._replace(
        entry=pad(network.entry, (0, missing)),
        exit=pad(network.exit, (0, 0, 0, missing)),
        exit_bias=pad(network.exit_bias, (0, missing)),
    )


def _check(
    x: Tensor, coefficients: Tensor, shifts: Sequence[Tensor], networks: Sequence[Perceptron]
) -> None:
    if not networks or len(shifts) != len(networks):
        raise ValueError(f"need shifts for each network, got {len(shifts)} for {len(networks)}")
    models, (batch, elements) = len(networks), x.shape
    width, depth = networks[0].entry.shape[0], len(networks[0].layers)
    one = coefficients.dim() == 3 and coefficients.shape[1] == 1
    for_all = shifts[0].dim() == 2 and shifts[0].shape[0] == 1
    wanted: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("coefficients", coefficients, (models, 1 if one else batch, 4))
    ]
    for shift, network in zip(shifts, networks, strict=True):
        if len(network.layers) != depth:
            raise ValueError(f"networks must have {depth} layers each, got {len(network.layers)}")
        wanted += [
            ("shifts", shift, (1 if for_all else batch, depth * width)),
            ("entry", network.entry, (width, elements)),
            ("entry_bias", network.entry_bias, (width,)),
            *((f"layer {i}", layer, (width, width)) for i, layer in enumerate(network.layers)),
            ("exit", network.exit, (elements, width)),
            ("exit_bias", network.exit_bias, (elements,)),
        ]
    for name, tensor, shape in wanted:
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {[*shape]}, got {[*tensor.shape]}")
    tensors = [tensor for _, tensor, _ in wanted]
    states, weights = {x.dtype, coefficients.dtype}, {tensor.dtype for tensor in tensors[1:]}
    mixed = x.is_cuda and x.dtype == torch.float32 and len(weights) == 1 and weights <= set(HALVES)
    if states - set(DTYPES) or len(states) > 1 or not (weights == states or mixed):
        names = sorted(map(str, states | weights))
        raise TypeError(f"all must be float32 or all float64, got {names}")
    refuse_transforms("mlp_potential", x, *tensors)
