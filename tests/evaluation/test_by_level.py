"""The table of diagnostics by noise level shows known errors, and zeros for an exact model."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.diagnostics import noising_trajectory, score_asymmetry, self_check
from edmfast.evaluation.by_level import (
    LevelOptions,
    _refined,
    default_levels,
    level_table,
    parts_of,
)
from edmfast.models import EnergyModel, UNet
from tests.evaluation.models import Gauged, Turned, exact

LEVELS = [4.0, 1.0, 0.25]


def table_of(models, truth=None, data=None, **options):
    truth = truth or exact()
    data = truth.sample(32, seed=1) if data is None else data
    own = {name: options.pop(name) for name in ("probes", "batch_size") if name in options}
    chosen = LevelOptions(tuple(LEVELS), truth, draws=256, **own)
    return level_table(models, data, chosen, **options)


def test_an_exact_model_has_no_errors():
    truth, parts = exact(), []
    table = table_of({"exact": truth}, truth, finished=parts.append)
    assert table.column("sigma") == LEVELS
    for column in ("NAsym", "circulation", "Fokker-Planck sd", "error on p", "error on p²"):
        assert max(table.column(column)) < 1e-10, column
    assert max(table.column("error between")) < 1e-6
    assert len(parts) == parts_of({"exact": truth}, truth) == 3


def test_the_self_check_adds_the_steps_between_two_levels():
    truth = exact()
    data = truth.sample(32, seed=1)
    table = table_of({"exact": truth}, truth, data)
    fine = _refined(LEVELS)
    assert len(fine) == 17
    assert fine[::8] == pytest.approx(LEVELS, rel=1e-12)
    residuals = self_check(truth, noising_trajectory(data, fine), fine).residuals
    values = table.column("self-check sd")
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(float(residuals[:8].sum(0).std()), rel=1e-9)
    assert values[2] == pytest.approx(float(residuals[8:].sum(0).std()), rel=1e-9)


def test_a_wrong_energy_has_its_error_in_nats():
    truth = exact()
    table = table_of({"tilted": Gauged(truth, tilt=0.5)}, truth)
    for sigma, error in zip(LEVELS, table.column("error on p"), strict=True):
        draws = truth.sample(256, sigma, seed=LEVELS.index(sigma))
        assert error == pytest.approx(0.5 * float(draws[:, 0].std()), rel=1e-6)
    exactly = table_of({"exact": truth}, truth).column("self-check sd")[1:]
    wrong = table.column("self-check sd")[1:]
    assert all(a > b for a, b in zip(wrong, exactly, strict=True))


def test_a_field_that_is_no_gradient():
    truth = exact()
    data = truth.sample(32, seed=1)
    model = Turned(truth, 0.3)
    table = table_of({"turned": model, "exact": truth}, truth, data, probes=2)
    rows = {(row["model"], row["sigma"]): row for row in table.rows}
    states = noising_trajectory(data, _refined(LEVELS))[::8]
    for sigma, x in zip(LEVELS, states, strict=True):
        own = rows["turned", sigma]
        measured = score_asymmetry(model, x, sigma, probes=2).overall
        assert own["NAsym"] == pytest.approx(float(measured), rel=1e-9)
        assert own["NAsym"] > 1e-3
        assert own["circulation"] > 1e-3 > rows["exact", sigma]["circulation"]
        # a denoiser without an energy has no cells for one
        assert "error on p" not in own


def test_states_keep_the_shape_of_the_data():
    truth = exact()
    data = truth.sample(16, seed=1).reshape(16, 1, 2, 2)
    model = Gauged(truth, shape=(1, 2, 2))
    table = table_of({"shaped": model}, truth, data)
    assert max(table.column("error on p")) < 1e-10


def test_labels_are_passed():
    truth = exact(classes=[0, 1, 1])
    data = truth.sample(16, seed=1)
    labels = truth.responsibilities(data).argmax(1).clamp(max=1)
    table = table_of({"exact": truth}, truth, data, condition={"class_label": labels})
    free = table_of({"exact": truth}, truth, data)
    assert max(table.column("Fokker-Planck sd")) < 1e-10
    assert table.column("self-check sd")[1:] != free.column("self-check sd")[1:]


def test_default_levels():
    levels = default_levels(0.5, 0.01, 80.0)
    assert len(levels) == 8
    assert (levels[0], levels[-1]) == pytest.approx((10, 0.025))
    assert default_levels(0.5, 0.05, 4.0)[0] == pytest.approx(4)
    assert default_levels(0.5, 0.05, 4.0)[-1] == pytest.approx(0.05)
    ratios = torch.tensor(levels).log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(7), rtol=1e-4, atol=0)


def test_batches_change_the_probes_alone():
    truth = exact(classes=[0, 1, 1])
    data = truth.sample(24, seed=1)
    labels = truth.responsibilities(data).argmax(1).clamp(max=1)
    given = {"condition": {"class_label": labels}}
    whole = table_of({"tilted": Gauged(truth, tilt=0.5)}, truth, data, **given)
    parts = table_of({"tilted": Gauged(truth, tilt=0.5)}, truth, data, batch_size=7, **given)
    for column in ("Fokker-Planck sd", "self-check sd", "error on p", "error between"):
        assert parts.column(column)[1:] == pytest.approx(whole.column(column)[1:], rel=1e-9)
    turned = [
        table_of({"turned": Turned(truth, 0.3)}, truth, data, batch_size=size) for size in (24, 7)
    ]
    assert turned[1].column("circulation") == pytest.approx(turned[0].column("circulation"))
    assert turned[1].column("NAsym") == pytest.approx(turned[0].column("NAsym"), rel=0.5)


def test_an_energy_without_third_derivatives_has_an_asymmetry():
    torch.manual_seed(0)
    network = UNet(1, channels=(8,), groups=4)
    torch.nn.init.normal_(network.output.weight, std=0.1)
    data = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    table = level_table({"m": EnergyModel(network)}, data, LevelOptions((2.0, 0.5), batch_size=3))
    assert table.column("NAsym by") == ["forward", "forward"]
    assert "NAsym error" not in table.columns
    assert max(table.column("NAsym")) < 1e-10
    assert max(table.column("circulation")) < 1e-5
    assert min(table.column("Fokker-Planck sd")) > 0


class Hidden(torch.autograd.Function):
    """The function 3 sin(x), whose derivative is a constant for autograd and has no forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x.cos() * gradient


def test_the_table_gives_the_error_of_differences():
    data = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    models = {"hidden": lambda x, sigma: Hidden.apply(x), "plain": lambda x, sigma: 3 * x.sin()}
    table = level_table(models, data, LevelOptions((2.0, 0.5), batch_size=3))
    assert table.column("NAsym by") == ["difference"] * 2 + ["reverse"] * 2
    values, errors = table.column("NAsym")[:2], table.column("NAsym error")
    assert errors[2:] == [None, None]
    for value, error in zip(values, errors[:2], strict=True):
        assert value <= error < 1e-7
