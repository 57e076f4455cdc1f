"""No operator loses a derivative silently: each tensor input of each operator, in each way to differentiate."""

import functools

import pytest
import torch
import torch.autograd.forward_ad as forward_mode

from edmfast import ops

F64 = torch.float64
RNG = ops.rng_state(1, 2)
ANCESTORS = torch.tensor([[0, 0, 2], [1, 1, 1]], dtype=torch.int32)


@functools.cache  # these are drawn before any transform, because transforms refuse random numbers
def numbers(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=F64)


def weigh(**arguments):
    inputs = {"ratio": numbers(2, 3), "now": numbers(2, 3), "past": numbers(2, 3)}
    inputs |= {"log_weights": numbers(2, 3), "log_z": numbers(2), "exponents": numbers(2, 1)}
    inputs |= arguments
    before = ops.Weights.start(2, 3)._replace(
        log_weights=inputs["log_weights"], log_z=inputs["log_z"]
    )
    return ops.weigh_and_resample(
        before,
        inputs["ratio"],
        [inputs["now"]],
        [inputs["past"]],
        RNG,
        exponents=inputs["exponents"],
    ).log_z


def propagate(x, score, coefficients):
    return ops.propagate(x, [numbers(2, 3, 4), score], ANCESTORS, coefficients, RNG)[0]


def reversal(**arguments):
    inputs = {"scores": numbers(2, 3, 4), "exponents": numbers(2, 2), "levels": numbers(2)}
    inputs |= {"products": numbers(2, 3, 2, 4), "probes": numbers(2, 3, 2, 4)} | arguments
    return ops.reversal(
        [numbers(2, 3, 4), inputs["scores"]],
        inputs["exponents"],
        inputs["levels"],
        products=[numbers(2, 3, 2, 4), inputs["products"]],
        probes=inputs["probes"],
    )[1]


def matched(**arguments):
    inputs = {"curvature": numbers(2, 3), "ancestors": torch.zeros(2, 3, dtype=torch.int32)}
    inputs |= {"levels": numbers(2), "exponent": numbers(2)} | arguments
    return ops.curvature_matched(**inputs)


