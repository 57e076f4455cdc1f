"""A pickle in the form of EDM2's gives an EDM2UNet with the state of the file."""

import torch
from torch import nn

from edmfast.models import Denoiser, EDM2UNet
from edmfast.teachers import convert, load_teacher
from tests.teachers.writer import module_of, precond, with_arguments, write

ARGUMENTS = {
    "img_resolution": 8,
    "img_channels": 4,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
}


def test_the_network_has_the_state_and_outputs_of_the_file(tmp_path):
    torch.manual_seed(0)
    network = EDM2UNet(**ARGUMENTS).eval()
    nn.init.constant_(network.out_gain, 0.7)
    buffers = {name.rpartition(".")[2] for name, _ in network.named_buffers()}
    halves = {name: tensor.half() for name, tensor in network.state_dict().items()}
    unet = module_of(halves, "UNet", buffers=buffers)
    named = {name: value for name, value in ARGUMENTS.items() if name != "img_resolution"}
    with_arguments(unet, ARGUMENTS["img_resolution"], **named)
    outer = precond(
        "Precond",
        unet,
        8,
        4,
        3,
        inside="unet",
        attributes={"sigma_data": 0.25, "use_fp16": True},
        logvar_channels=128,
    )
    outer._modules["logvar_linear"] = module_of({"weight": torch.zeros(1, 128)}, "MPConv")
    encoder = precond("StabilityVAEEncoder", nn.Identity(), vae_name="a")
    path = write(tmp_path / "a.pkl", {"encoder": encoder, "ema": outer, "loss_fn": None})
    teacher = load_teacher(path)
    assert teacher.sigma_data == 0.25
    wanted = EDM2UNet(**ARGUMENTS)
    wanted.load_state_dict({name: tensor.float() for name, tensor in halves.items()})
    wanted = Denoiser(wanted, sigma_data=0.25).eval()
    x, sigma, label = torch.randn(3, 4, 8, 8), torch.tensor([0.1, 1.0, 5.0]), torch.arange(3)
    with torch.no_grad():
        expected = wanted(x, sigma, class_label=label)
        assert torch.equal(teacher(x, sigma, class_label=label), expected)
    facts = convert(path, tmp_path / "a.safetensors")
    assert (facts.network, facts.shape, facts.num_classes) == ("EDM2UNet", (4, 8, 8), 3)
