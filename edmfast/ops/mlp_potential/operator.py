"""`mlp_potentials` and `mlp_potential`: energies and scores of K residual perceptrons, one NFE each, in one pass.

E = |y|²/2 - w <h(y), y> and the field a grad_y(w <h(y), y>) + b y, where h is the network and y = c x. A block
of rows passes forward and back through all layers while its activations are on the chip. On the CPU they stay in
the cache: C++ does the work between two products, and the products too where the processor has AVX-512;
elsewhere torch multiplies matrices. On a GPU they stay in registers, and Triton does all. The first derivative,
which training and probes of the score's Jacobian need, is an operator with kernels of its own. Autograd on the
plain formulas gives higher derivatives.

Source: Thornton et al. 2025, arXiv 2502.12786 (inner-product energies). The adjoints are derived in
`edmfast.ops.mlp_potential.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives, refuse_transforms
from edmfast.ops._shared.dtypes import HALVES
from edmfast.ops.mlp_potential import reference

DTYPES = (torch.float32, torch.float64)
_ALIGNED = 4
"""The width of a row on the CPU is a multiple of this. Matrix libraries sum a row in another order where it does
not start at a multiple of 16 bytes."""


class Perceptron(NamedTuple):
    """The weights of a residual perceptron, each laid out as in torch.nn.Linear.

    h = entry y + entry_bias; for each layer h = h + silu(layer h + shift); then exit h + exit_bias.
    """

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
    # the operator returns energies and fields of all models at once
    models, batch = len(entry), x.shape[0]
    saved = x.new_empty(0)
    # only the C++ kernel saves activations; the shapes must agree with what it returns
    if save and x.device.type == "cpu" and not _extension.kernel_status()["cpu"].startswith("off"):
        rows = (2 * models + 2 * len(layers)) * batch
        saved = x.new_empty(rows, entry[0].shape[0])
    return x.new_empty(models, batch), x.new_empty(models, *x.shape), saved


def _fake_backward(
    grad_energy: Tensor, grad_field: Tensor, x: Tensor, coefficients: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *lists, _, inputs, weights = rest
    # an operator returns tensors only, so results that are not requested are empty
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


def _fake_probe(
    x: Tensor, v: Tensor, coefficients: Tensor, shifts: list[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    models, batch = len(shifts), x.shape[0]
    bent = x.new_empty(models, batch, dtype=torch.float64)
    return x.new_empty(models, batch), x.new_empty(models, *x.shape), bent


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

_extension.define(
    "mlp_potential_probe(Tensor x, Tensor v, Tensor coefficients, Tensor[] shifts, Tensor[] entry, "
    "Tensor[] entry_bias, Tensor[] layers, Tensor[] exit, Tensor[] exit_bias) -> (Tensor, Tensor, Tensor)",
    reference.mlp_potential_probe,
    _fake_probe,
)


def _save(ctx: Any, inputs: tuple[Any, ...], rest: tuple[Tensor, ...] = ()) -> None:
    """Save tensors and lists of tensors for the backward, and after them the rest."""
    ctx.counts = [len(each) if isinstance(each, (list, tuple)) else None for each in inputs]
    ctx.save_for_backward(*_flat(inputs), *rest)


def _flat(inputs: Sequence[Any]) -> list[Any]:
    """Return all items of the inputs, with those of lists in their place."""
    return [
        item for part in inputs for item in (part if isinstance(part, (list, tuple)) else [part])
    ]


def _saved(ctx: Any) -> list[Any]:
    """Return what `_save` was given, with lists in their place."""
    tensors = iter(ctx.saved_tensors)
    inputs = [
        next(tensors) if count is None else [next(tensors) for _ in range(count)]
        for count in ctx.counts
    ]
    return [*inputs, *tensors]


def _no_slopes(ctx: Any) -> list[Any]:
    """Return the gradients of inputs where there are none."""
    return [None if count is None else [None] * count for count in ctx.counts]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2])
    # the saved activations are large, and autograd would make zeros of their size
    ctx.set_materialize_grads(False)
    _save(ctx, inputs[:8], output[2:])


def _backward(ctx: Any, e: Tensor | None, v: Tensor | None, _: None) -> tuple[Any, ...]:
    nothing = _no_slopes(ctx)
    if e is None and v is None:
        return *nothing, None
    saved = _saved(ctx)
    x, models = saved[0], ctx.counts[2]
    e = x.new_zeros(models, len(x)) if e is None else e
    v = x.new_zeros(models, *x.shape) if v is None else v
    requested = [*map(_requested, _flat(ctx.needs_input_grad), ctx.next_functions)]
    inputs, weights = any(requested[:2]), any(requested[2:])
    slopes = torch.ops.edmfast.mlp_potential_backward(e, v, *saved, inputs, weights)
    lists = nothing[2:]
    if weights:
        lists = [[*stacked.unbind(0)] for stacked in slopes[2:]]
        lists[3] = [layer for model in lists[3] for layer in model.unbind(0)]
    return *(slopes[:2] if inputs else (None, None)), *lists, None


def _requested(needed: bool, function: tuple[Any, int]) -> bool:
    """Return whether this run of autograd needs the gradient of an input.

    `needs_input_grad` alone is not enough. In training x requires grad, because the score is a derivative along
    it, but only the gradients of the weights are used. A sampler's probe uses the gradient of x alone.
    """
    return needed and bool(torch._C._will_engine_execute_node(function[0]))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.flags = inputs[11:]
    ctx.set_materialize_grads(False)
    _save(ctx, inputs[:10])


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    """Return the derivative of the backward, of any order, by autograd on the plain formulas."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # a tensor that is passed twice has a derivative for each place, so each place gets a view
        views = [
            [t.view_as(t) for t in part] if isinstance(part, list) else part.view_as(part)
            for part in _saved(ctx)
        ]
        x: Any = views[2]
        inputs: Any = *views, x.new_empty(0), *ctx.flags
        outputs = reference.mlp_potential_backward(*inputs)
        wanted = [tensor for tensor in _flat(views) if tensor.requires_grad]
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
    gradients = [
        [by_id.get(id(t)) for t in part] if isinstance(part, list) else by_id.get(id(part))
        for part in views
    ]
    return *gradients, None, None, None


