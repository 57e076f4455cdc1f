"""Random calls of raw operators on the CPU, most of them with an argument that does not fit, by seed.

A call starts from arguments of random sizes that fit. Then some of them are replaced: by another shape, dtype,
stride or device, by memory taken away, by numbers that are extreme or not numbers, by shorter lists. An
operator may refuse a call. Whatever it accepts, it must compute without reading beyond any tensor.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast import ops

FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
_NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 7, 2**28, 2**31 - 1, 2**31, 2**62, 2**63 - 1)
_REALS = (0.0, -1.0, 0.5, 1.0, 1e300, 1e-310, math.inf, -math.inf, math.nan)
Arguments = list[Any]


class Draw:
    """Random sizes and tensors of one call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def size(self, most: int, least: int = 1) -> int:
        """Return a size, often a small one, or one beside a power of two."""
        near = 2 ** self.random.randint(0, 13) + self.random.randint(-1, 1)
        return max(least, min(most, self.random.choice((near, self.random.randint(0, 9)))))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def whole(self, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.randint(0, max(1, high), shape, generator=self.generator).to(dtype)

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def rng(self) -> Tensor:
        return ops.rng_state(self.random.randrange(2**32), self.random.randrange(2**31))

    def float(self, halves: bool = True) -> torch.dtype:
        return self.random.choice((*FLOATS, *HALVES) if halves else FLOATS)


def _propagate(draw: Draw) -> Arguments:
    p, n, d, models = draw.size(4), draw.size(1500), draw.size(2100, 0), draw.random.randint(1, 8)
    n = min(n, max(1, 200_000 // max(1, d)))
    dtype = draw.float()
    x, *scores = (draw.normal(p, n, d, dtype=dtype) for _ in range(1 + models))
    rows = (p, n) if draw.flag() else (p,)
    numbers = torch.rand(*rows, models + 2, dtype=torch.float64, generator=draw.generator) + 0.1
    mask = draw.whole(2, p, d, dtype=torch.bool) if draw.flag() else None
    return [x, scores, draw.whole(n, p, n), numbers, draw.rng(), mask, 0, 0]


def _weigh(draw: Draw) -> Arguments:
    p, n, models = draw.size(40), draw.size(20_000), draw.random.randint(0, 8)
    p, dtype = min(p, 100_000 // n + 1), draw.float(halves=False)
    ratio, *energies = (draw.normal(p, n, dtype=dtype) for _ in range(1 + 2 * models))
    exponents = draw.normal(p, models, dtype=torch.float64) if draw.flag() else None
    zeros = torch.zeros(p, dtype=torch.float64)
    state = [
        draw.normal(p, n, dtype=torch.float64),
        zeros,
        draw.whole(n, p, n),
        draw.whole(n, p, n),
    ]
    state += [draw.whole(2, p, dtype=torch.bool), draw.whole(8, p)]
    rest = [draw.rng(), draw.flag(), draw.random.random(), draw.random.randint(0, 5), 0]
    return [*state, ratio, energies[:models], energies[models:], exponents, *rest]


def _resample(draw: Draw) -> Arguments:
    p, n = draw.size(40), draw.size(20_000)
    weights = draw.normal(min(p, 100_000 // n + 1), n, dtype=draw.float(halves=False))
    if draw.flag():
        weights.mul_(draw.random.choice((0.0, 800.0, 1e300, math.inf)))
    scheme = draw.random.randint(0, 5)
    count = n if scheme == 4 or draw.flag() else draw.size(3000)
    return [weights, draw.rng(), count, draw.random.random(), scheme, 0]


def _systematic(draw: Draw) -> Arguments:
    weights = _resample(draw)[0]
    uniform = torch.rand(len(weights), dtype=torch.float64, generator=draw.generator)
    return [weights, uniform, 1.0]


def _noise(draw: Draw) -> Arguments:
    p, n, d = draw.size(4, 0), draw.size(300, 0), draw.size(1100, 0)
    return [
        draw.normal(p, n, d, dtype=draw.float(halves=False)),
        draw.rng(),
        draw.size(15, 0),
        0,
        0,
    ]


def _combination(draw: Draw) -> Arguments:
    count, nodes, dtype = draw.random.randint(1, 8), draw.size(4, 0), draw.float()
    shape = draw.size(300, 0), draw.size(1100, 0)
    tensors = [draw.normal(*shape, dtype=dtype) for _ in range(count)]
    numbers = draw.normal(count, dtype=torch.float64)
    if draw.flag():
        return [tensors, numbers, None, None, None, 0, 0]
    seeds = draw.whole(1000, shape[0] if draw.flag() else 1, dtype=torch.int64)
    words = draw.whole(1000, nodes, dtype=torch.int64)
    return [tensors, numbers, seeds, words, draw.normal(nodes, dtype=torch.float64), 3, 0]


def _signs(draw: Draw) -> Arguments:
    rows, columns = draw.size(9), draw.size(9)
    p, n, d = draw.size(4, 0), draw.size(300, 0), draw.size(9) * rows * columns
    image = [rows, columns] if draw.flag() else [0, 0]
    like = draw.normal(p, n, d, dtype=draw.float())
    return [like, draw.rng(), draw.size(6), *image, draw.size(15, 0), 0, 0]


def _curvature(draw: Draw) -> Arguments:
    p, n, d, dtype = draw.size(4, 0), draw.size(300, 0), draw.size(600, 0), draw.float()
    exponents = draw.normal(p, dtype=torch.float64) if draw.flag() else None
    return [*(draw.normal(p, n, d, dtype=dtype) for _ in range(2)), exponents, 1.5]


def _matched(draw: Draw) -> Arguments:
    p, n = draw.size(4, 0), draw.size(3000)
    exponents = draw.normal(p, dtype=torch.float64) if draw.flag() else None
    levels = torch.tensor([1.0, draw.random.random()], dtype=torch.float64)
    ancestors = draw.whole(n, p, n, dtype=torch.int32)
    return [draw.normal(p, n, dtype=torch.float64), ancestors, exponents, 1.5, levels]


def _score_gram(draw: Draw) -> Arguments:
    models, p, n, d = draw.random.randint(1, 8), draw.size(3), draw.size(70), draw.size(600, 0)
    dtype = draw.float()
    along = draw.normal(p, n, d, dtype=dtype) if draw.flag() else None
    return [draw.normal(models, p, n, d, dtype=dtype), along]


def _reversal(draw: Draw) -> Arguments:
    models, p, n, d = draw.random.randint(1, 8), draw.size(3), draw.size(70), draw.size(600, 0)
    count, dtype = draw.random.randint(1, 3), draw.float()
    scores = [draw.normal(p, n, d, dtype=dtype) for _ in range(models)]
    exponents = draw.normal(p, models, dtype=torch.float64)
    levels = torch.tensor([1.0, draw.random.random()], dtype=torch.float64)
    if draw.flag():
        traces = draw.normal(models, p, n, dtype=torch.float64)
        return [scores, exponents, levels, traces, [], None]
    products = [draw.normal(p, n, count, d, dtype=dtype) for _ in range(models)]
    return [scores, exponents, levels, None, products, draw.normal(p, n, count, d, dtype=dtype)]


def _network(draw: Draw) -> Arguments:
    models, batch, d, width = (
        draw.random.randint(1, 3),
        draw.size(300, 0),
        draw.size(40),
        draw.size(70),
    )
    depth, dtype = draw.random.randint(0, 3), draw.float(halves=False)

    def many(count: int, *shape: int) -> list[Tensor]:
        return [draw.normal(*shape, dtype=dtype) for _ in range(count)]

    rows, shift_rows = (1 if draw.flag() else batch), (1 if draw.flag() else batch)
    weights = [many(models, width, d), many(models, width), many(models * depth, width, width)]
    weights += [many(models, d, width), many(models, d)]
    states = [draw.normal(batch, d, dtype=dtype), draw.normal(models, shift_rows, 4, dtype=dtype)]
    return [*states, many(models, rows, depth * width), *weights]


def _mlp(draw: Draw) -> Arguments:
    return [*_network(draw), draw.flag()]


def _mlp_backward(draw: Draw) -> Arguments:
    network = _network(draw)
    x, models = network[0], len(network[3])
    energy, field = draw.normal(models, len(x)).to(x), draw.normal(models, *x.shape).to(x)
    saved = x.new_empty(0)
    if draw.flag():
        saved = torch.ops.edmfast.mlp_potential(*network, True)[2]
    return [energy, field, *network, saved, draw.flag(), draw.flag()]


def _potentials(order: int) -> Callable[[Draw], Arguments]:
    def make(draw: Draw) -> Arguments:
        batch, d, dtype = draw.size(300, 0), draw.size(900, 0), draw.float(halves=False)
        h, y, v, a, b = (draw.normal(batch, d, dtype=dtype) for _ in range(5))
        w, e, c = (draw.normal(batch, dtype=dtype) for _ in range(3))
        cotangents = [e if draw.flag() else None, v if draw.flag() else None]
        first: Arguments = [h, y, w]
        return [first, [*cotangents, *first], [a, b, c, *cotangents, *first]][order]

    return make


def _assemble(draw: Draw) -> Arguments:
    batch, d = draw.size(300, 0), draw.size(900, 0)
    return [*(draw.normal(batch, d) for _ in range(4)), draw.normal(batch, 3)]


def _norms(order: int) -> Callable[[Draw], Arguments]:
    def make(draw: Draw) -> Arguments:
        sets, groups, dtype = draw.random.randint(1, 3), draw.random.randint(1, 6), draw.float()
        n, c, s = sets * draw.size(9), groups * draw.size(9), draw.size(500)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        last = draw.flag()

        def states() -> Tensor:
            if last:
                return draw.normal(n, s, c, dtype=dtype).mT
            return draw.normal(n, c, s, dtype=dtype)

        scale, shift, to_scale, to_shift = (draw.normal(sets, c, dtype=wide) for _ in range(4))
        mean, rstd = draw.normal(n, groups, dtype=wide), draw.normal(n, groups, dtype=wide)
        flags = [draw.flag(), draw.flag()]
        first = [states(), states(), scale, shift, mean, rstd, *flags]
        if order == 0:
            return [states(), scale, shift, groups, 1e-5, *flags]
        along = [to_scale if draw.flag() else None, to_shift if draw.flag() else None]
        return first if order == 1 else [states(), *along, *first]

    return make


def _attentions(order: int) -> Callable[[Draw], Arguments]:
    def make(draw: Draw) -> Arguments:
        b, h, queries, keys, d = (draw.size(most) for most in (3, 3, 70, 70, 33))
        dtype = draw.float()
        q, a, out, grad = (draw.normal(b, h, queries, d, dtype=dtype) for _ in range(4))
        k, v, e, c = (draw.normal(b, h, keys, d, dtype=dtype) for _ in range(4))
        lse = draw.normal(b, h, queries, dtype=torch.promote_types(dtype, torch.float32))
        mask = draw.whole(2, b, keys, dtype=torch.bool) if draw.flag() else None
        rest = [mask, 0.3, draw.flag()]
        backward = [grad, q, k, v, out, lse, *rest]
        tangents = [tangent if draw.flag() else None for tangent in (a, e, c)]
        forward = [q, k, v, *rest]
        return [forward, backward, [a, e, c, *backward], [*tangents, *forward]][order]

    return make


OPERATORS: dict[str, Callable[[Draw], Arguments]] = {
    "propagate": _propagate,
    "weigh_and_resample": _weigh,
    "resample": _resample,
    "systematic_resample": _systematic,
    "linear_combination": _combination,
    "noise": _noise,
    "signs": _signs,
    "curvature": _curvature,
    "curvature_matched": _matched,
    "score_gram": _score_gram,
    "reversal": _reversal,
    "mlp_potential": _mlp,
    "mlp_potential_backward": _mlp_backward,
    "potential": _potentials(0),
    "potential_backward": _potentials(1),
    "potential_double_backward": _potentials(2),
    "potential_assemble_backward": _assemble,
    "group_norm_silu": _norms(0),
    "group_norm_silu_backward": _norms(1),
    "group_norm_silu_double_backward": _norms(2),
    "attention": _attentions(0),
    "attention_backward": _attentions(1),
    "attention_double_backward": _attentions(2),
    "attention_jvp": _attentions(3),
}


def _other_tensor(tensor: Tensor, draw: Draw) -> Tensor:
    """The tensor with something about it changed."""
    dims, rnd = tensor.dim(), draw.random
    at = rnd.randrange(dims) if dims else 0
    shape = [*tensor.shape]
    kind = rnd.randrange(11)
    if kind < 4 and dims:  # another size: one more, one less, one, none
        shape[at] = (shape[at] + 1, max(0, shape[at] - 1), 1, 0)[kind]
        return torch.zeros(shape, dtype=tensor.dtype)
    if kind == 4:
        return tensor.flatten()
    if kind == 5:
        return tensor[None]
    if kind == 6 and dims > 1:
        return tensor.transpose(at, dims - 1)
    if kind == 7:
        return tensor.to(rnd.choice((torch.int8, torch.int64, torch.float64, torch.float16)))
    if kind == 8 and dims:  # the same shape, with gaps between the numbers
        return tensor.repeat_interleave(2, at).narrow(at, 0, 2 * shape[at])[
            (slice(None),) * at + (slice(None, None, 2),)
        ]
    if kind == 9:
        return tensor.to("meta")
    if tensor.is_floating_point():
        number = torch.tensor(rnd.choice(_REALS), dtype=torch.float64)
        return number.to(tensor.dtype).expand(tensor.shape)
    least, most = (0, 1) if tensor.dtype == torch.bool else (-(2**31), 2**31 - 1)
    return torch.tensor(rnd.choice((least, most))).to(tensor.dtype).expand(tensor.shape)


def _other(value: Any, draw: Draw) -> Any:
    if isinstance(value, Tensor):
        return _other_tensor(value, draw)
    if isinstance(value, list):
        if not value or draw.random.random() < 0.3:
            return value[:-1] if draw.flag() else value + value[-1:]
        at = draw.random.randrange(len(value))
        return [_other_tensor(each, draw) if i == at else each for i, each in enumerate(value)]
    if isinstance(value, bool) or value is None:
        return value
    return draw.random.choice(_NUMBERS if isinstance(value, int) else _REALS)


def call(seed: int) -> tuple[str, Callable[[], Any]]:
    """Return the operator of a seed and its call, which may raise."""
    draw = Draw(seed)
    name = draw.random.choice([*OPERATORS])
    arguments = OPERATORS[name](draw)
    for _ in range(draw.random.choice((0, 1, 1, 2))):
        at = draw.random.randrange(len(arguments))
        arguments[at] = _other(arguments[at], draw)
    if name == "resample" and not 0 < arguments[2] < 10**6:
        arguments[2] = min(arguments[2], 0)  # an accepted count of billions only fills the memory
    return name, lambda: getattr(torch.ops.edmfast, name)(*arguments)
