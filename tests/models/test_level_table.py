"""Test that prepared numbers of noise levels are those of separate calls, and that nothing stale is ever used."""

import pytest
import torch
from torch import Tensor

from edmfast.models import (
    Denoiser,
    DiT,
    EnergyModel,
    PairwiseMLP,
    ResidualMLP,
    UNet,
    expand_sigma,
)
from edmfast.models.calling.foreign import call_reward
from edmfast.models.level_table import LevelTable, level_row, of_level
from edmfast.targets import Conditioned, Guided, Product, Tempered
from edmfast.targets.scores import score_of

LEVELS = [8.0, 3.0, 1.0, 0.3]


def energy(backbone):
    torch.manual_seed(0)
    model = EnergyModel(backbone)
    # zero outputs would hide what depends on the level
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.scale.values.copy_(torch.linspace(0.5, 1.5, 17))
    return model


def perceptron(**arguments):
    return energy(ResidualMLP(2, 16, 2, embedding_width=8, **arguments))


def denoiser(backbone):
    return Denoiser(energy(backbone).backbone)


IMAGE = (1, 8, 8)
MODELS = {
    "perceptron": (perceptron, (2,)),
    "classes": (lambda: Conditioned(perceptron(num_classes=3), class_label=1), (2,)),
    "no class": (lambda: perceptron(num_classes=3), (2,)),
    "denoiser": (lambda: denoiser(ResidualMLP(2, 16, 2)), (2,)),
    "unet": (lambda: energy(UNet(1, (8, 16))), IMAGE),
    "unet denoiser": (lambda: denoiser(UNet(1, (8, 16), num_classes=2)), IMAGE),
    "dit": (lambda: energy(DiT(1, 8, width=16, depth=2, heads=2)), IMAGE),
    "pairs": (lambda: energy(PairwiseMLP(3, 2, width=16, depth=2)), (6,)),
    "product": (lambda: Product([perceptron(), perceptron()], [1.0, 2.0]), (2,)),
    "scores": (lambda: Product([denoiser(ResidualMLP(2, 16, 2)), perceptron()]), (2,)),
    "guided": (lambda: Guided(Tempered(perceptron(), 2.0), perceptron(), 1.5), (2,)),
}


def results(model, x, sigma):
    with torch.no_grad():
        if getattr(model, "has_energy", hasattr(model, "energy_and_score")):
            return (*model.energy_and_score(x, sigma), model(x, sigma))
        return score_of(model, x, sigma), model(x, sigma)


@pytest.mark.parametrize("rows", [1, 5, 32])
@pytest.mark.parametrize("name", MODELS)
def test_bits_are_those_of_separate_calls(name, rows):
    make, shape = MODELS[name]
    model, x = make(), torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))
    table = LevelTable(LEVELS)
    for sigma in (*LEVELS, *LEVELS):
        with table.active():
            prepared = results(model, x, sigma)
        alone = results(model, x, sigma)
        assert all(torch.equal(a, b) for a, b in zip(prepared, alone, strict=True)), sigma


def test_a_perceptron_computes_nothing_of_the_level_again(monkeypatch):
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    calls = []
    embed = model.backbone.embedding._of_level
    monkeypatch.setattr(
        model.backbone.embedding, "_of_level", lambda *given: calls.append(1) or embed(*given)
    )
    with torch.no_grad(), table.active():
        for sigma in LEVELS:
            model.energy_and_score(x, sigma)
    assert len(calls) == 1


def test_a_level_outside_the_table_is_computed():
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    with table.active():
        assert level_row(2.0, x) is None
        prepared = results(model, x, 2.0)
    assert all(torch.equal(a, b) for a, b in zip(prepared, results(model, x, 2.0), strict=True))


def changed_in_place(model):
    with torch.no_grad():
        model.backbone.embedding.level.weight.mul_(1.5)


def replaced(model):
    weight = model.backbone.embedding.level.weight
    model.backbone.embedding.level.weight = torch.nn.Parameter(1.5 * weight.detach())


def replaced_data(model):
    model.backbone.shifts.bias.data = model.backbone.shifts.bias.data + 1


def hooked(model):
    model.scale.register_forward_hook(lambda module, given, result: 2 * result)


def other_frequencies(model):
    model.backbone.embedding._frequencies.mul_(1.5)


def rescaled(model):
    model.scale.values.mul_(2)


def other_data_scale(model):
    model.sigma_data = 0.9


def other_layer(model):
    model.backbone.embedding.level = type(model.backbone.embedding.level)(16, 8)


