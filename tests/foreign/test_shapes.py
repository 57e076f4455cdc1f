"""No result of a model, reward, operator, noise or proposal is broadcast; a wrong shape raises everywhere."""

import pytest
import torch

import edmfast
from edmfast import Constrained, LinearInverse, Tempered, Tilted, diagnostics, sampling, smc
from tests.foreign.entries import DATA, DENOISERS, ENERGIES, LEVELS, NORMAL
from tests.foreign.wrappers import SHAPE, plain

WRONG = {
    "one number a row": lambda x: x.flatten(1)[:, :1],
    "one row": lambda x: x[:1],
    "a mean": lambda x: x.mean(0),
    "a number": lambda x: x.sum(),
    "a column": lambda x: x[..., :1],
    "rows twice": lambda x: x.repeat(2, *[1] * (x.ndim - 1)),
    "one more dimension": lambda x: x[:, None],
}


@pytest.mark.parametrize("entry", DENOISERS.values(), ids=DENOISERS)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_denoisers(entry, wrong):
    def culprit(x, sigma):
        return wrong(plain(x, sigma))

    with pytest.raises(ValueError, match=r"culprit returned \["):
        entry(culprit)


@pytest.mark.parametrize("entry", DENOISERS.values(), ids=DENOISERS)
def test_denoisers_that_return_no_floating_tensor(entry):
    for wrong, message in (
        (lambda x: x.long(), "torch.int64"),
        (lambda x: (x,), "a tuple of 1"),
        (lambda x: None, "a NoneType"),
    ):

        def culprit(x, sigma):
            return wrong(plain(x, sigma))  # noqa: B023, it is called in this round only

        with pytest.raises(TypeError, match=f"culprit returned {message}"):
            entry(culprit)


class Culprit:
    """An energy whose results are changed before they are returned."""

    exponent = 1.0

    def __init__(self, energy=lambda energy: energy, score=lambda score: score):
        self.change = energy, score

    def energy_and_score(self, x, sigma):
        results = NORMAL.energy_and_score(x, sigma)
        return tuple(change(part) for change, part in zip(self.change, results, strict=True))


WRONG_ENERGIES = {
    "column": lambda energy: energy[:, None],
    "sum": lambda energy: energy.sum(),
    "one": lambda energy: energy[:1],
    "matrix": lambda energy: energy[:, None] + energy,
}


@pytest.mark.parametrize("entry", ENERGIES.values(), ids=ENERGIES)
@pytest.mark.parametrize("wrong", WRONG_ENERGIES.values(), ids=WRONG_ENERGIES)
def test_energies(entry, wrong):
    with pytest.raises(ValueError, match="Culprit returned"):
        entry(Culprit(energy=wrong))


@pytest.mark.parametrize("entry", ENERGIES.values(), ids=ENERGIES)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_scores(entry, wrong):
    with pytest.raises(ValueError, match="Culprit returned"):
        entry(Culprit(score=wrong))


@pytest.mark.parametrize("entry", ENERGIES.values(), ids=ENERGIES)
def test_energies_that_are_no_floating_tensors(entry):
    with pytest.raises(TypeError, match=r"Culprit returned torch.int64"):
        entry(Culprit(energy=lambda energy: energy.long()))
    with pytest.raises(TypeError, match=r"Culprit returned a tuple of 2 \(float, Tensor\)"):
        entry(Culprit(energy=lambda energy: 0.0))


def run(target, **options):
    return smc.sample(target, SHAPE, [*LEVELS, 0.0], particles=8, **options)


REWARDS = {
    "Tilted": lambda reward: run(Tilted(NORMAL, reward, 0.1, ramp=(2.0, 0.3))),
    "Tilted exact": lambda reward: run(
        Tilted(NORMAL, reward, 0.1, ramp=(2.0, 0.3), gradient="exact")
    ),
    "Tilted paths": lambda reward: run(
        Tilted(NORMAL, reward, 0.1, ramp=(2.0, 0.3), potential="max")
    ),
    "Tilted denoiser": lambda reward: run(Tilted(plain, reward, 0.1, ramp=(2.0, 0.3))),
    "Constrained": lambda reward: run(Constrained(NORMAL, reward, 0.1, ramp=(2.0, 0.3))),
    "fk": lambda reward: smc.steer(plain, reward, SHAPE, LEVELS),
    "svdd": lambda reward: smc.steer(plain, reward, SHAPE, LEVELS, method="svdd"),
    "best of n": lambda reward: smc.steer(plain, reward, SHAPE, LEVELS, method="best_of_n"),
}