# each operator has a function of one input, and an example of that input
WITHOUT = {
    "curvature products": (lambda p: ops.curvature(p, numbers(2, 3, 4)), numbers(2, 3, 4)),
    "curvature probes": (lambda v: ops.curvature(numbers(2, 3, 4), v), numbers(2, 3, 4)),
    "curvature exponent": (
        lambda a: ops.curvature(numbers(2, 3, 4), numbers(2, 3, 4), a),
        numbers(2),
    ),
    "curvature_matched curvature": (lambda c: matched(curvature=c), numbers(2, 3)),
    "curvature_matched levels": (lambda v: matched(levels=v), numbers(2)),
    "curvature_matched exponent": (lambda a: matched(exponent=a), numbers(2)),
    "propagate x": (lambda x: propagate(x, numbers(2, 3, 4), numbers(2, 4)), numbers(2, 3, 4)),
    "propagate score": (lambda s: propagate(numbers(2, 3, 4), s, numbers(2, 4)), numbers(2, 3, 4)),
    "propagate coefficients": (
        lambda c: propagate(numbers(2, 3, 4), numbers(2, 3, 4), c),
        numbers(2, 4),
    ),
    "systematic_resample log_weights": (
        lambda w: ops.systematic_resample(w, numbers(2)).log_mean,
        numbers(2, 3),
    ),
    "systematic_resample uniform": (
        lambda u: ops.systematic_resample(numbers(2, 3), u).log_mean,
        numbers(2),
    ),
    **{
        f"resample {scheme}": (
            lambda w, scheme=scheme: ops.resample(w, RNG, scheme=scheme).log_mean,
            numbers(2, 3),
        )
        for scheme in ("systematic", "stratified", "multinomial", "residual", "killing", "ssp")
    },
    "reversal scores": (lambda s: reversal(scores=s), numbers(2, 3, 4)),
    "reversal exponents": (lambda a: reversal(exponents=a), numbers(2, 2)),
    "reversal levels": (lambda v: reversal(levels=v), numbers(2)),
    "reversal traces": (
        lambda t: ops.reversal(
            [numbers(2, 3, 4)] * 2, numbers(2, 2), numbers(2).sort(descending=True)[0], traces=t
        )[1],
        numbers(2, 2, 3),
    ),
    "reversal products": (lambda p: reversal(products=p), numbers(2, 3, 2, 4)),
    "reversal probes": (lambda v: reversal(probes=v), numbers(2, 3, 2, 4)),
    "score_gram scores": (lambda s: ops.score_gram(s)[0], numbers(2, 2, 3, 4)),
    "score_gram displacement": (
        lambda d: ops.score_gram(numbers(2, 2, 3, 4), d)[1],
        numbers(2, 3, 4),
    ),
    "weigh ratio": (lambda r: weigh(ratio=r), numbers(2, 3)),
    "weigh energies": (lambda e: weigh(now=e), numbers(2, 3)),
    "weigh energies_before": (lambda e: weigh(past=e), numbers(2, 3)),
    "weigh exponents": (lambda a: weigh(exponents=a), numbers(2, 1)),
    "weigh log_weights": (lambda w: weigh(log_weights=w), numbers(2, 3)),
    "weigh log_z": (lambda z: weigh(log_z=z), numbers(2)),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_operators_without_derivatives_refuse(name):
    function, example = WITHOUT[name]
    refused = pytest.raises(RuntimeError, match="has no derivative")
    leaf = example.clone().requires_grad_()
    with refused:
        function(leaf)
    with torch.no_grad():
        constant = function(leaf)
    torch.testing.assert_close(constant, function(example), equal_nan=True)
    ones = torch.ones_like(example)
    for grad_mode in (True, False):
        with torch.set_grad_enabled(grad_mode):
            with forward_mode.dual_level(), refused:
                function(forward_mode.make_dual(example, ones))
            with refused:
                torch.func.jvp(function, (example,), (ones,))
    with refused:
        torch.func.grad(lambda t: function(t).sum())(example)
    with refused:
        torch.func.vmap(lambda t: torch.func.jvp(function, (t,), (ones,))[1])(example[None])
    with refused:
        torch.func.jvp(torch.func.vmap(function), (example[None],), (ones[None],))
    with refused:
        torch.func.vmap(function)(leaf[None])
    # a level of forward mode without a tangent on the inputs requests no derivative
    with forward_mode.dual_level():
        torch.testing.assert_close(function(example), constant, equal_nan=True)


NETWORK = ops.Perceptron(numbers(4, 2), numbers(4), [numbers(4, 4)], numbers(2, 4), numbers(2))


def perceptron(place):
    def function(tensor):
        arguments = {"x": numbers(3, 2), "coefficients": numbers(3, 4), "shifts": numbers(3, 4)}
        parts = NETWORK._asdict()
        if place in arguments:
            arguments[place] = tensor
        elif place == "layers":
            parts["layers"] = [tensor]
        else:
            parts[place] = tensor
        return ops.mlp_potential(**arguments, network=ops.Perceptron(**parts))[1]

    return function


REVERSE = {
    **{
        f"attention {which}": (
            lambda t, which=which: ops.attention(
                **{name: t if name == which else numbers(1, 2, 4, 4) for name in "qkv"}
            ),
            numbers(1, 2, 4, 4),
        )
        for which in "qkv"
    },
    **{
        f"group_norm {which}": (
            lambda t, which=which: ops.group_norm(
                **{"x": numbers(2, 4, 3), which: t}, groups=2, silu=True
            ),
            shape,
        )
        for which, shape in (
            ("x", numbers(2, 4, 3)),
            ("weight", numbers(4)),
            ("bias", numbers(4)),
            ("scale", numbers(2, 4)),
            ("shift", numbers(2, 4)),
        )
    },
    "layer_norm": (ops.layer_norm, numbers(2, 3, 4)),
    "rms_norm": (ops.rms_norm, numbers(2, 3, 4)),
    "potential h": (lambda h: ops.potential(h, numbers(2, 3), numbers(2))[0], numbers(2, 3)),
    "potential y": (lambda y: ops.potential(numbers(2, 3), y, numbers(2))[0], numbers(2, 3)),
    "potential weight": (
        lambda w: ops.potential(numbers(2, 3), numbers(2, 3), w)[0],
        numbers(2),
    ),
    **{
        f"potential_assemble {place}": (
            lambda t, place=place: ops.potential_assemble(
                *(t if i == place else numbers(2, 3) for i in range(4))
            ),
            numbers(2, 3),
        )
        for place in range(4)
    },
    **{
        f"mlp_potential {place}": (perceptron(place), example)
        for place, example in (
            ("x", numbers(3, 2)),
            ("coefficients", numbers(3, 4)),
            ("shifts", numbers(3, 4)),
            ("entry", numbers(4, 2)),
            ("entry_bias", numbers(4)),
            ("layers", numbers(4, 4)),
            ("exit", numbers(2, 4)),
            ("exit_bias", numbers(2)),
        )
    },
}


@pytest.mark.parametrize("name", REVERSE)
def test_operators_with_reverse_mode_refuse_the_transforms(name):
    """They refuse torch.func's reverse mode, and all but attention refuse forward mode."""
    function, example = REVERSE[name]
    ones = torch.ones_like(example)
    leaf = example.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    step = 1e-6
    numeric = (function(example + step * ones) - function(example - step * ones)).sum() / (2 * step)
    torch.testing.assert_close(slope.sum(), numeric, rtol=1e-5, atol=1e-5)
    if name.startswith("attention"):  # the one operator with a forward mode
        _, tangent = torch.func.jvp(function, (example,), (ones,))
        torch.testing.assert_close(tangent.sum(), numeric, rtol=1e-5, atol=1e-5)
    else:
        no_forward = pytest.raises(RuntimeError, match="no forward-mode derivative")
        with forward_mode.dual_level(), no_forward:
            function(forward_mode.make_dual(example, ones))
        with no_forward:
            torch.func.jvp(function, (example,), (ones,))
        with no_forward:
            torch.func.jvp(torch.func.vmap(function), (example[None],), (ones[None],))
    with pytest.raises(RuntimeError, match=r"use torch\.autograd\.grad"):
        torch.func.grad(lambda t: function(t).sum())(example)
    if name.startswith("mlp_potential"):  # torch makes no loops over lists of tensors
        with pytest.raises(RuntimeError, match="Batching rule not implemented"):
            torch.func.vmap(function)(example[None])
        return
    # without a rule vmap runs a loop, and autograd differentiates it
    torch.testing.assert_close(torch.func.vmap(function)(example[None])[0], function(example))
    (again,) = torch.autograd.grad(torch.func.vmap(function)(leaf[None]).sum(), leaf)
    torch.testing.assert_close(again, slope)


def test_noise_takes_shapes_only():
    like = numbers(2, 3, 4)
    wanted = ops.standard_normal(like, rng=RNG)
    results = ops.standard_normal(like.clone().requires_grad_(), rng=RNG)
    assert torch.equal(results, wanted)
    assert not results.requires_grad
    value, tangent = torch.func.jvp(
        lambda x: x + ops.standard_normal(x, rng=RNG), (like,), (torch.ones_like(like),)
    )
    assert torch.equal(value, like + wanted)
    assert torch.equal(tangent, torch.ones_like(like))