CHANGES = [
    changed_in_place,
    replaced,
    replaced_data,
    hooked,
    other_frequencies,
    rescaled,
    other_data_scale,
    other_layer,
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_model_are_noticed(change):
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    with table.active():
        before = results(model, x, 3.0)
    change(model)
    with table.active():
        prepared = results(model, x, 3.0)
    alone = results(model, x, 3.0)
    assert not torch.equal(before[0], alone[0])
    assert all(torch.equal(a, b) for a, b in zip(prepared, alone, strict=True))


def test_a_weight_replaced_twice_is_noticed():
    # the memory that the first replacement frees may have the number of the second
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    weight = model.backbone.shifts.weight
    for _ in range(8):
        with table.active():
            prepared = results(model, x, 3.0)
        assert all(map(torch.equal, prepared, results(model, x, 3.0)))
        replacement = torch.randn_like(weight)
        weight.data = torch.empty(0)
        weight.data = replacement.clone()


def test_derivatives_of_the_states_are_those_of_separate_calls():
    model, table = perceptron(), LevelTable(LEVELS)
    slopes = []
    for context in (table.active(), torch.enable_grad()):
        x = torch.ones(4, 2, requires_grad=True)
        with context:
            score = model.energy_and_score(x, 1.0)[1]
        slopes.append(torch.autograd.grad(score.square().sum(), x)[0])
    assert torch.equal(*slopes)


def test_rows_are_known_by_their_memory():
    x, table = torch.zeros(3, 2), LevelTable(LEVELS)
    with table.active():
        row = level_row(1.0, x)
        (double,) = of_level((row.expand(7)[:1],), "double", (), lambda rows: (2 * rows,))
        assert double.item() == 2.0
        (sum_,) = of_level((row, double), "sum", (), lambda a, b: (a + b,))
        assert sum_.item() == 3.0
        # neither a copy, nor two levels together, nor rows of different levels
        other = level_row(3.0, x)
        assert of_level((row.clone(),), "double", (), lambda rows: (2 * rows,)) is None
        assert of_level((row, other), "sum", (), lambda a, b: (a + b,)) is None
    assert level_row(1.0, x) is None
    assert of_level((row,), "double", (), lambda rows: (2 * rows,)) is None


def test_a_compiled_model_serves_all_levels_of_a_table(monkeypatch):
    from edmfast.models.compiling import flat_graph

    monkeypatch.setattr(flat_graph, "compile_graph", lambda graph, *_: graph)
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    alone = [results(model, x, sigma) for sigma in LEVELS]
    model.compile()
    with table.active():
        compiled = [results(model, x, sigma) for sigma in LEVELS]
    for pairs in zip(compiled, alone, strict=True):
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("change", [Tensor.neg_, Tensor.zero_])
def test_rows_that_a_caller_changes_in_place_are_not_used_again(change):
    x, table = torch.zeros(1, 2), LevelTable(LEVELS)
    with table.active():
        (double,) = of_level((level_row(3.0, x),), "double", (), lambda rows: (2 * rows,))
        change(double)
        assert of_level((double,), "more", (), lambda rows: (rows + 1,)) is None
        (double,) = of_level((level_row(3.0, x),), "double", (), lambda rows: (2 * rows,))
        assert double.item() == 6.0
        # the levels of a batch of one can be changed in place
        change(expand_sigma(3.0, x))
        assert expand_sigma(3.0, x).item() == 3.0
        (double,) = of_level((level_row(3.0, x),), "double", (), lambda rows: (2 * rows,))
        assert double.item() == 6.0


def test_other_views_of_the_memory_of_a_row_are_no_rows():
    x, table = torch.zeros(3, 2), LevelTable(LEVELS)
    with table.active():
        squares = lambda rows: (rows[:, None, None] * torch.arange(4.0).reshape(2, 2),)  # noqa: E731, it is one formula
        (square,) = of_level((level_row(3.0, x),), "square", (), squares)
        for view in (square.mT, square.view(torch.int32), square.detach().requires_grad_()):
            assert of_level((view,), "more", (), lambda rows: (rows + 1,)) is None
        assert of_level((square,), "more", (), lambda rows: (rows + 1,)) is not None


def test_memory_does_not_grow_with_changes_of_the_weights():
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    sizes = set()
    for _ in range(3):
        with table.active():
            results(model, x, 1.0)
        sizes.add((len(table._columns), len(table._places_of)))
        changed_in_place(model)
    assert len(sizes) == 1


def test_numbers_made_in_inference_mode_take_part_in_derivatives():
    model, table = denoiser(ResidualMLP(2, 16, 2)), LevelTable(LEVELS)
    x = torch.ones(4, 2, requires_grad=True)
    with table.active():
        with torch.inference_mode():
            model(torch.ones(4, 2), 1.0)
        (slope,) = torch.autograd.grad(model(x, 1.0).sum(), x)
    (alone,) = torch.autograd.grad(model(x, 1.0).sum(), x)
    assert torch.equal(slope, alone)


def test_rewards_of_a_run_can_ask_for_derivatives_in_weights():
    model, slopes = perceptron(), []

    def reward(x0):
        with torch.enable_grad():
            point = torch.ones(4, 2, requires_grad=True)
            score = model.energy_and_score(point, 3.0)[1]
            slopes.append(
                torch.autograd.grad(score.square().sum(), model.backbone.shifts.weight)[0]
            )
        return x0[:, 0]

    reward(torch.ones(4, 2))
    with LevelTable(LEVELS).active():
        call_reward(reward, torch.ones(4, 2))
    assert torch.equal(*slopes)
    assert slopes[0].abs().max() > 0


def test_another_scale_is_called():
    model, x, table = perceptron(), torch.randn(4, 2), LevelTable(LEVELS)
    model.scale = torch.nn.Identity()
    with table.active():
        prepared = results(model, x, 3.0)
    assert all(torch.equal(a, b) for a, b in zip(prepared, results(model, x, 3.0), strict=True))


@pytest.mark.parametrize("sigma", [True, [1.0], "1"])
def test_errors_for_levels_are_those_of_separate_calls(sigma):
    table = LevelTable(LEVELS)
    with table.active(), pytest.raises(TypeError, match="must be a real number"):
        expand_sigma(sigma, torch.zeros(3, 2))
