"""Local folders of diffusers are read without a download, from safetensors, for classes of diffusers only."""

import json

import pytest
import torch

from edmfast.teachers import convert, load_teacher

diffusers = pytest.importorskip("diffusers", reason="the folders are those of diffusers")

from edmfast.diffusers import as_denoiser  # noqa: E402, it needs diffusers
from tests.diffusers.networks import labelled_unet  # noqa: E402, as above

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.5, 3.0])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    unet, scheduler = labelled_unet(), diffusers.DDPMScheduler()
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder, as_denoiser(unet, scheduler.config)


def same(teacher, wanted):
    label = torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(
            teacher(X, SIGMA, class_label=label), wanted(X, SIGMA, class_label=label)
        )
    return True


def test_a_pipeline_and_the_folder_of_its_network_give_one_denoiser(pipeline):
    folder, wanted = pipeline
    assert same(load_teacher(folder), wanted)
    assert same(load_teacher(folder / "unet"), wanted)
    bound = load_teacher(str(folder), class_label=torch.tensor([1, 2]))
    with torch.no_grad():
        assert torch.equal(bound(X, SIGMA), wanted(X, SIGMA, class_label=torch.tensor([1, 2])))
    double = load_teacher(folder, dtype=torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_pickled_weights_are_read_only_on_request(tmp_path):
    labelled_unet().save_pretrained(tmp_path, safe_serialization=False)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pass safetensors_only=False"):
        load_teacher(tmp_path)
    wanted = as_denoiser(labelled_unet(), diffusers.DDPMScheduler().config)
    assert same(load_teacher(tmp_path, safetensors_only=False), wanted)


def test_a_folder_without_a_law_or_with_another_class_is_refused(tmp_path, pipeline):
    labelled_unet().save_pretrained(tmp_path / "net")
    with pytest.raises(ValueError, match=r"no scheduler_config\.json"):
        load_teacher(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    for name in ("DDPMPipeline", "NoSuchClass", "os", None, 3):
        (tmp_path / "net" / "config.json").write_text(json.dumps({**config, "_class_name": name}))
        with pytest.raises(ValueError, match="which is no network of diffusers"):
            load_teacher(tmp_path / "net")
    with pytest.raises(TypeError, match="a folder of diffusers takes no config"):
        load_teacher(pipeline[0], config={})
    with pytest.raises(ValueError, match="only networks of edmfast can be converted"):
        convert(pipeline[0], tmp_path / "a.safetensors")
