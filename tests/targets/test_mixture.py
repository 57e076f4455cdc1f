"""A mixture of energies agrees with the mixture of densities, and offsets correct unequal gauges."""

import math

import pytest
import torch

from edmfast._internal.rows import for_rows
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.targets import Conditioned, Mixture, Product, Tempered
from edmfast.targets.offsets import Offsets
from edmfast.targets.scores import has_energy

F64 = torch.float64
LEFT = GaussianMixture([[-1.0, 0.5], [0.3, 1.0]], [0.3, 0.5], [0.4, 0.6])
RIGHT = GaussianMixture([[1.0, 0.0]], [0.4])
WHOLE = GaussianMixture(
    [[-1.0, 0.5], [0.3, 1.0], [1.0, 0.0]], [0.3, 0.5, 0.4], [0.25 * 0.4, 0.25 * 0.6, 0.75]
)
X = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
SIGMA = 0.6


class Shifted(torch.nn.Module):
    """An energy in another gauge: plus c, or plus a power of ln(sigma)."""

    exponent = 1.0

    def __init__(self, model, gauge):
        super().__init__()
        self.model, self.gauge = model, gauge

    def energy_and_score(self, x, sigma):
        energy, score = self.model.energy_and_score(x, sigma)
        return energy + self.gauge(torch.as_tensor(sigma, dtype=F64)), score


@pytest.mark.parametrize("sigma", [SIGMA, torch.tensor(SIGMA), torch.linspace(0.1, 3, 6)])
def test_energy_and_score_are_those_of_the_mixed_density(sigma):
    mixture = Mixture([LEFT, RIGHT], [1.0, 3.0])
    energy, score = mixture.energy_and_score(X, sigma)
    expected = WHOLE.energy_and_score(X, sigma)
    torch.testing.assert_close(energy, expected[0])
    torch.testing.assert_close(score, expected[1])
    torch.testing.assert_close(mixture(X, sigma), WHOLE(X, sigma))
    assert mixture.exponent == 1.0


def test_offsets_correct_a_gauge_between_their_levels():
    """Offsets of two levels correct a gauge that is linear in ln(sigma); beyond them they are constant."""
    wrong = Shifted(LEFT, lambda sigma: 5.0 + 2.0 * sigma.log())
    ends = [0.1, 2.0]
    table = ([*ends], [[5 + 2 * math.log(s), 0.0] for s in ends])
    mixture = Mixture([wrong, RIGHT], [1.0, 3.0]).with_offsets(table)
    for sigma in (0.1, SIGMA, torch.tensor(2.0), torch.linspace(0.1, 2, 6, dtype=F64)):
        energy, score = mixture.energy_and_score(X, sigma)
        torch.testing.assert_close(energy, WHOLE.energy(X, sigma))
        torch.testing.assert_close(score, WHOLE.energy_and_score(X, sigma)[1])
    steps = (table[0][::-1], table[1][::-1])
    for outside, end in ((0.01, 0), (9.0, 1)):
        pair = LEFT.energy(X, outside) + 5 + 2 * math.log(outside), RIGHT.energy(X, outside)
        logits = torch.stack(
            [math.log(0.25) + table[1][end][0] - pair[0], math.log(0.75) - pair[1]]
        )
        for order in (table, steps):
            energy = mixture.with_offsets(order).energy_and_score(X, outside)[0]
            torch.testing.assert_close(energy, -torch.logsumexp(logits, 0))


def test_second_derivatives():
    x = X.clone().requires_grad_()
    _, score = Mixture([Shifted(LEFT, torch.sin), RIGHT]).energy_and_score(x, SIGMA)
    (gradients,) = torch.autograd.grad(score[:, 1].sum(), x)

    def log_density(row):
        pair = [
            math.log(0.5) + LEFT.log_prob(row[None], SIGMA)[0] - math.sin(SIGMA),
            math.log(0.5) + RIGHT.log_prob(row[None], SIGMA)[0],
        ]
        return torch.logsumexp(torch.stack(pair), 0)

    for row, gradient in zip(X, gradients, strict=True):
        hessian = torch.autograd.functional.hessian(log_density, row)
        torch.testing.assert_close(gradient, hessian[1])


def network(kind, seed):
    torch.manual_seed(seed)
    backbone = ResidualMLP(2, width=16, depth=2, num_classes=3)
    torch.nn.init.normal_(backbone.output.weight, std=0.3)
    return kind(backbone)


