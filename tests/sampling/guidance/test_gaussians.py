"""Guidance of Gaussian models, whose guided denoisers are known."""

from __future__ import annotations

import pytest
import torch

from edmfast import smc, targets
from edmfast.analytic import GaussianMixture
from edmfast.sampling import get_sigmas_karras, guidance, sample, solvers

F64 = torch.float64
SIGMA = 2.0


class Labelled:
    """The denoiser of N(mean[label], std²) with a label for each sample, which counts its calls and rows."""

    def __init__(self, means, std=1.0):
        self.means, self.variance, self.rows = torch.tensor(means, dtype=F64), std**2, []

    def __call__(self, x, sigma, label):
        self.rows.append(len(x))
        mean, noise = self.means[label], sigma.reshape(-1, 1) ** 2
        return mean + self.variance / (self.variance + noise) * (x - mean)


def normal(mean, std=1.0):
    return GaussianMixture(torch.tensor([mean], dtype=F64), torch.tensor([std], dtype=F64))


def states(rows=5, dim=2):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(3), dtype=F64)


MEANS = [[0.0, 0.0], [1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]]
NONE = torch.zeros(1, dtype=torch.int64)
LABEL = torch.tensor([1, 2, 3, 1, 2])


def test_reinforcement_learning_guidance_of_normals_is_a_normal():
    guided = guidance.ReinforcementLearningGuidance(normal([0.0]), normal([1.5]), 2.0)
    one = torch.ones(1, 1, dtype=F64)
    assert ((guided(one, SIGMA) - one) / SIGMA**2).item() == pytest.approx(0.4, rel=1e-14)
    x = states(dim=1)
    for sigma in (0.01, 0.5, 3.0, 80.0):
        torch.testing.assert_close(
            guided(x, sigma), normal([3.0])(x, sigma), rtol=1e-13, atol=1e-13
        )


def test_a_guided_denoiser_goes_through_a_sampler():
    guided = guidance.ReinforcementLearningGuidance(normal([0.0]), normal([1.5]), 2.0)
    sigmas = get_sigmas_karras(6, 0.1, 20.0).double()
    x = 20 * states(dim=1)
    result, exact = (sample(m, x, sigmas, solvers.Heun()) for m in (guided, normal([3.0])))
    torch.testing.assert_close(result, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("weight", [3.0, torch.tensor([0.5, 1.0, 2.0, 3.0, -1.0], dtype=F64)])
def test_classifier_free_guidance_moves_the_mean_of_normals(batched, weight):
    model = Labelled(MEANS)
    guided = guidance.ClassifierFreeGuidance(
        model, weight, unconditional={"label": 0}, batched=batched
    )
    x = states()
    result = guided(x, torch.full((5,), SIGMA, dtype=F64), label=LABEL)
    mean = torch.as_tensor(weight, dtype=F64).reshape(-1, 1) * model.means[LABEL]
    expected = mean + (x - mean) / (1 + SIGMA**2)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)
    assert model.rows == ([10] if batched else [5, 5])


def test_guidance_of_normals_with_other_variances_is_linear_in_the_denoisers():
    wide, narrow = normal([0.0, 1.0], 2.0), normal([1.0, -1.0], 0.5)
    x = states()
    for kind in (
        guidance.AutoGuidance(narrow, wide, 1.75),
        guidance.ReinforcementLearningGuidance(wide, narrow, 1.75),
        targets.Guided(wide, narrow, 1.75),
    ):
        expected = wide(x, SIGMA) + 1.75 * (narrow(x, SIGMA) - wide(x, SIGMA))
        torch.testing.assert_close(kind(x, SIGMA), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("weight", "label"), [(1.0, LABEL), (0.0, NONE.expand(5))])
def test_weights_0_and_1_take_one_call_of_one_branch(weight, label):
    model = Labelled(MEANS)
    guided = guidance.ClassifierFreeGuidance(model, weight, unconditional={"label": NONE})
    x, sigma = states(), torch.full((5,), SIGMA, dtype=F64)
    assert torch.equal(guided(x, sigma, label=LABEL), model(x, sigma, label))
    assert model.rows == [5, 5]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("form", [float, lambda s: torch.full((5,), s, dtype=F64)])
