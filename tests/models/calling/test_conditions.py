"""Conditions are checked against the batch of the caller, before any padding, in every call of a model."""

import pytest
import torch

from edmfast import sampling, smc
from edmfast.models import Denoiser, DiT, EnergyModel, PairwiseMLP, ResidualMLP, UNet
from edmfast.targets import Conditioned, Guided, Product, Tempered

ROWS = 20  # models pad a batch of this size to 32 rows
BACKBONES = {
    "mlp": (lambda: ResidualMLP(2, width=8, depth=1, num_classes=5), (2,)),
    "odd mlp": (lambda: ResidualMLP(3, width=7, depth=1, num_classes=5), (3,)),
    "pairs": (lambda: PairwiseMLP(3, 2, width=4, depth=1, num_classes=5), (3, 2)),
    "unet": (lambda: UNet(1, (4,), groups=2, num_classes=5), (1, 4, 4)),
    "dit": (lambda: DiT(1, 4, width=4, depth=1, heads=1, num_classes=5), (1, 4, 4)),
}


def ways(model):
    """Return all calls that evaluate a model at states x with conditions, by name."""
    calls = {"forward": lambda x, **condition: model(x, 1.0, **condition)}
    calls["sampler"] = lambda x, **condition: sampling.sample_euler(
        model, x, torch.tensor([2.0, 1.0]), extra_args=condition, disable=True
    )
    if isinstance(model, EnergyModel):
        calls["energy"] = lambda x, **condition: model.energy(x, 1.0, **condition)
        calls["score"] = lambda x, **condition: model.energy_and_score(x, 1.0, **condition)
        calls["by levels"] = lambda x, **condition: model.energy_and_score(
            x, torch.ones(len(x)), **condition
        )
        for name, made in (
            ("product", Product([model, model])),
            ("tempered", Tempered(model, 2.0)),
            ("guided", Guided(model, model, 2.0)),
        ):
            calls[name] = lambda x, made=made, **condition: made.energy_and_score(
                x, 1.0, **condition
            )
    return calls


@pytest.mark.parametrize("rows", [0, 1, 19, 21, 31, 32, 33, 48])
@pytest.mark.parametrize("kind", [EnergyModel, Denoiser])
@pytest.mark.parametrize("name", BACKBONES)
def test_labels_of_another_batch_are_refused(name, kind, rows):
    build, shape = BACKBONES[name]
    model, x = kind(build()), torch.zeros(ROWS, *shape)
    wanted = rf"class_label must be int64 \[20\], given torch.int64 \[{rows}\]"
    for call in ways(model).values():
        call(x, class_label=torch.zeros(ROWS, dtype=torch.int64))
        with pytest.raises(ValueError, match=wanted):
            call(x, class_label=torch.zeros(rows, dtype=torch.int64))
    if rows == 1:  # a condition of one row that is bound to a model serves all samples
        return
    with pytest.raises(ValueError, match=rf"{rows} rows for a batch of 20"):
        Conditioned(model, class_label=torch.zeros(rows, dtype=torch.int64))(x, 1.0)


def test_errors_for_other_labels_name_the_callers_sizes():
    model = EnergyModel(ResidualMLP(2, width=8, depth=1, num_classes=5))
    x = torch.zeros(ROWS, 2)
    with pytest.raises(ValueError, match=r"int64 \[20\], given torch.int32 \[20\]"):
        model(x, 1.0, class_label=torch.zeros(ROWS, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"given 3: one class for all samples is bound by"):
        model(x, 1.0, class_label=3)


@pytest.mark.parametrize("name", BACKBONES)
def test_errors_for_other_states_do_not_name_padded_sizes(name):
    build, shape = BACKBONES[name]
    model = EnergyModel(build())
    for wrong in ((shape[0] + 1, *shape[1:]), (7,)):
        for call in ways(model).values():
            with pytest.raises(ValueError, match=r"given \[B, ") as caught:
                call(torch.zeros(ROWS, *wrong))
            assert "32" not in str(caught.value)


class Prompted(torch.nn.Module):
    """A foreign backbone with a context of tokens and a dictionary of further conditions."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.seen = []

    def forward(self, y, c_noise, context=None, more=None, gain=1.0):
        self.seen.append(None if context is None else [*context.shape])
        h = self.layer(y) * gain
        if context is not None:
            h = h + (context.mean() if context.dim() == 2 else context.mean((1, 2))[:, None])
        return h if more is None else h * more["size"][:, None]


def test_a_shared_context_means_the_same_at_every_batch_size():
    model = EnergyModel(Prompted())
    context = torch.randn(77, 3)
    for rows in (20, 76, 77, 78):
        x = torch.zeros(rows, 2)
        model(x, 1.0, context=context[None])
        assert model.backbone.seen[-1] == [1, 77, 3]
        if rows != 77:
            with pytest.raises(ValueError, match=rf"context has 77 rows .* {rows}.*shared_cond"):
                model(x, 1.0, context=context)
    model.backbone.shared_conditions = ("context",)
    for call in ways(model).values():
        for rows in (1, 20, 77, 80):
            call(torch.zeros(rows, 2), context=context)
            assert model.backbone.seen[-1] == [77, 3]
    model.energy(torch.zeros(20, 2), 1.0, gain=torch.tensor(2.0))
    with pytest.raises(ValueError, match="gain has 3 rows for a batch of 20"):
        model.energy(torch.zeros(20, 2), 1.0, gain=torch.ones(3))


def test_conditions_inside_dictionaries_are_padded_and_checked():
    model = EnergyModel(Prompted())
    x, size = torch.randn(ROWS, 2), torch.rand(ROWS) + 0.5
    whole = model.energy(x, 1.0, more={"size": size})
    parts = [model.energy(x[i : i + 1], 1.0, more={"size": size[i : i + 1]}) for i in range(ROWS)]
    assert torch.equal(whole, torch.cat(parts))
    with pytest.raises(ValueError, match="more has 32 rows for a batch of 20"):
        model.energy(x, 1.0, more={"size": torch.ones(32)})


def test_one_row_bound_to_a_model_serves_all_samples_also_in_runs():
    model = EnergyModel(Prompted())
    bound = Conditioned(model, context=torch.randn(1, 77, 3))
    x = torch.randn(ROWS, 2)
    wanted = model.energy(x, 1.0, context=bound.condition["context"])
    torch.testing.assert_close(bound.energy(x, 1.0), wanted)
    particles = smc.sample(bound, (2,), [2.0, 1.0], particles=6, proposal="noise_matched")
    assert particles.x.isfinite().all()
