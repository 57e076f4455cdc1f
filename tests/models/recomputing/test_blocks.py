"""Recomputing blocks train an energy with the gradients of the plain model, and keep less memory."""

import copy
import weakref

import pytest
import torch
from torch import nn

from edmfast.models import (
    DiT,
    EnergyModel,
    SongUNet,
    UNet,
    checkpoint_blocks,
    patch_attention,
)
from edmfast.models.patching.dropout import seeded_dropout
from edmfast.models.recomputing.blocks import blocks_of, checkpointed_blocks, recomputing_blocks

IMAGE = (1, 8, 8)
SEEDS = torch.arange(2)


def filled(model):
    """Give a model without zeros, so that every part of it has a gradient."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1, generator=generator)
    return model.train()


def unet():
    torch.manual_seed(0)
    return filled(EnergyModel(UNet(1, (8, 16), groups=4, num_classes=3)))


def transformer(dropout=0.0, depth=2):
    torch.manual_seed(0)
    network = DiT(1, 8, width=16, depth=depth, heads=2, num_classes=3, dropout=dropout)
    return filled(EnergyModel(network))


def song():
    torch.manual_seed(0)
    sizes = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "label_dim": 3}
    return filled(EnergyModel(SongUNet(8, 1, 1, attn_resolutions=(4,), **sizes)))


class ForeignBlock(nn.Module):
    """A block of another package: nested arguments, attention, and a tuple of results."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mix = nn.Linear(width, width)

    def forward(self, h, given, *, flag):
        h = h + self.attention(h, given["context"], given["context"], need_weights=False)[0]
        assert flag == "yes"
        return torch.tanh(self.mix(h)) * given["scales"][0], (h, None)


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = ForeignBlock(8), ForeignBlock(8)

    def forward(self, y, c_noise, class_label=None):
        scale = (1 + c_noise[:, None, None].square()).requires_grad_()
        h = y.flatten(2).transpose(1, 2).reshape(len(y), 8, 8)
        given = {"context": h.sin(), "scales": [scale]}
        h, (skip, _) = self.first(h, given, flag="yes")
        h, _ = self.second(h, given, flag="yes")
        return (h + skip).reshape(y.shape)


def foreign():
    torch.manual_seed(0)
    return filled(patch_attention(EnergyModel(Foreign())))


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, *IMAGE, generator=generator, dtype=dtype).requires_grad_()
    sigma = torch.tensor([0.2, 0.5, 1.0, 3.0], dtype=dtype)
    return x, sigma, torch.tensor([0, 3, 1, 2])


def gradients(model, dtype=torch.float32):
    """Return the gradients of a loss of the energy and of its denoised states, and the number of masks drawn."""
    x, sigma, label = batch(dtype)
    condition = {} if isinstance(model.backbone, Foreign) else {"class_label": label}
    with seeded_dropout(SEEDS) as seeded:
        energy, score = model.energy_and_score(x, sigma, **condition)
        loss = score.square().mean() + 0.01 * energy.sum()
    used = [p for p in model.parameters() if p.requires_grad]
    return [*torch.autograd.grad(loss, [x, *used], allow_unused=True)], seeded.calls


def difference(actual, expected):
    """Return the largest relative difference of two lists of gradients."""
    assert [a is None for a in actual] == [e is None for e in expected]
    pairs = [pair for pair in zip(actual, expected, strict=True) if pair[1] is not None]
    return max(float((a - e).detach().norm() / e.detach().norm().clamp_min(1e-9)) for a, e in pairs)


@pytest.mark.parametrize("make", [unet, transformer, song, foreign])
def test_gradients_are_those_of_the_plain_model(make):
    classes = [ForeignBlock] if make is foreign else ()
    model = make().double()
    expected, _ = gradients(model, torch.float64)
    assert checkpoint_blocks(model, classes) is model
    count = {unet: 3, transformer: 2, song: 10, foreign: 2}[make]
    assert len(recomputing_blocks(model)) == count
    kinds = {type(block).__name__ for block in recomputing_blocks(model)}
    assert len(kinds) == 1, kinds
    actual, _ = gradients(model, torch.float64)
    assert difference(actual, expected) < 1e-11


def test_dropout_is_repeated():
    model = transformer(dropout=0.4).double()
    expected, calls = gradients(model, torch.float64)
    assert calls == 4
    checkpoint_blocks(model)
    actual, again = gradients(model, torch.float64)
    assert again == calls
    assert difference(actual, expected) < 1e-11
    model.backbone.blocks[0].dropout.p = 0.0
    assert difference(gradients(model, torch.float64)[0], expected) > 0.01


def test_masks_of_torch_are_repeated():
    """Without seeds, dropout draws from torch's generator, which a recomputation leaves as it was."""
    block = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Tanh())
    model = nn.ModuleList([block])
    x = torch.ones(8, 4, requires_grad=True)

    def slopes():
        torch.manual_seed(7)
        y = block(x)
        state = torch.get_rng_state()
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        weight = torch.autograd.grad(slope.square().sum(), block[0].weight)[0]
        assert torch.equal(torch.get_rng_state(), state)
        return slope, weight

    expected = slopes()
    checkpoint_blocks(model, ["Sequential"])
    assert difference(slopes(), expected) < 1e-5