@pytest.mark.parametrize("entry", REWARDS.values(), ids=REWARDS)
def test_rewards(entry):
    for wrong in (
        lambda x: x.flatten(1).sum(1, keepdim=True),
        lambda x: x.sum(),
        lambda x: x.flatten(1).sum(1)[:1],
        lambda x: x,
    ):

        def culprit(x):
            return wrong(x)  # noqa: B023, it is called in this round only

        with pytest.raises(ValueError, match=r"one number for each row of x.*culprit returned"):
            entry(culprit)
    with pytest.raises(TypeError, match="returned a float"):
        entry(lambda x: 1.0)


@pytest.mark.parametrize("many", [False, True])
def test_measurements(many):
    observation = torch.ones(1, 3) if many else torch.ones(3)
    for wrong in (lambda x: x.flatten(1)[:1, :3], lambda x: x.flatten(1)[0, :3], lambda x: x.sum()):

        def culprit(x):
            return wrong(x)  # noqa: B023, it is called in this round only

        target = LinearInverse(
            NORMAL, culprit, observation, 0.5, per_population=many, full_below=0.3
        )
        with pytest.raises(ValueError, match="culprit returned"):
            run(target)
    pair = (lambda x: x.flatten(1)[:, :3], lambda y: y)
    with pytest.raises(ValueError, match="the adjoint of an operator must return"):
        run(LinearInverse(NORMAL, pair, torch.ones(3), 0.5, full_below=0.3))


def test_strengths():
    def culprit(sigma):
        return torch.ones(8, 1)

    with pytest.raises(ValueError, match="culprit returned"):
        run(Tilted(NORMAL, lambda x: x.flatten(1).sum(1), culprit))
    single = run(Tilted(NORMAL, lambda x: x.flatten(1).sum(1), lambda sigma: torch.ones(1)))
    other = run(Tilted(NORMAL, lambda x: x.flatten(1).sum(1), lambda sigma: 1.0))
    assert torch.equal(single.x, other.x)


@pytest.mark.parametrize("target", [NORMAL, plain], ids=["energy", "denoiser"])
def test_proposals(target):
    for shape in ((1, 3), (3,), (2, 2), (2, 3, 1)):

        class Culprit(smc.Ancestral):
            def coefficients(self, step, exponent, curvature):
                return torch.full(shape, 0.1, dtype=torch.float64)  # noqa: B023, it is called in this round only

        with pytest.raises(ValueError, match="Culprit returned"):
            run(target, proposal=Culprit(), populations=2)


NOISES = {
    "euler": (sampling.sample_euler, {"s_churn": 1.0}),
    "heun": (sampling.sample_heun, {"s_churn": 1.0}),
    "ancestral": (sampling.sample_euler_ancestral, {}),
}


@pytest.mark.parametrize("sampler", [*NOISES, "edm", "edm2"])
def test_noise(sampler):
    for wrong in WRONG.values():

        def culprit(*_):
            return wrong(DATA)  # noqa: B023, it is called in this round only

        with pytest.raises(ValueError, match="culprit returned"):
            if sampler in NOISES:
                function, options = NOISES[sampler]
                function(plain, DATA, torch.tensor(LEVELS), noise_sampler=culprit, **options)
            else:
                function = getattr(sampling, f"{sampler}_sampler")
                function(plain, DATA, randn_like=culprit, S_churn=4.0)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_backbones_and_fields(wrong):
    class Culprit(torch.nn.Module):
        def forward(self, y, c_noise):
            return wrong(y)

    for model in (edmfast.EnergyModel(Culprit()), edmfast.Denoiser(Culprit())):
        with pytest.raises(ValueError, match="Culprit returned"):
            model(DATA, 0.5)
    with pytest.raises(ValueError, match="must keep the shape"):
        diagnostics.field_asymmetry(wrong, DATA)
    with pytest.raises(ValueError, match="must keep the shape"):
        diagnostics.rectangle_circulation(wrong, DATA, sides=1.0)


def test_an_exponent_has_one_dimension():
    class Culprit:
        exponent = torch.ones(2, 1)

        def __call__(self, x, sigma):
            return plain(x, sigma)

    with pytest.raises(ValueError, match="exponent of Culprit"):
        Tempered(Culprit(), 2.0)
