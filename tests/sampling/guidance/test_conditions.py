"""The conditions of the caller reach the right branch, and wrong ones are refused by name and size."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import edmfast
from edmfast import models
from edmfast.sampling import guidance, sample_euler, sample_heun

X = torch.linspace(-1, 1, 12).reshape(4, 3)
SIGMAS = torch.tensor([4.0, 1.0, 0.25])


class Recorder:
    """A denoiser that keeps its conditions and returns the states."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, **condition):
        self.calls.append(condition)
        return x + 0.0


def test_extra_args_reach_the_conditional_branch_and_the_others_both():
    model = Recorder()
    guided = guidance.ClassifierFreeGuidance(model, 2.0, unconditional={"label": 10})
    label, size = torch.tensor([1, 2, 3, 4]), torch.arange(4.0)
    extra = {"label": label, "size": size, "scale": torch.tensor(7.0), "mode": "fast", "n": 3}
    sample_heun(guided, X, SIGMAS, extra_args=extra)
    assert len(model.calls) == 4
    for call in model.calls:
        assert call["label"].tolist() == [1, 2, 3, 4, 10, 10, 10, 10]
        assert call["label"].dtype == torch.int64
        assert call["size"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
        assert (float(call["scale"]), call["mode"], call["n"]) == (7.0, "fast", 3)


def test_a_number_fills_the_shape_of_the_condition():
    model = Recorder()
    guidance.ClassifierFreeGuidance(model, 2.0, unconditional={"label": 0})(
        X, torch.ones(4), label=torch.ones(4, 2)
    )
    assert torch.equal(model.calls[0]["label"], torch.cat([torch.ones(4, 2), torch.zeros(4, 2)]))


def test_nested_conditions_are_stacked_where_they_differ():
    model = Recorder()
    empty = {"text": torch.zeros(1, 2), "ids": [torch.tensor([9])]}
    guided = guidance.ClassifierFreeGuidance(model, 2.0, unconditional={"added": empty})
    given = {"text": torch.ones(4, 2), "ids": [torch.arange(4)]}
    guided(X, torch.ones(4), added=given, kept=[torch.arange(4)])
    (call,) = model.calls
    assert torch.equal(call["added"]["text"], torch.cat([torch.ones(4, 2), torch.zeros(4, 2)]))
    assert call["added"]["ids"][0].tolist() == [0, 1, 2, 3, 9, 9, 9, 9]
    assert call["kept"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("other", "given", "calls"),
    [
        (None, torch.arange(4), [{"label": [0, 1, 2, 3]}, {}]),
        (5, 3, [{"label": 3}, {"label": 5}]),
        ("empty", "a cat", [{"label": "a cat"}, {"label": "empty"}]),
    ],
)
def test_branches_that_cannot_be_stacked_take_two_calls(other, given, calls):
    model = Recorder()
    guidance.ClassifierFreeGuidance(model, 2.0, unconditional={"label": other})(
        X, torch.ones(4), label=given
    )
    listed = [{k: getattr(v, "tolist", lambda v=v: v)() for k, v in c.items()} for c in model.calls]
    assert listed == calls


def test_a_model_that_changes_its_arguments_changes_nothing_else():
    def careless(x, sigma, label, shared):
        result = x + label + shared
        for tensor in (x, sigma, label, shared):
            tensor.zero_()
        return result

    guided = guidance.ClassifierFreeGuidance(careless, 2.0, unconditional={"label": 0.0})
    x, sigma = X.clone(), torch.ones(4)
    label, shared = torch.full((4, 3), 0.5), torch.full((1, 3), 2.0)
    result = guided(x, sigma, label=label, shared=shared)
    torch.testing.assert_close(result, X + 3.0)
    assert torch.equal(x, X)
    assert torch.equal(sigma, torch.ones(4))
    assert torch.equal(label, torch.full((4, 3), 0.5))
    assert torch.equal(shared, torch.full((1, 3), 2.0))


def test_the_guide_gets_its_own_conditions():
    model, guide = Recorder(), Recorder()
    guided = guidance.AutoGuidance(model, guide, 2.0, guide_conditions={"label": None, "size": 0})
    guided(X, torch.ones(4), label=torch.arange(4), size=torch.ones(4), kept=torch.ones(4))
    assert sorted(model.calls[0]) == ["kept", "label", "size"]
    assert sorted(guide.calls[0]) == ["kept", "size"]
    assert guide.calls[0]["size"].tolist() == [0.0] * 4
    assert model.calls[0]["size"].tolist() == [1.0] * 4


def cfg(model=None, **options):
    arguments = {"unconditional": {"label": torch.zeros(1, 2)}} | options
    return guidance.ClassifierFreeGuidance(model or Recorder(), 2.0, **arguments)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("unconditional", "given", "message"),
    [
        (
            {"label": torch.zeros(3, 2)},
            {"label": torch.zeros(4, 2)},
            "unconditional['label'] has 3 rows for a batch of 4",
        ),
        (
            {"label": torch.zeros(1, 2)},
            {"label": torch.zeros(5, 2)},
            "label has 5 rows for a batch of 4",
        ),
        (
            {"label": 0},
            {"label": torch.zeros(4), "size": torch.zeros(2)},
            "size has 2 rows for a batch of 4",
        ),
        (
            {"label": 0},
            {"size": torch.zeros(4)},
            "unconditional replaces label, and the call gives size: pass label in extra_args",
        ),
    ],
)
def test_wrong_rows_are_refused_with_the_name_and_the_sizes(unconditional, given, message, batched):
    guided = cfg(unconditional=unconditional, batched=batched)
    with pytest.raises(ValueError, match=re.escape(message)):
        guided(X, torch.ones(4), **given)


