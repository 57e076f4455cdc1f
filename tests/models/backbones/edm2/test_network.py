"""EDM2UNet has the published sizes and names, keeps unit variance, is twice differentiable, and learns."""

import copy

import pytest
import torch
from torch.func import functional_call

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.models import (
    Denoiser,
    EDM2UNet,
    EnergyModel,
    checkpoint_blocks,
    load_model,
    save_model,
)
from edmfast.models.backbones.edm2.block import Block, BlockKind
from edmfast.models.backbones.edm2.functions import mp_silu, mp_sum, normalised
from edmfast.models.backbones.edm2.layers import MPLayer
from tests.small_models import edm2


def open_gains(net, size=0.5):
    """Return the network with gains that let embedding and output through, which start at zero."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(size)
    return net


def tiny(**options):
    return open_gains(edm2(**({"label_dim": 3} | options)))


def size(x):
    return float(x.detach().double().square().mean().sqrt())


def test_published_sizes():
    """The sizes, in millions of parameters, are those of table 2 of the paper (ImageNet-512)."""
    sizes = {"XS": 125, "S": 280, "M": 498, "L": 777, "XL": 1119, "XXL": 1523}
    assert EDM2UNet.PRESETS.keys() == sizes.keys()
    for name, millions in sizes.items():
        with torch.device("meta"):
            net = EDM2UNet(64, 4, 1000, **EDM2UNet.PRESETS[name])
        count = sum(parameter.numel() for parameter in net.parameters()) / 1e6
        assert round(count) == millions


def test_names_and_shapes_of_a_state():
    state = edm2(label_dim=3, num_blocks=1).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {
        "emb_fourier.freqs": (4,),
        "emb_fourier.phases": (4,),
        "emb_noise.weight": (8, 4),
        "emb_label.weight": (8, 3),
        "enc.4x4_conv.weight": (4, 2, 3, 3),
        "enc.4x4_block0.emb_gain": (),
        "enc.4x4_block0.conv_res0.weight": (4, 4, 3, 3),
        "enc.4x4_block0.emb_linear.weight": (4, 8),
        "enc.2x2_down.conv_res1.weight": (4, 4, 3, 3),
        "enc.2x2_block0.conv_res0.weight": (8, 8, 3, 3),
        "enc.2x2_block0.conv_skip.weight": (8, 4, 1, 1),
        "enc.2x2_block0.attn_qkv.weight": (24, 8, 1, 1),
        "enc.2x2_block0.attn_proj.weight": (8, 8, 1, 1),
        "dec.2x2_in0.attn_qkv.weight": (24, 8, 1, 1),
        "dec.2x2_in1.conv_res0.weight": (8, 8, 3, 3),
        "dec.2x2_block1.conv_res0.weight": (8, 12, 3, 3),
        "dec.2x2_block1.conv_skip.weight": (8, 12, 1, 1),
        "dec.4x4_up.conv_res1.weight": (8, 8, 3, 3),
        "dec.4x4_block1.conv_res0.weight": (4, 8, 3, 3),
        "out_conv.weight": (1, 4, 3, 3),
        "out_gain": (),
    }
    assert {name: shapes.get(name) for name in wanted} == wanted
    assert "dec.2x2_in1.attn_qkv.weight" not in shapes
    assert "enc.4x4_block0.attn_qkv.weight" not in shapes


def reference_block(state, x, embedding, heads, res, attn):
    """Return the output of an encoder's block by the formulas of the paper, one head and pixel at a time."""

    def normal(w):
        norm = w.flatten(1).norm(dim=1).view(-1, *[1] * (w.dim() - 1))
        n = w[0].numel()
        return w / (1e-4 + norm / n**0.5) / n**0.5

    conv = torch.nn.functional.conv2d
    x = conv(x, normal(state["conv_skip.weight"]))
    x = x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())
    scale = embedding @ normal(state["emb_linear.weight"]).T * state["emb_gain"] + 1
    silu = torch.nn.functional.silu
    h = conv(silu(x) / 0.596, normal(state["conv_res0.weight"]), padding=1)
    h = conv(
        silu(h * scale[:, :, None, None]) / 0.596, normal(state["conv_res1.weight"]), padding=1
    )
    x = torch.lerp(x, h, res) / ((1 - res) ** 2 + res**2) ** 0.5
    qkv = conv(x, normal(state["attn_qkv.weight"]))
    batch, channels, height, width = x.shape
    attended = torch.zeros_like(x)
    for b in range(batch):
        # the channels of a state are ordered by head, number and the three kinds
        split = qkv[b].reshape(heads, channels // heads, 3, height * width)
        for head in range(heads):
            q, k, v = (
                part / (1e-4 + part.square().mean(0).sqrt()) for part in split[head].unbind(1)
            )
            weights = torch.softmax(q.T @ k / (channels // heads) ** 0.5, 1)
            rows = slice(head * channels // heads, (head + 1) * channels // heads)
            attended[b, rows] = (v @ weights.T).reshape(-1, height, width)
    x = (
        torch.lerp(x, conv(attended, normal(state["attn_proj.weight"])), attn)
        / ((1 - attn) ** 2 + attn**2) ** 0.5
    )
    return x.clamp(-0.9, 0.9)


def test_a_block_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    kind = BlockKind(6, 4, 0.0, 0.3, 0.4, 0.9)
    block = open_gains(Block(5, 8, kind, attention=True)).double()
    x, embedding = torch.randn(2, 5, 3, 3).double(), torch.randn(2, 6).double()
    wanted = reference_block(block.state_dict(), x, embedding, 2, 0.3, 0.4)
    assert (wanted.abs() == 0.9).any()
    torch.testing.assert_close(block(x, embedding), wanted, rtol=1e-6, atol=1e-8)


def test_a_block_of_the_decoder_takes_its_skip_before_the_norm_of_nothing():
    """The input of a decoder's block is not normalised, and its skip is mixed at the sum."""
    torch.manual_seed(0)
    kind = BlockKind(6, 4, 0.0, 0.3, 0.3, None)
    block = Block(5, 4, kind, decoder=True).double()
    x, embedding = 3 * torch.randn(2, 5, 4, 4).double(), torch.randn(2, 6).double()
    h = block.conv_res1(mp_silu(block.conv_res0(mp_silu(x))))
    wanted = mp_sum(block.conv_skip(x), h, 0.3)
    torch.testing.assert_close(block(x, embedding), wanted)
    encoder = Block(5, 5, kind).double()
    with torch.no_grad():
        encoder.conv_res1.weight.zero_()
    torch.testing.assert_close(encoder(x, embedding), mp_sum(normalised(x, 1), 0 * x, 0.3))


def test_every_block_keeps_unit_variance():
    torch.manual_seed(0)
    net = EDM2UNet(
        32,
        3,
        10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=2,
        attn_resolutions=(16,),
        channels_per_head=32,
    )
    sizes = {}

    def record(name):
        def hook(module, arguments, output):
            sizes[name] = size(output)

        return hook

    for part in ("enc", "dec"):
        for name, layer in getattr(net, part).items():
            layer.register_forward_hook(record(f"{part}.{name}"))
    open_gains(net, 1.0)
    with torch.no_grad():
        for block in net.modules():
            if isinstance(block, Block):
                block.emb_gain.zero_()
        output = net(torch.randn(8, 3, 32, 32), torch.linspace(-1, 1, 8), torch.arange(8))
    assert len(sizes) == 15
    for name, found in sizes.items():
        # pixels at the border see zeros beyond it, and sums are not of independent numbers
        assert 0.8 < found < 1.1, (name, found)
    assert 0.8 < size(output) < 1.1


@pytest.mark.parametrize("decoder", [False, True])
def test_a_block_keeps_unit_variance_away_from_the_border(decoder):
    torch.manual_seed(0)
    block = Block(96, 128, BlockKind(64, 64, 0.0, 0.3, 0.3, None), decoder=decoder)
    with torch.no_grad():
        found = size(block(torch.randn(2, 96, 16, 16), torch.randn(2, 64))[..., 2:-2, 2:-2])
    assert found == pytest.approx(1, abs=0.04)


def test_its_energy_starts_as_the_gaussian_one():
    model = EnergyModel(edm2(), sigma_data=0.7)
    x, sigma = torch.randn(5, 1, 4, 4), torch.tensor([0.01, 0.1, 1.0, 5.0, 50.0])
    energy, score = model.energy_and_score(x, sigma)
    variance = sigma.square() + 0.49
    torch.testing.assert_close(energy, x.square().sum((1, 2, 3)) / (2 * variance))
    torch.testing.assert_close(score, -x / variance[:, None, None, None])


def test_every_parameter_and_condition_matters():
    net = tiny()
    y, label = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    output = net(y, torch.zeros(4), label)
    gradients = torch.autograd.grad(output.square().sum(), [*net.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not torch.allclose(net(y, torch.ones(4), label), output)
    assert not torch.allclose(net(y, torch.zeros(4), label.flip(0)), output)
    # the label label_dim, no label and a row of zeros are one and the same
    torch.testing.assert_close(net(y, torch.zeros(4))[3], output[3], rtol=1e-4, atol=1e-5)
    rows = torch.eye(4, 3)
    torch.testing.assert_close(net(y, torch.zeros(4), rows), output, rtol=1e-4, atol=1e-5)


def test_derivatives_of_its_energy():
    model = EnergyModel(tiny(label_dim=2)).double()
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    condition = {"class_label": torch.tensor([0, 2])}

    def energy(x):
        return model.energy(x, 0.5, **condition)

    def denoise(x, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return functional_call(model, named, (x, 0.5), condition)

    assert torch.autograd.gradcheck(energy, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, x, fast_mode=True)
    inputs = (x, *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(denoise, inputs, fast_mode=True)


@pytest.mark.parametrize("labelled", [False, True])
def test_results_do_not_depend_on_the_batch(labelled):
    model = EnergyModel(tiny())
    x, label = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 3, 0])
    condition = {"class_label": label} if labelled else {}
    for method in (model.energy_and_score, lambda *a, **c: (Denoiser(model.backbone)(*a, **c),)):
        whole = method(x, 0.4, **condition)
        alone = method(x[2:3], 0.4, **{name: value[2:3] for name, value in condition.items()})
        for a, b in zip(whole, alone, strict=True):
            assert torch.equal(a[2], b[0])


def test_channels_last():
    model = EnergyModel(tiny()).double()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    wanted = model.energy_and_score(x, 0.4)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    result = other.energy_and_score(x.contiguous(memory_format=torch.channels_last), 0.4)
    for a, b in zip(result, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16():
    model = EnergyModel(tiny())
    x = torch.randn(3, 1, 4, 4)
    wanted = model(x, 0.4)
    with torch.autocast("cpu", torch.bfloat16):
        result = model(x, 0.4)
    assert result.dtype == torch.float32
    assert size(result - wanted) < 0.02 * size(wanted)
    half = copy.deepcopy(model).bfloat16()
    result = half(x.bfloat16(), 0.4)
    assert result.dtype == torch.bfloat16
    assert size(result.float() - wanted) < 0.03 * size(wanted)


def images(count=64):
    torch.manual_seed(0)
    return 0.5 * torch.randn(count, 1, 4, 4)


SETTINGS = {"mode": "dsm", "batch_size": 8, "warmup_steps": 0}


def test_weights_are_normalised_after_every_step():
    student = EnergyModel(edm2())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.5)
    config = DistillConfig(steps=2, learning_rate=0.1, ema_decay=0.0, **SETTINGS)
    distill(None, student, images(), config=config, progress=False)
    layers = [layer for layer in student.modules() if isinstance(layer, MPLayer)]
    assert len(layers) > 20
    for layer in layers:
        norms = layer.weight.flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=2e-4)


def test_normalising_changes_no_output():
    net = tiny()
    y = torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, MPLayer):
                layer.weight.mul_(3)
        wanted = net(y, torch.zeros(3))
        net.after_update()
    torch.testing.assert_close(net(y, torch.zeros(3)), wanted, rtol=1e-3, atol=1e-3)


def test_blocks_that_recompute_have_the_same_gradients():
    config = DistillConfig(steps=3, **SETTINGS)
    plain, recomputing = (EnergyModel(tiny(dropout=0.2)) for _ in range(2))
    checkpoint_blocks(recomputing)
    losses = [
        distill(None, student, images(), config=config, progress=False).losses
        for student in (plain, recomputing)
    ]
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.slow
def test_a_compiled_run_equals_an_eager_one():
    config = DistillConfig(steps=3, **SETTINGS)
    compiled = DistillConfig(steps=3, compile=True, **SETTINGS)
    losses = [
        distill(None, EnergyModel(tiny()), images(), config=c, progress=False).losses
        for c in (config, compiled)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    model = EnergyModel(tiny())
    x = torch.randn(3, 1, 4, 4)
    wanted = model.energy_and_score(x, 0.4)
    model.compile()
    for a, b in zip(model.energy_and_score(x, 0.4), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_learns():
    means = torch.tensor([[1.0, 0.0] * 8, [0.0, 1.0] * 8]).double()
    teacher = GaussianMixture(means, [0.2, 0.3])
    data = teacher.sample(500, seed=0).float().reshape(-1, 1, 4, 4)

    def flat_teacher(x, sigma):
        return teacher.denoise(x.flatten(1), sigma).reshape(x.shape)

    student = EnergyModel(edm2(model_channels=8))
    config = DistillConfig(steps=40, batch_size=16, learning_rate=2e-2, warmup_steps=5)
    losses = distill(flat_teacher, student, data, config=config, progress=False).losses
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()


def test_save_and_load(tmp_path):
    model = EnergyModel(tiny(dropout=0.1, clip_act=None), sigma_data=0.9).eval()
    save_model(model, tmp_path / "edm2.safetensors")
    loaded = load_model(tmp_path / "edm2.safetensors")
    assert loaded.backbone.config == model.backbone.config
    x, label = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 3, 0])
    result = loaded.energy_and_score(x, 0.3, class_label=label)
    for a, b in zip(result, model.energy_and_score(x, 0.3, class_label=label), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_resolution": 5}, "img_resolution must be a multiple of 2"),
        ({"channels_per_head": 3}, "multiple of channels_per_head=3 channels, given 8"),
        ({"dropout": 1.0}, r"\[0, 1\), given 1.0"),
        ({"res_balance": 1.5}, "res_balance"),
        ({"clip_act": 0.0}, "clip_act"),
        ({"label_dim": -1}, "label_dim"),
        ({"channel_mult": ()}, "channel_mult"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        edm2(**arguments)


def test_bad_calls():
    net, y = tiny(), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"must be \[B, 1, 4, 4\], given \[B, 1, 4, 8\]"):
        net(torch.zeros(2, 1, 4, 8), torch.zeros(2))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3 .* given 0\.\.4"):
        net(y, torch.zeros(2), torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="label_dim=0 takes no class_label"):
        edm2()(y, torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"class_label must be int64 \[2\]"):
        EnergyModel(net).energy(y, 0.5, class_label=torch.tensor([0, 1, 2]))