def test_networks_and_their_conditions():
    first_model, second_model = network(EnergyModel, 0), network(EnergyModel, 1)
    label, x = torch.tensor([0, 1, 2]), X.float()
    mixture = Mixture(
        [Conditioned(first_model, class_label=label), second_model], offsets=([1.0], [[0.5, -0.5]])
    )
    result = for_rows(mixture, 0, 6, 6).energy_and_score(x, SIGMA)
    first, first_score = first_model.energy_and_score(
        x, SIGMA, class_label=label.repeat_interleave(2)
    )
    second, second_score = second_model.energy_and_score(x, SIGMA)
    logits = torch.stack([0.5 - first, -0.5 - second], 1)
    torch.testing.assert_close(result[0], math.log(2) - logits.logsumexp(1))
    share = logits.softmax(1)
    torch.testing.assert_close(result[1], share[:, :1] * first_score + share[:, 1:] * second_score)
    pieces = [
        for_rows(mixture, i, i + 2, 6).energy_and_score(x[i : i + 2], SIGMA) for i in (0, 2, 4)
    ]
    assert torch.equal(torch.cat([p[0] for p in pieces]), result[0])
    assert "values" in mixture.state_dict()


def test_a_wall_leaves_the_other_member():
    wall = Shifted(LEFT, lambda sigma: torch.tensor(math.inf))
    energy, score = Mixture([wall, RIGHT]).energy_and_score(X, SIGMA)
    torch.testing.assert_close(energy, RIGHT.energy(X, SIGMA) + math.log(2))
    torch.testing.assert_close(score, RIGHT.energy_and_score(X, SIGMA)[1])
    energy, score = Mixture([wall, wall]).energy_and_score(X, SIGMA)
    assert energy.isinf().all()
    assert score.isfinite().all()


def test_exponents_of_one_population_each():
    gamma = torch.tensor([0.5, 2.0, 3.0], dtype=F64)
    mixture = Mixture([Tempered(LEFT, gamma), Tempered(RIGHT, gamma)])
    assert mixture.exponent.tolist() == gamma.tolist()
    rows = gamma.repeat_interleave(2)
    pair = torch.stack([rows * LEFT.log_prob(X, SIGMA), rows * RIGHT.log_prob(X, SIGMA)])
    for part in (mixture, for_rows(mixture, 0, 6, 6)):
        energy = part.energy_and_score(X, SIGMA)[0]
        torch.testing.assert_close(energy, math.log(2) - pair.logsumexp(0))


def test_a_mixture_of_plain_denoisers_has_no_energy():
    mixture = Mixture([LEFT, network(Denoiser, 0)])
    assert not has_energy(mixture)
    assert not has_energy(Product([mixture]))
    with pytest.raises(TypeError, match="weights='score'"):
        mixture.energy_and_score(X, SIGMA)


def test_offsets_are_saved_and_loaded(tmp_path):
    table = Offsets((2.0, 0.5), ((0.0, 1.0), (0.25, -1 / 3)), ((0.1, 0.1), (0.2, 0.2)))
    table.save(tmp_path / "table.json")
    assert Offsets.load(tmp_path / "table.json") == table
    for text in ("{}", "[1]", '{"edmfast": "table of offsets", "sigmas": [1]}', "\x00"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="not a table of offsets"):
            Offsets.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Mixture([]), ValueError, "at least one"),
        (lambda: Mixture([LEFT, 3]), TypeError, "no denoiser"),
        (lambda: Mixture([LEFT, RIGHT], [1.0]), ValueError, "2 models and 1 weights"),
        (lambda: Mixture([LEFT, RIGHT], [1.0, 0.0]), ValueError, "positive"),
        (lambda: Mixture([LEFT, Tempered(RIGHT, 2.0)]), ValueError, "temper the mixture"),
        (
            lambda: Mixture([Tempered(LEFT, torch.ones(2)), RIGHT]),
            ValueError,
            "must have one exponent",
        ),
        (lambda: Mixture([LEFT], offsets=([1.0], [[0.0, 1.0]])), ValueError, "2 members for 1"),
        (lambda: Mixture([LEFT], offsets=3), TypeError, "a pair"),
        (lambda: Offsets((1.0, 1.0), ((0.0,), (0.0,))), ValueError, "strictly"),
        (lambda: Offsets((1.0, 2.0), ((0.0,), (math.nan,))), ValueError, "finite"),
        (lambda: Offsets((1.0, 2.0), ((0.0,),)), ValueError, "one row per sigma"),
    ],
)
def test_bad_mixtures_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