def test_tensors_of_other_sizes_need_two_calls():
    guided = cfg(unconditional={"label": torch.zeros(1, 3)})
    message = "label has the sizes [4, 2] and [4, 3] in the branches"
    with pytest.raises(ValueError, match=re.escape(message)):
        guided(X, torch.ones(4), label=torch.zeros(4, 2))
    model = Recorder()
    cfg(model, unconditional={"label": torch.zeros(1, 3)}, batched=False)(
        X, torch.ones(4), label=torch.zeros(4, 2)
    )
    assert [call["label"].shape for call in model.calls] == [(4, 2), (4, 3)]


def test_conditions_that_the_model_does_not_accept_are_refused_at_once():
    with pytest.raises(TypeError, match="accepts the conditions label, given labels"):
        guidance.ClassifierFreeGuidance(lambda x, sigma, label: x, 2.0, unconditional={"labels": 0})
    with pytest.raises(TypeError, match="unconditional must be a dictionary of conditions"):
        guidance.ClassifierFreeGuidance(lambda x, sigma, label: x, 2.0, unconditional=3)
    with pytest.raises(TypeError, match="must be an energy, or callable"):
        guidance.AutoGuidance(lambda x, sigma: x, 3, 2.0)


class Conditional(nn.Module):
    """A backbone with a shift for each class."""

    def __init__(self):
        super().__init__()
        self.inner = models.ResidualMLP(dim=3, width=16, depth=2)
        nn.init.normal_(self.inner.output.weight)
        self.table = nn.Embedding(5, 3)

    def forward(self, y, c_noise, label):
        return self.inner(y + self.table(label), c_noise)


def wrappers():
    torch.manual_seed(0)
    model, guide = edmfast.Denoiser(Conditional()), edmfast.Denoiser(Conditional())
    empty = {"unconditional": {"label": 0}}
    return [
        guidance.ClassifierFreeGuidance(model, 2.0, rescale=0.7, **empty),
        guidance.ClassifierFreeGuidance(
            model, 2.0, rescale=0.7, rescale_prediction="v", interval=(0.5, 9.0), **empty
        ),
        guidance.AutoGuidance(model, guide, 2.0, guide_conditions={"label": 1}),
        guidance.ReinforcementLearningGuidance(model, guide, 1.5),
        guidance.PerpendicularNegative(model, 2.0, negative={"label": 4}, **empty),
    ]


@pytest.mark.parametrize("kind", range(5))
def test_the_bits_of_a_sample_do_not_depend_on_its_batch_mates(kind):
    guided = wrappers()[kind]
    x = torch.randn(37, 3, generator=torch.Generator().manual_seed(1))
    label = torch.arange(37) % 5
    whole = sample_heun(guided, 4 * x, SIGMAS, extra_args={"label": label})
    for rows in (slice(0, 1), slice(5, 8), slice(30, 37)):
        part = sample_heun(guided, 4 * x[rows], SIGMAS, extra_args={"label": label[rows]})
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("kind", range(5))
def test_guided_denoisers_have_derivatives_and_compile(kind):
    guided = wrappers()[kind].double()
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma, label = torch.full((3,), 0.8, dtype=torch.float64), torch.tensor([1, 2, 3])
    assert torch.autograd.gradcheck(
        lambda y: guided(y, sigma, label=label), x.clone().requires_grad_()
    )
    with torch.no_grad():
        plain = guided(x, sigma, label=label)
        compiled = torch.compile(guided, backend="eager", fullgraph=True)(x, sigma, label=label)
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["denoised", "epsilon", "v"])
def test_compiled_runs_of_several_steps_are_right(prediction):
    torch.manual_seed(0)
    guided = guidance.ClassifierFreeGuidance(
        edmfast.Denoiser(Conditional()),
        2.0,
        unconditional={"label": 0},
        rescale=0.7,
        rescale_prediction=prediction,
    )
    x = 4 * torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    extra = {"label": torch.arange(5)}
    runs = [
        sample_euler(guided, x, SIGMAS, extra_args=extra, disable=True, compile=compiled)
        for compiled in (False, True)
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-5, atol=1e-5)
