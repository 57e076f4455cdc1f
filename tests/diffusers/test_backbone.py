"""A network of diffusers becomes a student: from its weights, through training, into a file and back."""

from __future__ import annotations

import sys

import pytest
import torch

from edmfast import DistillConfig, distill
from edmfast.models import Denoiser, load_model, save_model, student_from

diffusers = pytest.importorskip("diffusers", reason="the networks are those of diffusers")

from edmfast.diffusers import DiffusersNetwork, as_denoiser  # noqa: E402, it needs diffusers
from tests.diffusers.networks import labelled_unet  # noqa: E402, as above

SHAPE = (3, 8, 8)
SIGMA = torch.tensor([0.02, 0.5, 3.0, 50.0])
X = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * SIGMA[:, None, None, None]
LABELS = torch.tensor([0, 1, 2, 1])
SCHEDULERS = {
    "epsilon": diffusers.DDPMScheduler(),
    "sample": diffusers.DDPMScheduler(prediction_type="sample"),
    "velocity": diffusers.DDPMScheduler(prediction_type="v_prediction"),
    "edm": diffusers.EDMEulerScheduler(sigma_data=0.7),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_the_backbone_gives_the_denoiser_of_the_network(scheduler):
    teacher = as_denoiser(labelled_unet(), scheduler)
    same = Denoiser(teacher.backbone_for(0.5), sigma_data=0.5)
    with torch.no_grad():
        wanted = teacher(X, SIGMA, class_label=LABELS)
        found = same(X, SIGMA, class_label=LABELS)
    size = wanted.abs().amax((1, 2, 3), keepdim=True)
    assert float(((found - wanted) / size).abs().max()) < 2e-6


def test_a_copy_is_made_and_the_teacher_stays_as_it_is():
    teacher = as_denoiser(labelled_unet(), SCHEDULERS["epsilon"])
    backbone = teacher.backbone_for(0.5)
    with torch.no_grad():
        before = teacher(X, SIGMA, class_label=LABELS)
        for parameter in backbone.parameters():
            parameter.zero_()
        assert torch.equal(teacher(X, SIGMA, class_label=LABELS), before)
    assert "forward" not in vars(teacher.network)
    assert teacher.double().backbone_for(0.5).denoiser.network.dtype == torch.float64


def test_a_student_starts_from_the_weights_trains_and_is_loaded_again(tmp_path):
    teacher = as_denoiser(labelled_unet(), SCHEDULERS["epsilon"])
    data = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1)) / 2
    labels = torch.arange(16) % 3
    student = student_from(teacher, data, sigma_data=0.5, class_label=labels)
    weights = student.backbone.denoiser.network.conv_in.weight
    assert torch.equal(weights, teacher.network.conv_in.weight)
    config = DistillConfig(steps=2, batch_size=4, warmup_steps=1)
    trained = distill(teacher, student, (data, labels), config=config, progress=False).model
    assert not torch.equal(weights, teacher.network.conv_in.weight)
    save_model(trained, tmp_path / "energy.safetensors")
    again = load_model(tmp_path / "energy.safetensors")
    assert torch.equal(
        again.energy(X, SIGMA, class_label=LABELS), trained.energy(X, SIGMA, class_label=LABELS)
    )
    assert isinstance(again.backbone, DiffusersNetwork)
    assert (again.backbone.num_classes, again.backbone.sample_shape) == (3, SHAPE)


def test_what_cannot_become_a_backbone_is_refused(tmp_path, monkeypatch):
    bound = as_denoiser(labelled_unet(), SCHEDULERS["epsilon"], class_labels=LABELS)
    with pytest.raises(ValueError, match="cannot keep the bound conditions class_labels"):
        bound.backbone_for(0.5)
    teacher = as_denoiser(labelled_unet(), SCHEDULERS["epsilon"])
    for name in ("DDPMPipeline", "os", "NoSuchClass"):
        with pytest.raises(ValueError, match="no network of diffusers"):
            DiffusersNetwork(name, {}, teacher.scheduler_config)
    save_model(Denoiser(teacher.backbone_for(0.5)), tmp_path / "x.safetensors")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"x\.safetensors cannot be loaded.*pip install"):
        load_model(tmp_path / "x.safetensors")


def test_a_network_of_another_project_needs_a_backbone_of_its_own():
    class Network(torch.nn.Module):
        def forward(self, x, t, return_dict=True):
            return (x,)

    teacher = as_denoiser(Network(), SCHEDULERS["epsilon"])
    with pytest.raises(ValueError, match=r"config of Network must be .*pass backbone="):
        student_from(teacher, X, sigma_data=0.5)


def test_a_network_without_classes_accepts_no_labels():
    torch.manual_seed(0)
    options = {"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    plain = as_denoiser(diffusers.UNet2DModel(**options, **blocks), SCHEDULERS["epsilon"])
    assert plain.accepted_conditions() == set()
    student = student_from(plain, X, sigma_data=0.5)
    config = DistillConfig(steps=1, batch_size=4)
    with pytest.raises(TypeError, match=r"labels=False\) leaves them out"):
        distill(plain, student, (X, LABELS), config=config, progress=False)
    assert as_denoiser(labelled_unet(), SCHEDULERS["epsilon"]).accepted_conditions() == {
        "class_label",
        "class_labels",
    }
