"""A network of somebody else, with condition names of its own, is a teacher by a lambda or by condition_names."""

import pytest
import torch
from torch import nn

from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, EnergyModel, ResidualMLP

CLASSES = 4
CONFIG = DistillConfig(steps=12, batch_size=8, learning_rate=1e-3)


class Foreign(nn.Module):
    """A denoiser whose class is called y, and whose noise level is its logarithm."""

    def __init__(self):
        super().__init__()
        self.layer, self.table = nn.Linear(3, 3), nn.Embedding(CLASSES, 3)
        self.rows = []

    def forward(self, states, log_sigma, y=None):
        self.rows.append((len(states), None if y is None else len(y)))
        shift = 0 if y is None else self.table(y)
        return self.layer(states) / (1 + log_sigma.exp())[:, None] + shift


class NamedForeign(Foreign):
    def forward(self, states, sigma, y=None):
        return super().forward(states, sigma.log(), y)


def student():
    torch.manual_seed(1)
    return Denoiser(ResidualMLP(3, width=8, depth=1, num_classes=CLASSES))


def data(count=20):
    draws = torch.Generator().manual_seed(0)
    samples = 0.5 * torch.randn(count, 3, generator=draws)
    return samples, torch.randint(CLASSES, (count,), generator=draws)


def trained(teacher, **options):
    return distill(teacher, student(), data(), config=CONFIG, progress=False, **options)


def test_a_lambda_is_all_that_a_foreign_network_needs():
    torch.manual_seed(0)
    network = Foreign()
    result = trained(lambda x, sigma, class_label: network(x, sigma.log(), y=class_label))
    assert {*network.rows} == {(8, 8)}
    named = NamedForeign()
    named.load_state_dict(network.state_dict())
    by_names = trained(named, condition_names={"class_label": "y"})
    assert torch.equal(result.losses, by_names.losses)
    for first, second in zip(result.model.parameters(), by_names.model.parameters(), strict=True):
        assert torch.equal(first, second)
    start = student().state_dict()
    assert any(not torch.equal(start[k], v) for k, v in result.model.state_dict().items())


def test_a_name_that_the_network_does_not_have_is_refused():
    with pytest.raises(
        TypeError, match=r"the teacher .*accepts the conditions y, given class_label"
    ):
        trained(NamedForeign())
    with pytest.raises(TypeError, match="accepts the conditions y, given label"):
        trained(NamedForeign(), condition_names={"class_label": "label"})


def test_labels_of_another_length_are_refused_before_the_run():
    network = NamedForeign()
    samples, labels = data()
    for rows in (1, 19, 32):
        wrong = labels.repeat(2)[:rows]
        with pytest.raises(ValueError, match=rf"labels must be \[n\] = \[20\].*, given \[{rows}\]"):
            distill(network, student(), (samples, wrong), config=CONFIG, progress=False)
    assert network.rows == []


def test_a_teacher_that_keeps_labels_of_its_own_fails_with_the_sizes_of_the_batch():
    """A lambda that closes over the labels of the data set gives 20 of them to 8 samples."""
    inside, (_, labels) = Denoiser(ResidualMLP(3, width=8, depth=1, num_classes=CLASSES)), data()
    with pytest.raises(
        ValueError, match=r"class_label must be int64 \[8\], given torch.int64 \[20\]"
    ):
        trained(lambda x, sigma, class_label: inside(x, sigma, class_label=labels))


def test_a_trace_of_its_own_may_write_to_its_inputs_and_has_one_number_for_a_row():
    class Traced:
        rows = 1

        def __call__(self, x, sigma, class_label):
            return x / (1 + sigma.square())[:, None]

        def jacobian_trace(self, x, sigma, class_label):
            trace = x.shape[1] / (1 + sigma.square())
            x.zero_(), sigma.zero_(), class_label.zero_()
            return trace[: len(trace) // self.rows]

    class Clean(Traced):
        def jacobian_trace(self, x, sigma, class_label):
            return super().jacobian_trace(x.clone(), sigma.clone(), class_label.clone())

    config = DistillConfig(steps=3, batch_size=8, difference_weight=0.1)

    def losses(teacher):
        torch.manual_seed(1)
        model = EnergyModel(ResidualMLP(3, width=8, depth=1, num_classes=CLASSES))
        return distill(teacher, model, data(), config=config, progress=False).losses

    assert torch.equal(losses(Traced()), losses(Clean()))
    short = Traced()
    short.rows = 2
    with pytest.raises(ValueError, match=r"jacobian_trace.*\[4\]"):
        losses(short)
