"""Seeded dropout has the right distribution and depends only on seed, step, call and sample."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edmfast.models.patching.dropout import of_rows, row_seeds, seeded_dropout


def drop(x, p=0.3, seed=1, step=2, function="dropout", **options):
    with seeded_dropout(row_seeds(seed, step, slice(0, len(x)))) as drawn:
        out = getattr(F, function)(x, p, **options)
    return out, drawn.calls


def test_distribution():
    x = torch.ones(400, 500)
    for p in (0.1, 0.5, 0.9):
        out, calls = drop(x, p)
        assert calls == 1
        kept = out != 0
        assert torch.equal(out[kept], torch.full((int(kept.sum()),), 1 / (1 - p)))
        # five standard deviations for 200,000 independent draws
        assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all(p):
    x = torch.randn(5, 6)
    assert torch.equal(drop(x, p)[0], x * (1 - p))


def test_masks_follow_seed_step_and_call_and_nothing_else():
    x = torch.ones(8, 50)
    first = drop(x)[0]
    before = torch.get_rng_state()
    assert torch.equal(drop(x)[0], first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(drop(x, seed=2)[0], first)
    assert not torch.equal(drop(x, step=3)[0], first)
    with seeded_dropout(row_seeds(1, 2, slice(0, 8))):
        pair = F.dropout(x, 0.3), F.dropout(x, 0.3)
    assert torch.equal(pair[0], first)
    assert not torch.equal(pair[1], first)


def test_a_sample_has_its_mask_in_any_batch():
    x = torch.randn(9, 4, 6)
    assert torch.equal(drop(x[:3])[0], drop(x)[0][:3])


@pytest.mark.parametrize(
    ("function", "shape", "trailing"),
    [
        ("dropout1d", (4, 30, 5), 1),
        ("dropout2d", (4, 30, 5, 5), 2),
        ("dropout2d", (4, 30, 5), 1),
        ("dropout3d", (4, 30, 2, 2, 2), 3),
    ],
)
def test_whole_channels(function, shape, trailing):
    kept = (drop(torch.ones(shape), 0.5, function=function)[0] != 0).flatten(-trailing)
    assert torch.equal(kept.all(-1), kept.any(-1))
    assert kept.any()
    assert not kept.all()


def test_modules_modes_and_places():
    x = torch.ones(4, 30)
    layer = nn.Dropout(0.5)
    with seeded_dropout(row_seeds(0, 0, slice(0, 4))) as drawn:
        assert (layer(x) == 0).any()
        assert layer.eval()(x) is x
        again = torch.ones(4, 30)
        assert F.dropout(again, 0.5, inplace=True) is again
        assert (again == 0).any()
    assert drawn.calls == 2


def test_inside_torchs_own_layers_and_in_this_thread_only():
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 8)
    outputs = []
    for _ in range(2):
        with seeded_dropout(row_seeds(0, 0, slice(0, 4))) as drawn:
            outputs.append(layer(x, x, x)[0])
            there = threading.Thread(target=F.dropout, args=(x,))
            there.start()
            there.join()
        assert drawn.calls == 1
    assert torch.equal(*outputs)
    original = F.dropout
    with seeded_dropout(row_seeds(0, 0, slice(0, 4))), pytest.raises(ValueError, match="given 2"):
        F.dropout(x, 2)
    assert F.dropout is original


def test_derivatives_keep_the_mask():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def call(x):
        return drop(x.sin(), 0.4)[0]

    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)


def test_probability_out_of_range():
    with pytest.raises(ValueError, match=r"\[0, 1\], given 1.5"):
        drop(torch.ones(2, 2), 1.5)


def test_rows_of_another_order_have_their_own_masks():
    x = torch.ones(4, 6)
    seeds = row_seeds(0, 0, slice(0, 4))
    with seeded_dropout(seeds) as drawn:
        first = F.dropout(x)
        with of_rows(seeds.flip(0).repeat(2)):
            other = F.dropout(x.repeat(2, 1))
        with of_rows(None):
            third = F.dropout(x)
        assert drawn.calls == 3
    with seeded_dropout(seeds):
        F.dropout(x)
        second = F.dropout(x)
        assert torch.equal(F.dropout(x), third)
    assert torch.equal(other, second.flip(0).repeat(2, 1))
    assert not torch.equal(first, second)
    with of_rows(seeds):
        assert torch.equal(F.dropout(x, training=False), x)
