"""A batch in several parts gives the losses and weights of the whole batch, up to rounding."""

import dataclasses

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.distill.parallel import parts_of
from edmfast.models import EnergyModel, UNet
from tests.distill.test_path_values import DenoiserOf

TEACHER = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])
LOSSES = {
    "plain": {},
    "differences": {"difference_weight": 0.1, "variance_groups": 4},
    "own energies": {"value_weight": 0.1, "variance_groups": 4},
    "paths": {"value_weight": 0.1, "variance_groups": 4, "value_paths": 64, "value_levels": 8},
}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_accumulation_changes_rounding_only(name, compile, student, data):
    if compile and name != "differences":
        pytest.skip("one loss shows that graphs take parts of a batch")
    teacher = DenoiserOf(TEACHER) if name == "paths" else TEACHER
    config = DistillConfig(
        steps=12, batch_size=64, learning_rate=1e-3, compile=compile, **LOSSES[name]
    )
    results = [
        distill(
            teacher,
            student().double(),
            data.double(),
            config=dataclasses.replace(config, accumulate=accumulate),
            progress=False,
        )
        for accumulate in (1, 2, 4)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other.losses, results[0].losses, rtol=1e-9, atol=1e-12)
        pairs = zip(other.model.parameters(), results[0].model.parameters(), strict=True)
        assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 1e-7


class Dropped(torch.nn.Module):
    """A U-Net with classes behind a dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.backbone, self.num_classes = UNet(1, (8,), groups=4, num_classes=3), 3
        torch.nn.init.normal_(self.backbone.output.weight)
        self.drop = torch.nn.Dropout(0.4)

    def forward(self, y, c_noise, class_label=None):
        return self.backbone(self.drop(y), c_noise, class_label=class_label)


ENERGIES = {
    "difference_weight": 0.1,
    "value_weight": 0.01,
    "fokker_planck_weight": 0.01,
    "variance_groups": 2,
    "value_paths": 32,
    "value_levels": 8,
}


@pytest.mark.parametrize("settings", [{"mode": "dsm"}, ENERGIES])
def test_accumulation_keeps_labels_and_masks_of_dropout(settings):
    """The states of pairs and of values have the masks of their rows, in whichever part of the batch they are."""
    torch.manual_seed(0)
    samples, labels = torch.randn(40, 1, 4, 4, dtype=torch.float64), torch.arange(40) % 3

    def teacher(x, sigma, class_label):
        return x / (1 + sigma.square())[:, None, None, None]

    def run(accumulate):
        config = DistillConfig(
            steps=4, batch_size=32, label_dropout=0.3, accumulate=accumulate, **settings
        )
        return distill(
            None if "mode" in settings else teacher,
            EnergyModel(Dropped()).double(),
            (samples, labels),
            config=config,
            progress=False,
        ).losses

    torch.testing.assert_close(run(2), run(1), rtol=1e-9, atol=1e-12)


def test_parts_are_the_rows_of_the_batch_in_order():
    parts = [part for rank in range(3) for part in parts_of(24, 2, rank, 3, 6)]
    assert [row for part in parts for row in range(24)[part]] == [*range(24)]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"6 parts .ranks 3 x accumulate 2., given 20"):
        parts_of(20, 2, 0, 3, 0)
    with pytest.raises(ValueError, match="variance_groups must be a multiple of the 6 parts"):
        parts_of(24, 2, 0, 3, 4)