def test_guidance_acts_inside_its_interval_alone(sigma, form):
    model = Labelled(MEANS)
    options = {"unconditional": {"label": 0}}
    always = guidance.ClassifierFreeGuidance(model, 3.0, **options)
    limited = guidance.ClassifierFreeGuidance(model, 3.0, interval=(1.0, 2.0), **options)
    x = states()
    level = torch.full((5,), sigma, dtype=F64)
    inside = 1.0 < sigma <= 2.0
    expected = always(x, level, label=LABEL) if inside else model(x, level, LABEL)
    model.rows.clear()
    assert torch.equal(limited(x, form(sigma), label=LABEL), expected)
    assert model.rows == ([10] if inside else [5])


def test_each_sample_of_a_batch_has_its_own_place_in_the_interval():
    model = Labelled(MEANS)
    levels = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5], dtype=F64)
    guide = Labelled([[9.0, 9.0]])
    guided = [
        guidance.ClassifierFreeGuidance(
            model, 3.0, unconditional={"label": 0}, interval=(1.0, 2.0), rescale=0.5
        ),
        guidance.AutoGuidance(
            model, guide, 3.0, guide_conditions={"label": 0}, interval=(1.0, 2.0)
        ),
        guidance.PerpendicularNegative(
            model, 3.0, unconditional={"label": 0}, negative={"label": 2}, interval=(1.0, 2.0)
        ),
    ]
    x = states()
    for kind in guided:
        whole = kind(x, levels, label=LABEL)
        rows = [
            kind(x[b : b + 1], levels[b : b + 1], label=LABEL[b : b + 1]) for b in range(len(x))
        ]
        assert torch.equal(whole, torch.cat(rows))
        plain = model(x, levels, LABEL)
        assert [torch.equal(a, b) for a, b in zip(whole, plain, strict=True)] == [
            True,
            True,
            False,
            False,
            True,
        ]


def test_a_wrapper_proposes_the_moves_of_the_guided_density():
    base, tuned = normal([0.0]), normal([1.5])
    target = targets.Guided(base, tuned, 2.0)
    wrapper = guidance.ReinforcementLearningGuidance(base, tuned, 2.0)
    sigmas = get_sigmas_karras(12, 0.05, 20.0)[:-1]
    runs = [smc.sample(target, (1,), sigmas, particles=500, seed=1)]
    moved = targets.ProposedBy(target, wrapper)
    with pytest.warns(smc.MixedModelsWarning):
        runs.append(smc.sample(moved, (1,), sigmas, particles=500, seed=1))
    # The score of the wrapper is the score of the target, so the moves and the weights are the same.
    torch.testing.assert_close(runs[0].x, runs[1].x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(runs[0].log_z, runs[1].log_z, rtol=1e-4, atol=1e-4)


def test_parts_of_a_batch_have_their_own_weights_and_conditions():
    model = Labelled(MEANS)
    weights = torch.tensor([1.5, 2.0, 2.5], dtype=F64)
    x, label = states(6), torch.tensor([1, 2, 3, 1, 2, 3])
    other = torch.tensor([0, 1, 0])
    guided = guidance.ClassifierFreeGuidance(model, weights, unconditional={"label": other})
    parts = [guided.for_rows(start, start + 2, 6) for start in (0, 2, 4)]
    results = [
        part(x[2 * k : 2 * k + 2], SIGMA, label=label[2 * k : 2 * k + 2])
        for k, part in enumerate(parts)
    ]
    expected = [
        guidance.ClassifierFreeGuidance(
            model, float(weights[k]), unconditional={"label": int(other[k])}
        )(x[2 * k : 2 * k + 2], SIGMA, label=label[2 * k : 2 * k + 2])
        for k in range(3)
    ]
    torch.testing.assert_close(torch.cat(results), torch.cat(expected), rtol=1e-14, atol=0)