_extension.differentiate("mlp_potential", _backward, _setup)
_extension.differentiate("mlp_potential_backward", _double_backward, _setup_backward)


def takes(x: Tensor, dtype: torch.dtype, width: int, depth: int) -> bool:
    """Return whether a compiled kernel evaluates perceptrons of this shape at x, with weights of a dtype.

    On the CPU a kernel does if the rows of its layers start aligned, on a GPU if the Triton kernels have tiles.
    """
    if x.is_cuda:
        if "mlp_potential" not in _extension.kernel_status()["triton"] or x.dtype != torch.float32:
            return False
        # Triton may not be installed, so it is imported only here
        from edmfast.ops.mlp_potential.triton_launch import fits

        return fits(dtype, x.shape[1:].numel(), width, depth)
    aligned = width <= 2 or width % _ALIGNED == 0
    return x.device.type == "cpu" and x.dtype == dtype and dtype in DTYPES and aligned


def mlp_potential(
    x: Tensor, coefficients: Tensor, shifts: Tensor, network: Perceptron
) -> tuple[Tensor, Tensor]:
    """Return (E [B] in nats, field like x) of one network: `mlp_potentials` with K = 1, without that dimension.

    x: [B, *shape] of d numbers. coefficients: (c, w, a, b) [B, 4], or [1, 4] for all rows. shifts: [B, depth·W],
    or [1, depth·W] for all rows. Dtypes, derivatives and errors are those of `mlp_potentials`.
    """
    energies, fields = mlp_potentials(x, coefficients[None], [shifts], [network])
    return energies[0], fields[0]


