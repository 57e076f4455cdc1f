"""Targets written as text are read, and any other text is refused."""

from __future__ import annotations

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.cli.expressions import ExpressionError, parse_target
from edmfast.targets import Conditioned, Guided, Mixture, Product, Tempered

A = GaussianMixture(torch.tensor([[0.0, 1.0]]), [0.5])
B = GaussianMixture(torch.tensor([[1.0, 0.0]]), [0.7])
MODELS = {"a": A, "b": B}


def labelled(x, sigma, class_label=None, scale=None, label=None):
    return x


X = torch.tensor([[0.3, -0.2], [1.0, 2.0]]).double()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", A),
        (" tempered(a, 2)\n", Tempered(A, 2)),
        ("tempered(a, gamma=+2.5)", Tempered(A, 2.5)),
        ("product([a, b])", Product([A, B])),
        ("mixture([a, b], [0.2, 0.8])", Mixture([A, B], [0.2, 0.8])),
        ("product([a, b], [1, -0.5])", Product([A, B], [1, -0.5])),
        ("product(models=(a, b), exponents=[1e0, 2])", Product([A, B], [1, 2])),
        ("guided(a, tempered(b, 2), 1.5)", Guided(A, Tempered(B, 2), 1.5)),
        ("tempered(a, [1, 2])", Tempered(A, torch.tensor([1.0, 2.0]))),
        (
            "product([a, b], [1, [0.5, 2]])",
            Product([A, B], [1.0, torch.tensor([0.5, 2.0])]),
        ),
    ],
)
def test_expressions_are_the_targets_they_name(text, expected):
    target = parse_target(text, MODELS)
    assert type(target) is type(expected)
    for value, wanted in zip(
        target.energy_and_score(X, 0.4), expected.energy_and_score(X, 0.4), strict=True
    ):
        assert torch.equal(value, wanted)
    assert torch.equal(torch.as_tensor(target.exponent), torch.as_tensor(expected.exponent))


def test_conditions_are_bound():
    target = parse_target("conditioned(d, class_label=[0, 2], scale=0.5)", {"d": labelled})
    assert isinstance(target, Conditioned)
    assert target.condition["class_label"].tolist() == [0, 2]
    assert target.condition["class_label"].dtype == torch.int64
    assert target.condition["scale"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c", "unknown name 'c'; models: a, b"),
        ("temper(a, 2)", "unknown function 'temper'; known: tempered, product"),
        ("tempered(a)", "tempered: missing a required argument: 'gamma'"),
        ("tempered(a, 2, 3)", "tempered: too many positional arguments"),
        ("tempered(a, g=2)", "tempered: "),
        ("tempered(a, -2)", "tempered: the total exponent A"),
        ("tempered(2, 2)", "tempered: "),
        ("tempered(a, b)", "tempered: gamma must be numbers"),
        ("mixture(a)", "mixture: models and weights must be lists"),
        ("product(a, b)", "product: models and exponents must be lists"),
        ("product([a, b], [1])", "product: need one exponent per model"),
        ("product([])", "product: "),
        ("conditioned(a, label='x')", "cannot use \"'x'\" in a target"),
        ("conditioned(a, label=b)", "conditioned: GaussianMixture accepts no conditions"),
        ("conditioned(a, label=[b])", "conditioned: "),
        ("tempered(a, True)", "cannot use 'True'"),
        ("tempered(a, 1j)", "cannot use '1j'"),
        ("tempered(a, -b)", "cannot use '-b'"),
        ("tempered(a, 1 + 1)", r"cannot use '1 \+ 1'"),
        ("tempered(*[a, 2])", r"cannot use '\*\[a, 2\]'"),
        ("tempered(**a)", r"cannot use \*\* in a call"),
        ("a.means", "cannot use 'a.means'"),
        ("a.sample(3)", r"cannot use 'a.sample\(3\)'"),
        ("__import__('os').system('true')", "cannot use"),
        ("[m for m in (a, b)]", "cannot use"),
        ("(lambda: a)()", "cannot use"),
        ("a if b else a", "cannot use"),
        ("2", "'2' is not a target"),
        ("[a]", "is not a target"),
        ("", "cannot read ''"),
        ("tempered(a,", "cannot read"),
        ("a\x00", "cannot read"),
        ("a; b", "cannot read"),
        ("tempered(" * 400 + "a" + ", 1)" * 400, "nested too deeply|cannot read"),
        ("a" * 20_000, "at most 10000 characters"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ExpressionError, match=message) as caught:
        parse_target(text, MODELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tempered", "not a name"])
def test_some_names_are_not_allowed_for_models(name):
    with pytest.raises(ExpressionError, match=f"a model cannot be called '{name}'"):
        parse_target("a", {"a": A, name: B})
