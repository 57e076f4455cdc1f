"""MixtureOfGaussians agrees with torch.distributions, autograd and integrals over grids, in float64."""

import math

import pytest
import torch

from edmfast import Conditioned
from edmfast.analytic import GaussianMixture, MixtureOfGaussians
from tests.mixtures import F64, mixture, states

SIZES = [(1, 3), (3, 2), (5, 1), (7, 13), (6, 16)]
CLASSES = [0, 1, 1, 2, 0]


def joint_log_probs(target, x, sigma):
    """Return log(w_k N(x; mu_k, C_k + sigma² I)), [B, K], by torch.distributions."""
    noise = sigma.square()[:, None, None, None] * torch.eye(x.shape[1], dtype=F64)
    normal = torch.distributions.MultivariateNormal(
        target.means, covariance_matrix=target.covariances + noise
    )
    return target.weights.log() + normal.log_prob(x[:, None])


@pytest.mark.parametrize(("components", "dim"), SIZES)
def test_agrees_with_torch_distributions(components, dim):
    target = mixture(components, dim)
    x, sigma = states(dim)
    leaf = x.clone().requires_grad_()
    joint = joint_log_probs(target, leaf, sigma)
    expected = torch.logsumexp(joint, 1)
    (expected_score,) = torch.autograd.grad(expected.sum(), leaf)
    expected, joint = expected.detach(), joint.detach()
    energy, score = target.energy_and_score(x, sigma)
    torch.testing.assert_close(energy, -expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(score, expected_score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target.log_prob(x, sigma), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(target.energy(x, sigma), -expected, rtol=1e-11, atol=1e-11)
    tweedie = x + sigma.square()[:, None] * expected_score
    torch.testing.assert_close(target(x, sigma), tweedie, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        target.responsibilities(x, sigma), joint.softmax(1), rtol=1e-9, atol=1e-12
    )


def test_density_integrates_to_one():
    target = mixture(4, 2)
    axis = torch.linspace(-15, 15, 601, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    mass = target.log_prob(grid, 0.3).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass.item() - 1) < 1e-9


def test_isotropic_covariances_are_a_gaussian_mixture():
    means, stds = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)), [0.2, 0.5, 1.0]
    isotropic = GaussianMixture(means, stds, [1.0, 2.0, 3.0])
    full = MixtureOfGaussians(
        means, [(torch.eye(4) * std**2).tolist() for std in stds], [1.0, 2.0, 3.0]
    )
    x, sigma = states(4)
    for one, other in zip(
        isotropic.energy_and_score(x, sigma), full.energy_and_score(x, sigma), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_low_rank_covariances_are_full_ones():
    draw = torch.Generator().manual_seed(4)
    means = torch.randn(3, 5, generator=draw, dtype=F64)
    diagonal = 0.1 + torch.rand(3, 5, generator=draw, dtype=F64)
    factors = torch.randn(3, 5, 2, generator=draw, dtype=F64)
    target = MixtureOfGaussians(means, (diagonal, factors))
    full = torch.stack([d.diag() + f @ f.T for d, f in zip(diagonal, factors, strict=True)])
    torch.testing.assert_close(target.covariances, full)


@pytest.mark.parametrize(("components", "dim"), [(3, 2), (9, 6)])
def test_score_differentiates_twice(components, dim):
    target = mixture(components, dim)
    x = torch.randn(2, dim, dtype=F64, generator=torch.Generator().manual_seed(2))
    x.requires_grad_()
    energy, score = target.energy_and_score(x, 0.4)
    assert energy.requires_grad
    assert score.requires_grad
    assert torch.autograd.gradcheck(lambda y: target.energy_and_score(y, 0.4), x)
    assert torch.autograd.gradgradcheck(lambda y: target.energy_and_score(y, 0.4), x)


def test_results_are_detached_unless_an_input_requires_grad():
    target = mixture(3, 2)
    x = torch.zeros(2, 2, requires_grad=True)
    with torch.no_grad():
        assert not any(part.requires_grad for part in target.energy_and_score(x, 1.0))
    assert not any(part.requires_grad for part in target.energy_and_score(x.detach(), 1.0))


@pytest.mark.parametrize(("components", "dim"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_bits_of_a_row_do_not_depend_on_the_batch(components, dim, dtype):
    target = mixture(components, dim, classes=[k % 2 for k in range(components)])
    x = torch.randn(300, dim, generator=torch.Generator().manual_seed(3)).to(dtype)
    labels = torch.arange(300) % (target.num_classes + 1)

    def parts(rows):
        y, label = x[rows], labels[rows]
        trace = target.jacobian_trace(y, 0.3)
        levels = torch.full((len(y),), 0.3, dtype=dtype)
        conditional = target.energy_and_score(y, levels, label)
        shares = target.responsibilities(y, 0.3)
        return (*target.energy_and_score(y, 0.3), target(y, 0.3), trace, *conditional, shares)

    whole = parts(slice(None))
    for rows in (1, 2, 7, 31, 33, 50, 101, 299):
        cut = slice(1, 1 + rows)
        assert all(torch.equal(a, b[cut]) for a, b in zip(parts(cut), whole, strict=True))


def test_blocks_of_rows_change_nothing(monkeypatch):
    target = mixture(9, 9, classes=[k % 3 for k in range(9)])
    x = torch.randn(101, 9, dtype=F64, generator=torch.Generator().manual_seed(4))
    labels, levels = torch.arange(101) % 4, torch.linspace(0.1, 3, 101, dtype=F64)
    expected = target.energy_and_score(x, levels, labels)
    monkeypatch.setattr("edmfast.analytic.mixture_of_gaussians._BLOCK_ELEMENTS", 81 * 40)
    actual = target.energy_and_score(x, levels, labels)
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


@pytest.mark.parametrize(("components", "dim"), SIZES)
def test_float32_is_accurate_at_every_level(components, dim):
    target = mixture(components, dim)
    x, sigma = states(dim)
    x = x * (1 + sigma[:, None])
    exact_energy, exact_score = target.energy_and_score(x, sigma)
    energy, score = target.energy_and_score(x.float(), sigma.float())
    # errors of the score count in units of a typical score, 1/sqrt(smallest variance)
    size = 1 / (0.05 + sigma.square()).sqrt()[:, None]
    assert ((score - exact_score) / size).abs().max() < 2e-4
    torch.testing.assert_close(energy.double(), exact_energy, rtol=2e-5, atol=2e-4)
    torch.testing.assert_close(
        target(x.float(), sigma.float()).double(), target(x, sigma), rtol=1e-5, atol=1e-5
    )


def test_far_and_narrow_components_keep_float32_accuracy():
    covariances = [[[1e-4, 0], [0, 2e-4]], [[4e-4, 1e-4], [1e-4, 2e-4]]]
    target = MixtureOfGaussians([[100.0, 0.0], [-100.0, 50.0]], covariances)
    x = target.sample(64, seed=0).float()
    exact_energy, exact_score = target.energy_and_score(x.double(), 0.01)
    energy, score = target.energy_and_score(x, 0.01)
    torch.testing.assert_close(energy, exact_energy.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(score, exact_score.float(), rtol=1e-5, atol=1e-3)


def test_image_shapes_and_half_precision():
    target = mixture(3, 12)
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    energy, score = target.energy_and_score(x, torch.tensor(0.5))
    flat_energy, flat_score = target.energy_and_score(x.flatten(1), 0.5)
    assert score.shape == target(x, 0.5).shape == x.shape
    assert torch.equal(energy, flat_energy)
    assert torch.equal(score.flatten(1), flat_score)
    assert target.energy_and_score(x.half(), 0.5)[1].dtype == torch.float16
    assert target.jacobian_trace(x.half(), 0.5).dtype == torch.float16
    assert target.energy(x[:0], 0.5).shape == (0,)


def test_samples_follow_the_law():
    covariances = torch.tensor([[[0.5, 0.4], [0.4, 0.5]], [[0.2, -0.1], [-0.1, 0.3]]], dtype=F64)
    target = MixtureOfGaussians([[-9.0, 0.0], [9.0, 1.0]], covariances, [1.0, 3.0])
    x = target.sample(40_000, 0.2, seed=7)
    right = x[:, 0] > 0
    assert abs(right.double().mean().item() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 40_000)
    for side, k in ((~right, 0), (right, 1)):
        exact = covariances[k] + 0.04 * torch.eye(2, dtype=F64)
        offset = x[side].mean(0) - target.means[k]
        assert (offset / exact.diagonal().sqrt()).abs().max() < 5 / math.sqrt(int(side.sum()))
        measured = x[side].T.cov()
        assert (measured - exact).abs().max() < 5 * math.sqrt(2 / int(side.sum()))
    assert torch.equal(x, target.sample(40_000, 0.2, seed=7))
    assert not torch.equal(x, target.sample(40_000, 0.2, seed=8))


def test_classes_select_components():
    target = mixture(5, 3, classes=CLASSES)
    assert target.num_classes == 3
    assert target.accepted_conditions() == {"class_label"}
    x, sigma = states(3)
    labels = torch.arange(24) % 4
    energy, score = target.energy_and_score(x, sigma, labels)
    denoised, trace = target(x, sigma, labels), target.jacobian_trace(x, sigma, labels)
    for label in range(4):
        rows = labels == label
        # the label after the last class means no condition
        single = target if label == 3 else target.conditional(label)
        expected = single.energy_and_score(x[rows], sigma[rows])
        torch.testing.assert_close(energy[rows], expected[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(score[rows], expected[1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            denoised[rows], single(x[rows], sigma[rows]), rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(
            trace[rows], single.jacobian_trace(x[rows], sigma[rows]), rtol=1e-9, atol=1e-9
        )
    bound = Conditioned(target, class_label=2)
    assert torch.equal(bound.energy_and_score(x, sigma)[0][labels == 2], energy[labels == 2])
    shares = target.responsibilities(x, sigma, torch.full((24,), 1))
    assert (shares[:, target.classes != 1] == 0).all()


def test_a_mixture_of_conditionals_is_the_whole():
    target = mixture(5, 3, classes=CLASSES)
    x, _ = states(3)
    masses = target.by_class(target.weights)
    parts = torch.stack([target.conditional(c).log_prob(x, 0.2) for c in range(3)], 1)
    whole = torch.logsumexp(masses.log() + parts, 1)
    torch.testing.assert_close(whole, target.log_prob(x, 0.2), rtol=1e-11, atol=1e-11)


EYE = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [EYE]), r"means must be \[K, D\]"),
        (([[1.0, 2.0]], [1.0]), r"covariances must be \[K, D, D\] = \[1, 2, 2\]"),
        (([[1.0, 2.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (([[1.0, 2.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "positive definite"),
        (([[1.0, 2.0]], ([[1.0, 1.0]],)), "given 1 parts"),
        (([[1.0, 2.0]], ([[1.0, 1.0]], [[[1.0]]])), r"\[K, D\] = \[1, 2\]"),
        (([[1.0, 2.0]], ([[1.0, -1.0]], [[[1.0], [1.0]]])), "diagonal must not be negative"),
        (([[1.0, 2.0]], [EYE], [0.0]), "sum must be positive"),
        (([[1.0, 2.0]], [EYE], [1.0, 1.0]), r"weights must be \[K\] = \[1\]"),
        (([[1.0, math.inf]], [EYE]), "finite"),
        (([[1.0, 2.0]], [EYE], None, [1]), "every number from 0"),
        (([[1.0, 2.0]], [EYE], None, [0.5]), "every number from 0"),
        (([[1.0, 2.0]], [EYE], None, [0, 1]), r"classes must be \[K\] = \[1\]"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfGaussians(*arguments)


@pytest.mark.parametrize(
    ("x", "sigma", "label", "error", "message"),
    [
        (torch.zeros(2, 4), 1.0, None, ValueError, r"prod\(shape\) = 3"),
        (torch.zeros(2), 1.0, None, ValueError, "at least 2 dimensions"),
        (torch.zeros(2, 3, dtype=torch.int64), 1.0, None, TypeError, "floating-point"),
        (torch.zeros(2, 3), -1.0, None, ValueError, "sigma must be finite and at least 0"),
        (torch.zeros(2, 3), torch.ones(3), None, ValueError, "B = 2"),
        (torch.zeros(2, 3), 1.0, 1, TypeError, "given int"),
        (torch.zeros(2, 3), 1.0, torch.ones(2), TypeError, "float32"),
        (torch.zeros(2, 3), 1.0, torch.ones(3).long(), ValueError, r"\[B\] = \[2\]"),
    ],
)
def test_bad_states(x, sigma, label, error, message):
    with pytest.raises(error, match=message):
        mixture(5, 3, classes=CLASSES).energy_and_score(x, sigma, label)


def test_a_mixture_without_classes_refuses_labels():
    target, x = mixture(3, 2), torch.zeros(2, 2)
    with pytest.raises(TypeError, match="no classes"):
        target.energy(x, 1.0, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no classes"):
        target.conditional(0)
    with pytest.raises(ValueError, match="no classes"):
        target.by_class(target.weights)
    with pytest.raises(TypeError, match="accepts no conditions"):
        Conditioned(target, class_label=1)
    with pytest.raises(ValueError, match="from 0 to 2"):
        mixture(5, 3, classes=CLASSES).conditional(3)


def test_float32_refuses_numbers_whose_squares_it_cannot_hold():
    target = MixtureOfGaussians([[1e20, 0.0]], [EYE])
    with pytest.raises(ValueError, match="pass x in float64"):
        target.energy(torch.zeros(1, 2), 1.0)
    assert target.energy(torch.zeros(1, 2, dtype=F64), 1.0).isfinite().all()


def test_a_loaded_state_is_the_whole_mixture():
    """All that follows from the parameters is computed again, also inside another module."""
    x = torch.randn(5, 2, dtype=torch.float64)
    pairs = [
        (
            MixtureOfGaussians([[0.0, 0.0], [1.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]]] * 2),
            MixtureOfGaussians(
                [[3.0, 3.0], [1.0, 2.0]], [[[2.0, 0.0], [0.0, 1.0]]] * 2, [0.2, 0.8]
            ),
        ),
        (
            GaussianMixture([[0.0, 0.0], [1.0, 1.0]], [1.0, 2.0]),
            GaussianMixture([[4.0, 0.0], [1.0, 1.0]], [3.0, 3.0], [0.1, 0.9]),
        ),
        (
            GaussianMixture(torch.randn(100, 2), torch.rand(100) + 0.1),
            GaussianMixture(torch.randn(100, 2), torch.ones(100)),
        ),
    ]
    for first, second in pairs:
        torch.nn.Sequential(second).load_state_dict(torch.nn.Sequential(first).state_dict())
        assert torch.equal(first.log_prob(x, 0.3), second.log_prob(x, 0.3))
        assert torch.equal(first.jacobian_trace(x, 0.3), second.jacobian_trace(x, 0.3))
        assert torch.equal(first.sample(5, 0.3, seed=1), second.sample(5, 0.3, seed=1))


def test_a_class_without_weight_is_refused():
    with pytest.raises(ValueError, match="class 1 has none"):
        MixtureOfGaussians([[0.0], [1.0]], [[[1.0]], [[1.0]]], weights=[1.0, 0.0], classes=[0, 1])