def mlp_potentials(
    x: Tensor, coefficients: Tensor, shifts: Sequence[Tensor], networks: Sequence[Perceptron]
) -> tuple[Tensor, Tensor]:
    """Return (E [K, B] in nats, fields [K, B, *shape]) of K networks h at y = c x.

    E = |y|²/2 - w <h(y), y>, and the field is a grad_y(w <h(y), y>) + b y. With c = a = c_in, b = -c_in and
    w = sigma_data/sigma the field is the score, in units of 1/x.

    x: [B, *shape] of d numbers.
    coefficients: (c, w, a, b) [K, B, 4], or [K, 1, 4] for all rows.
    shifts: K tensors [B, depth·W], or [1, depth·W] for all rows.
    networks: K of one shape; the same one may appear several times.

    All tensors are float32, or all float64. On a GPU networks and shifts may be float16 or bfloat16 beside float32
    states; products are then of half precisions, with sums in float32. The bits of a row depend on its place in
    the batch where torch multiplies, as in its matrix products.

    Derivatives: all orders in every tensor, the first by kernels, higher ones by autograd on the plain formulas.
    Raises TypeError for dtypes, ValueError for shapes, RuntimeError for forward-mode differentiation.
    Source: Thornton et al. 2025, arXiv 2502.12786.
    """
    flat = x if x.dim() == 2 else x.flatten(1)
    _check(flat, coefficients, shifts, networks)
    elements = flat.shape[1]
    missing = _missing(flat)
    if missing:
        flat, networks = pad(flat, (0, missing)), [_padded(net, missing) for net in networks]
    inputs: Any = (flat, coefficients, [*shifts], *_lists(networks))
    # activations are saved only where a backward may come
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _flat(inputs))
    if save:
        inputs = tuple([*map(_view, t)] if isinstance(t, list) else _view(t) for t in inputs)
    energies, fields, _ = torch.ops.edmfast.mlp_potential(*inputs, save)
    if missing:
        fields = fields[..., :elements]
    return energies, fields.reshape(len(networks), *x.shape)


def mlp_potentials_probed(
    x: Tensor,
    v: Tensor,
    coefficients: Tensor,
    shifts: Sequence[Tensor],
    networks: Sequence[Perceptron],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (E [K, B], fields [K, B, *shape], vᵀ (d field/dx) v float64 [K, B]) of K networks.

    v: directions, like x. The rest is as in `mlp_potentials`. It takes three passes through the network, where the
    derivative of a score along v by `mlp_potentials` takes four, and saves nothing. There is no derivative: inputs
    that require grad raise under grad mode, and inputs with a tangent always do.
    Raises TypeError for dtypes, ValueError for shapes, RuntimeError for requested derivatives.
    """
    if v.shape != x.shape or v.dtype != x.dtype:
        raise ValueError(
            f"v must be like x, {x.dtype} {tuple(x.shape)}, got {v.dtype} {tuple(v.shape)}"
        )
    flat, along = (t if t.dim() == 2 else t.flatten(1) for t in (x, v))
    _check(flat, coefficients, shifts, networks)
    missing = _missing(flat)
    if missing:
        flat, along = pad(flat, (0, missing)), pad(along, (0, missing))
        networks = [_padded(net, missing) for net in networks]
    lists = _lists(networks)
    refuse_derivatives("mlp_potentials_probed", flat, along, coefficients, *shifts, *_flat(lists))
    energies, fields, bent = torch.ops.edmfast.mlp_potential_probe(
        flat, along, coefficients, [*shifts], *lists
    )
    if missing:
        fields = fields[..., :-missing]
    return energies, fields.reshape(len(networks), *x.shape), bent


def _missing(flat: Tensor) -> int:
    """Return by how many zeros the rows must be padded."""
    # rows of the CPU are padded to the alignment, except tiny ones, whose sums have one order
    elements = flat.shape[1]
    return 0 if flat.is_cuda or elements <= 2 else -elements % _ALIGNED


def _lists(networks: Sequence[Perceptron]) -> tuple[list[Tensor], ...]:
    """Return (entry, entry_bias, layers, exit, exit_bias) of all networks."""
    entry, entry_bias, middles, exit, exit_bias = ([*part] for part in zip(*networks, strict=True))
    return entry, entry_bias, [layer for middle in middles for layer in middle], exit, exit_bias


def _view(tensor: Tensor) -> Tensor:
    """Return a view, because autograd cannot report whether the gradient of a leaf is requested."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor


def _padded(network: Perceptron, missing: int) -> Perceptron:
    """Return the network for states that are padded with so many zeros."""
    # the added weights multiply zeros of the states, so no result changes
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
    one_row = coefficients.dim() == 3 and coefficients.shape[1] == 1
    one_shift = shifts[0].dim() == 2 and shifts[0].shape[0] == 1
    wanted: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("coefficients", coefficients, (models, 1 if one_row else batch, 4))
    ]
    for shift, network in zip(shifts, networks, strict=True):
        if len(network.layers) != depth:
            raise ValueError(f"networks must have {depth} layers each, got {len(network.layers)}")
        wanted += [
            ("shifts", shift, (1 if one_shift else batch, depth * width)),
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