def test_autocast_is_restored_after_its_block():
    """Under bfloat16 the gradients differ from those in float64 as the plain ones do."""
    model = unet()
    exact, _ = gradients(copy.deepcopy(model).double(), torch.float64)

    def rounded():
        x, sigma, label = batch()
        with torch.autocast("cpu", torch.bfloat16):
            energy, score = model.energy_and_score(x, sigma, class_label=label)
        loss = score.square().mean() + 0.01 * energy.sum()
        used = [x, *model.parameters()]
        return torch.autograd.grad(loss, used, allow_unused=True)

    plain = difference(rounded(), exact)
    checkpoint_blocks(model)
    assert 1e-3 < difference(rounded(), exact) <= 2 * plain


def live_bytes(model):
    """Return the bytes that the graph of a score keeps, apart from the parameters."""
    live = []

    class Packed:
        def __init__(self, tensor):
            self.tensor = tensor
            live.append(weakref.ref(self))

    x, sigma, label = batch()
    with torch.autograd.graph.saved_tensors_hooks(Packed, lambda packed: packed.tensor):
        _, score = model.energy_and_score(x, sigma, class_label=label)
        assert score.requires_grad
    storages = [p.tensor.untyped_storage() for ref in live if (p := ref()) is not None]
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in own}.values())


def test_the_graph_of_a_score_keeps_less():
    """A block of a transformer keeps its input and a cotangent, of two and more dozens of activations."""
    plain = live_bytes(transformer(depth=8))
    every = live_bytes(checkpoint_blocks(transformer(depth=8)))
    second = live_bytes(checkpoint_blocks(transformer(depth=8), every=2))
    assert every < plain / 8
    assert every < second < 0.6 * plain


def test_blocks_are_plain_where_they_do_not_train():
    model = checkpoint_blocks(unet()).eval()
    x, sigma, label = batch()
    _, score = model.energy_and_score(x, sigma, class_label=label)
    pending, names = [score.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in names:
            names.add(node)
            pending += [following for following, _ in node.next_functions]
    assert not any("Recomputed" in node.name() for node in names)
    # torch.func differentiates the plain block, also in training
    block = checkpoint_blocks(
        nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.Tanh())]), [nn.Sequential]
    )[0]
    point = torch.ones(2, 3)
    slope = torch.func.grad(lambda z: block(z).sum())(point)
    leaf = point.clone().requires_grad_()
    assert torch.equal(slope, torch.autograd.grad(block(leaf).sum(), leaf)[0])


def test_copies_have_blocks_of_their_own():
    model = checkpoint_blocks(transformer())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    expected = transformer()
    for parameter in expected.parameters():
        parameter.data.mul_(0.5)
    assert difference(gradients(other)[0], gradients(expected)[0]) < 1e-5
    assert difference(gradients(model)[0], gradients(transformer())[0]) < 1e-5


def test_the_context_restores_the_model():
    model = unet()
    with checkpointed_blocks(model):
        assert len(recomputing_blocks(model)) == 3
    assert recomputing_blocks(model) == []
    assert all("forward" not in vars(module) for module in model.modules())
    chosen = checkpoint_blocks(model, ["Attention"])
    with checkpointed_blocks(chosen):
        assert len(recomputing_blocks(chosen)) == 1
    assert len(recomputing_blocks(chosen)) == 1


def test_blocks_are_found_by_class_and_by_name():
    model = unet()
    assert len(blocks_of(model)) == 3
    named = blocks_of(model, ["Attention", "ResidualBlock"])
    assert named == blocks_of(model, [type(block) for block in named])
    assert len(named) == 4
    assert blocks_of(model, "UNet") == [model.backbone]


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x)


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x.add_(1))


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.outside = [torch.ones(3, requires_grad=True)]

    def forward(self, x):
        return self.layer(x) * self.outside[0].exp()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Stateful, "class Stateful changes its arguments, parameters or buffers in place"),
        (Adding, "class Adding changes its arguments, parameters or buffers in place"),
        (Reading, r"class Reading reads a tensor \[3\] that requires grad and is none of"),
    ],
)
def test_blocks_that_cannot_recompute_are_refused(kind, message):
    model = checkpoint_blocks(nn.ModuleList([kind()]))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match=message):
        model[0](x).square().sum().backward()


def test_mistakes_are_named():
    with pytest.raises(
        TypeError, match=r"takes a torch\.nn\.Module, given test_mistakes_are_named"
    ):
        checkpoint_blocks(test_mistakes_are_named)
    with pytest.raises(
        ValueError, match=r"Linear has no blocks that could recompute.*classes are \['Linear'\]"
    ):
        checkpoint_blocks(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"sought are modules of \['Conv1d', 'Tower'\]"):
        checkpoint_blocks(unet(), ["Tower", nn.Conv1d])
    with pytest.raises(ValueError, match="every"):
        checkpoint_blocks(unet(), every=0)


def test_seeds_are_not_shared_with_the_call():
    """A recomputation counts its masks from those of the call, and leaves the caller's count as it is."""
    model = checkpoint_blocks(transformer(dropout=0.3))
    x, sigma, label = batch()
    with seeded_dropout(SEEDS) as seeded:
        _, score = model.energy_and_score(x, sigma, class_label=label)
        assert seeded.calls == 4
    score.square().sum().backward()
    assert seeded.calls == 4
