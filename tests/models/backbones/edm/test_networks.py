"""SongUNet and DhariwalUNet of every kind: conditions, starting weights, derivatives, bits, training, errors."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bench.rivals.plain_networks import by_formula, plain_formulas
from edmfast import DistillConfig, EnergyModel, distill
from edmfast._internal.rows import unpadded
from edmfast.distill.gradients import gradient_function
from edmfast.distill.loss import TrainingLoss
from edmfast.models import Denoiser, DhariwalUNet, initialise_from, load_model, save_model
from edmfast.models.backbones.edm.block import Block
from edmfast.models.patching.dropout import row_seeds
from tests.small_models import dhariwal, song

NCSN = {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": (1, 3, 3, 1)}
KINDS = {
    "ddpmpp": lambda **options: song(**options),
    "ncsnpp": lambda **options: song(**NCSN, encoder_type="residual", **options),
    "skips": lambda **options: song(**NCSN, encoder_type="skip", decoder_type="skip", **options),
    "adm": lambda **options: dhariwal(**options),
}


def filled(network, std=0.2):
    """Replace layers of zeros, behind which nothing would be seen."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=draws))
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_and_condition_matters(kind):
    network = filled(KINDS[kind](label_dim=3, augment_dim=2)).eval()
    y, label, augment = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3]), torch.randn(4, 2)
    output = network(y, torch.zeros(4), label, augment)
    gradients = torch.autograd.grad(output.square().sum(), [*network.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for other in (
        network(y, torch.ones(4), label, augment),
        network(y, torch.zeros(4), label.flip(0), augment),
        network(y, torch.zeros(4), None, augment),
        network(y, torch.zeros(4), label, augment.flip(0)),
        network(y, torch.zeros(4), label),
    ):
        assert not torch.allclose(other, output, rtol=1e-4)
    torch.testing.assert_close(network(y, torch.zeros(4), None, augment)[3], output[3])
    torch.testing.assert_close(
        network(y, torch.zeros(4), label, torch.zeros(4, 2)), network(y, torch.zeros(4), label)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_energy_starts_as_the_gaussian_one(kind):
    torch.manual_seed(0)
    model = EnergyModel(KINDS[kind]())
    x = torch.randn(2, 1, 4, 4)
    energy, score = model.energy_and_score(x, 0.7)
    variance = 0.7**2 + 0.5**2
    torch.testing.assert_close(energy, x.square().flatten(1).sum(1) / (2 * variance))
    torch.testing.assert_close(score, -x / variance)


def test_starting_weights():
    torch.manual_seed(0)
    block = song(model_channels=64, channel_mult=(1, 1)).enc["2x2_block0"]
    limit = (6 / (2 * 9 * 64)) ** 0.5
    assert 0.98 * limit < block.conv0.weight.abs().max() <= limit
    assert 0.98e-5 * limit < block.conv1.weight.abs().max() <= 1e-5 * limit
    limit = (0.1 * 6 / 128) ** 0.5
    assert 0.98 * limit < block.qkv.weight.abs().max() <= limit
    assert block.conv0.bias.eq(0).all()
    network = dhariwal(model_channels=64, channel_mult=(1, 1), label_dim=4)
    block = network.enc["2x2_block0"]
    limit = 1 / (9 * 64) ** 0.5
    assert 0.98 * limit < block.conv0.weight.abs().max() <= limit
    assert not block.conv1.weight.any()
    assert not block.proj.weight.any()
    assert 0.9 < network.map_label.weight.std() < 1.1


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_those_of_plain_formulas(kind):
    model = EnergyModel(filled(KINDS[kind](label_dim=2, dropout=0.0))).double()
    draws = torch.Generator().manual_seed(2)
    x, target = torch.randn(2, 3, 1, 4, 4, generator=draws, dtype=torch.float64)
    sigma, label = torch.tensor([0.3, 1.0, 2.0]).double(), torch.tensor([0, 1, 2])
    loss = TrainingLoss(model, 0.0)
    batch = {"x": x, "sigma": sigma, "target": target, "class_label": label}
    step = gradient_function(loss, dict(loss.named_parameters()), compile=False)
    value, gradients = step(batch)
    with plain_formulas(by_formula):
        expected, by_torch = step(batch)
    torch.testing.assert_close(value, expected)
    for gradient, plain in zip(gradients, by_torch, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["skips", "adm"])
def test_gradients_of_a_score_by_differences(kind):
    model = EnergyModel(filled(KINDS[kind]())).double().eval()
    # one block with attention, one that doubles and the embedding: all kinds of layers
    chosen = ("2x2_in0.", "4x4_up.conv0.", "4x4_up.skip.", "map_layer0.", "2x2_down.affine.")
    named = [(n, p) for n, p in model.named_parameters() if any(part in n for part in chosen)]
    names, values = zip(*named, strict=True)
    assert len(names) > 15
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)

    def denoise(x, *parameters):
        with unpadded():
            return functional_call(model, dict(zip(names, parameters, strict=True)), (x, 0.5))

    inputs = (x.requires_grad_(), *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(denoise, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_the_same_bits_in_every_batch(kind):
    model = EnergyModel(filled(KINDS[kind](label_dim=3))).eval()
    x, label = torch.randn(37, 1, 4, 4), torch.arange(37) % 4
    sigma = torch.linspace(0.1, 3, 37)
    energy, score = model.energy_and_score(x, sigma, class_label=label)
    for rows in (slice(5, 6), slice(3, 20), slice(30, 37)):
        part = model.energy_and_score(x[rows], sigma[rows], class_label=label[rows])
        assert torch.equal(part[0], energy[rows])
        assert torch.equal(part[1], score[rows])
    # one level for all samples has the bits of one level for each
    whole = model.energy_and_score(x, torch.full((37,), 0.7))[1]
    assert torch.equal(model.energy_and_score(x[5:7], 0.7)[1], whole[5:7])


def trained(model, compile, autocast=None):
    """Return the loss and the gradients of a step with seeded dropout."""
    draws = torch.Generator().manual_seed(2)
    x, target = torch.randn(2, 6, 1, 4, 4, generator=draws)
    label = torch.arange(6) % 4
    batch = {"x": x, "sigma": torch.linspace(0.3, 2, 6), "target": target, "class_label": label}
    batch["dropout_seeds"] = row_seeds(3, 5, slice(0, 6))
    loss = TrainingLoss(model, 0.0, autocast)
    step = gradient_function(loss, dict(loss.named_parameters()), compile=compile)
    value, gradients = step(batch)
    assert torch.equal(step(batch)[0], value)
    return value, gradients


def test_dropout_follows_the_seed_of_training():
    model = EnergyModel(filled(song(label_dim=3, dropout=0.5, label_dropout=0.5))).train()
    with_dropout = trained(model, False)[0]
    assert not torch.allclose(with_dropout, trained(model.eval(), False)[0])


def test_label_dropout_leaves_labels_out():
    network = filled(dhariwal(label_dim=3, dropout=0.0, label_dropout=0.5)).double().train()
    y, label = torch.randn(64, 1, 4, 4, dtype=torch.float64), torch.zeros(64).long()
    levels = torch.zeros(64, dtype=torch.float64)
    torch.manual_seed(0)
    output = network(y, levels, label)
    kept, left_out = network.eval()(y, levels, label), network(y, levels)
    is_kept = (output - kept).flatten(1).norm(dim=1) < 1e-8
    is_left_out = (output - left_out).flatten(1).norm(dim=1) < 1e-8
    assert torch.equal(is_kept, ~is_left_out)
    assert 16 < is_kept.sum() < 48


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "autocast"), [("ncsnpp", None), ("adm", None), ("ddpmpp", torch.bfloat16)]
)
def test_compiled_training_step(kind, autocast):
    model = EnergyModel(filled(KINDS[kind](label_dim=3, dropout=0.3, label_dropout=0.2), 0.05))
    with torch.random.fork_rng():
        value, gradients = trained(model.train(), True, autocast)
        expected, eager = trained(model, False, autocast)
    close = 1e-4 if autocast is None else 0.05
    torch.testing.assert_close(value, expected, rtol=close, atol=0)
    size = max(gradient.abs().max() for gradient in eager)
    for gradient, wanted in zip(gradients, eager, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=float(close * size))


def test_distillation_in_bfloat16():
    teacher, student = Denoiser(filled(song())).eval(), EnergyModel(song())
    config = DistillConfig(steps=2, batch_size=4, autocast="bfloat16")
    data = torch.randn(8, 1, 4, 4) / 2
    result = distill(teacher, student, data, config=config, progress=False)
    assert torch.isfinite(torch.as_tensor(result.losses)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_are_loaded_again(kind, tmp_path):
    model = EnergyModel(filled(KINDS[kind](label_dim=3, augment_dim=2)), sigma_data=0.4).eval()
    save_model(model, tmp_path / "model")
    loaded, x = load_model(tmp_path / "model"), torch.randn(2, 1, 4, 4)
    assert torch.equal(loaded(x, 0.5), model(x, 0.5))
    assert loaded.backbone.config == model.backbone.config
    assert loaded.backbone.num_classes == 3


def test_another_configuration_is_told_by_the_tensors_that_differ():
    small, large = song(label_dim=3), song(label_dim=3, model_channels=8)
    message = r"map_label.weight is \[4, 3\] in the teacher and \[8, 3\] in the energy's backbone; .*… \(\d+\)"
    with pytest.raises(ValueError, match=message):
        initialise_from(EnergyModel(large), Denoiser(small), torch.zeros(1, 1, 4, 4))
    with pytest.raises(
        ValueError, match=r"lacks the tensors map_label.bias \[4\], map_label.weight \[4, 3\]"
    ):
        initialise_from(EnergyModel(small), Denoiser(song()), torch.zeros(1, 1, 4, 4))


def test_heads_are_neighbouring_channels():
    """Two heads of 64 channels attend as two networks with the halves of the weights would."""
    network = DhariwalUNet(4, 1, 1, model_channels=128, channel_mult=(1,), num_blocks=1)
    block = next(b for b in network.dec.values() if isinstance(b, Block) and b.heads)
    assert block.heads == 2
    block = filled(copy.deepcopy(block), 0.05).double()
    x = torch.randn(2, 128, 4, 4, dtype=torch.float64)
    normal = block.norm2(x)
    qkv = nn.functional.conv2d(normal, block.qkv.weight, block.qkv.bias).reshape(2, 2, 64, 3, 16)
    q, k, v = qkv.unbind(3)
    weights = torch.softmax(torch.einsum("bhcq,bhck->bhqk", q, k) / 8, 3)
    attended = torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(2, 128, 4, 4)
    wanted = nn.functional.conv2d(attended, block.proj.weight, block.proj.bias)
    torch.testing.assert_close(block._attended(x), wanted)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (song, {"img_resolution": 5}, "img_resolution must be a multiple of 2"),
        (song, {"embedding_type": "sine"}, "embedding_type must be one of"),
        (song, {"encoder_type": "none"}, "encoder_type must be one of"),
        (song, {"decoder_type": "residual"}, "decoder_type must be one of"),
        (song, {"resample_filter": (1, 2, 1)}, "even number of numbers"),
        (song, {"resample_filter": (1, -1)}, "positive sum"),
        (song, {"model_channels": 5}, "model_channels must be even"),
        (song, {"model_channels": 130}, "multiples of the 32 groups"),
        (dhariwal, {"model_channels": 130}, "multiples of the 32 groups"),
    ],
)
def test_bad_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize("build", [song, dhariwal])
def test_bad_states_and_conditions(build):
    network = build(label_dim=3, augment_dim=2)
    model, x, sigma = Denoiser(network), torch.zeros(2, 1, 4, 4), torch.ones(2)
    with pytest.raises(ValueError, match=r"y must be \[B, 1, 4, 4\], given \[B, 1, 8, 8\]"):
        model(torch.zeros(2, 1, 8, 8), sigma)
    for label in (torch.tensor([0, 4]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"class_label must lie in 0\.\.3"):
            model(x, sigma, class_label=label)
    for label in (torch.zeros(3).long(), torch.zeros(2, 4), torch.zeros(2), 1):
        with pytest.raises(
            ValueError, match=r"class_label must be int64 \[2\], or floating rows \[2, 3\]"
        ):
            model(x, sigma, class_label=label)
    with pytest.raises(ValueError, match=r"augment_labels must be \[B, 2\]"):
        model(x, sigma, augment_labels=torch.zeros(2, 3))
    plain = Denoiser(build())
    with pytest.raises(ValueError, match="label_dim=0 takes no class_label"):
        plain(x, sigma, class_label=torch.zeros(2).long())
    with pytest.raises(ValueError, match="augment_dim=0 takes no augment_labels"):
        plain(x, sigma, augment_labels=torch.zeros(2, 2))


def test_a_state_with_another_filter_is_refused():
    state = song(resample_filter=(1, 3)).state_dict()
    with pytest.raises(
        RuntimeError, match=r"resample_filter is \[\[.*the constructor's resample_filter"
    ):
        song(resample_filter=(1, 1)).load_state_dict(state)
    half = {name: tensor.bfloat16() for name, tensor in song().state_dict().items()}
    song().load_state_dict(half)


def test_a_network_of_the_published_size():
    """Dhariwal & Nichol 2021 give 296 million parameters for ImageNet at 64x64."""
    with torch.device("meta"):
        network = DhariwalUNet(64, 3, 3, label_dim=1000)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == 296
