"""Conditions of another length than the batch are refused in every way that leads to a model of somebody else."""

import numpy as np
import pytest
import torch
from torch import nn

import edmfast
from edmfast import Guided, Mixture, Product, Tempered, Tilted, diagnostics, interpolants, sampling
from edmfast.k_diffusion.layers import Denoiser as KDiffusionDenoiser
from edmfast.models import Denoiser, EnergyModel, PotentialDenoiser, initialise_from
from edmfast.models.calling import foreign
from edmfast.sampling import guidance
from edmfast.targets import Renamed

ROWS = 20
LEVELS = torch.tensor([3.0, 2.0, 1.0])
X = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))


class Careless(nn.Module):
    """A denoiser and energy that cuts its labels to the batch, so that wrong lengths give numbers all the same."""

    sigma_data = 0.5

    def __init__(self):
        super().__init__()
        self.layer, self.table = nn.Linear(2, 2), nn.Embedding(11, 2)

    def forward(self, x, sigma, class_label=None, scales=None):
        h = self.layer(x)
        if class_label is not None:
            rows = torch.as_tensor(class_label)
            h = h + self.table(rows if len(rows) == 1 else rows.repeat(2)[: len(x)])
        return h if scales is None else h * scales["size"].mean()

    def energy_and_score(self, x, sigma, **condition):
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            energy = 0.5 * (point - self(point, sigma, **condition)).square().sum(1)
            (slope,) = torch.autograd.grad(energy.sum(), point, create_graph=True)
        return energy, -slope

    def energy(self, x, sigma, **condition):
        return self.energy_and_score(x, sigma, **condition)[0]

    def jacobian_trace(self, x, sigma, **condition):
        return self(x, sigma, **condition).sum(1)


class CarelessDenoiser(nn.Module):
    """The same as a plain denoiser."""

    def __init__(self):
        super().__init__()
        self.model = Careless()

    def forward(self, x, sigma, **condition):
        return self.model(x, sigma, **condition)


def function(x, sigma, class_label=None, scales=None):
    return x / (1 + sigma.view(-1, 1) ** 2)


def sampler(name, model, **options):
    def call(**condition):
        run = getattr(sampling, name)
        return run(model, X, *options.get("levels", (LEVELS,)), extra_args=condition, disable=True)

    return call


def ways():
    """Return all calls of a foreign model with conditions, by name."""
    model, plain = Careless(), CarelessDenoiser()
    inside = EnergyModel(Careless())
    calls = {
        "call_denoiser": lambda **c: foreign.call_denoiser(plain, X, 1.0, **c),
        "function": lambda **c: foreign.call_denoiser(function, X, 1.0, **c),
        "own states": lambda **c: foreign.call_on_own_states(plain, X, 1.0, **c),
        "call_energy": lambda **c: foreign.call_energy(model, X, 1.0, **c),
        "energy_of": lambda **c: foreign.energy_of(model, X, 1.0, **c),
        "trace": lambda **c: foreign.call_jacobian_trace(model, X, 1.0, **c),
        "backbone": lambda **c: foreign.call_backbone(model, X, torch.ones(ROWS), **c),
        "Denoiser": lambda **c: Denoiser(Careless())(X, 1.0, **c),
        "EnergyModel": lambda **c: inside(X, 1.0, **c),
        "energy": lambda **c: inside.energy(X, 1.0, **c),
        "energy_and_score": lambda **c: inside.energy_and_score(X, 1.0, **c),
        "potential": lambda **c: inside.potential(X, torch.ones(ROWS), **c),
        "PotentialDenoiser": lambda **c: PotentialDenoiser(model, dof=8.0)(X, 1.0, **c),
        "initialise_from": lambda **c: initialise_from(
            EnergyModel(Careless()), model, X, weights_from=model, **c
        ),
        "initialise_from a Denoiser": lambda **c: initialise_from(
            EnergyModel(Careless()), Denoiser(Careless()), X, **c
        ),
        "Product": lambda **c: Product([model, model]).energy_and_score(X, 1.0, **c),
        "Mixture": lambda **c: Mixture([model, model]).energy_and_score(X, 1.0, **c),
        "Tempered": lambda **c: Tempered(plain, 2.0)(X, 1.0, **c),
        "Guided": lambda **c: Guided(plain, plain, 2.0)(X, 1.0, **c),
        "Tilted": lambda **c: Tilted(model, lambda x: x.sum(1), 1.0)(X, 1.0, **c),
        "Renamed": lambda **c: Renamed(plain, other="class_label")(X, 1.0, **c),
        "log_likelihood": lambda **c: sampling.log_likelihood(
            plain, X, sigma_min=0.5, sigma_max=1.0, extra_args=c
        ),
        "log_density": lambda **c: edmfast.log_density(plain, X, [1.0, 0.5], paths=2, **c),
        "circulation": lambda **c: diagnostics.score_circulation(plain, X, 1.0, condition=c),
        "asymmetry": lambda **c: diagnostics.score_asymmetry(plain, X, 1.0, **c),
        "guidance": lambda **c: guidance.ClassifierFreeGuidance(
            plain, 2.0, unconditional={"class_label": 10}
        )(X, 1.0, **c),
        "two guided": lambda **c: guidance.AutoGuidance(plain, plain, 2.0)(X, 1.0, **c),
        "from_velocity": lambda **c: from_velocity(plain)(X, 1.0, **c),
        "loss": lambda **c: interpolants.interpolant_loss(
            "velocity", plain, interpolants.Interpolant(), X, torch.full((ROWS,), 0.5), X, x0=X, **c
        ),
        "k-diffusion": lambda **c: KDiffusionDenoiser(plain, sigma_data=0.5)(
            X, torch.ones(ROWS), **c
        ),
        "edm_sampler": lambda class_label, **c: sampling.edm_sampler(
            plain_by_position, X, torch.as_tensor(class_label), num_steps=2
        ),
    }
    names = [name for name in dir(sampling) if name.startswith("sample_")]
    fast = {"sample_dpm_fast": (0.5, 3.0, 3)}
    two = ("sample_dpm_adaptive", "sample_dpm_solver_adaptive")
    for name in names:
        levels = fast.get(name, (0.5, 3.0) if name in two else (LEVELS,))
        if name != "sample_dpm_solver_v3":
            calls[name] = sampler(name, plain, levels=levels)
    return calls


def from_velocity(network):
    return interpolants.from_velocity(network)


def plain_by_position(x, sigma, labels):
    return x / 2


CALLS = ways()


@pytest.mark.parametrize("name", CALLS)
def test_wrong_lengths_raise_with_the_sizes_of_the_caller(name):
    call, shown = CALLS[name], "class_labels?"
    call(class_label=torch.zeros(ROWS, dtype=torch.int64))
    for rows in (0, 10, 19, 21, 32, 40):
        with pytest.raises(ValueError, match=f"^{shown} has {rows} rows for a batch of {ROWS}: "):
            call(class_label=torch.zeros(rows, dtype=torch.int64))


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name not in ("edm_sampler", "k-diffusion")]
)
def test_one_row_serves_all_samples(name):
    CALLS[name](class_label=torch.zeros(1, dtype=torch.int64))


def test_arrays_and_conditions_inside_dictionaries_are_checked():
    model = CarelessDenoiser()
    with pytest.raises(ValueError, match="class_label has 32 rows for a batch of 20"):
        foreign.call_denoiser(model, X, 1.0, class_label=np.zeros(32, dtype=np.int64))
    with pytest.raises(ValueError, match="scales has 32 rows for a batch of 20"):
        foreign.call_denoiser(model, X, 1.0, scales={"size": torch.ones(32, 3)})
    foreign.call_denoiser(model, X, 1.0, class_label=np.zeros(20, dtype=np.int64))
    foreign.call_denoiser(model, X, 1.0, scales={"size": torch.tensor(2.0)})
    with pytest.raises(ValueError, match="labels has 32 rows for a batch of 20"):
        foreign.call_denoiser(plain_by_position, X, 1.0, torch.zeros(32))


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: m.forward, lambda m: Tempered(m, 1.0)])
def test_a_condition_without_rows_is_declared_by_the_model(wrap):
    class Prompted(nn.Module):
        shared_conditions = ("context",)

        def forward(self, x, sigma, context):
            assert context.shape == (77, 3)
            return x * context.mean()

    model, context = Prompted(), torch.ones(77, 3)
    for rows in (1, 20, 77):
        x = torch.ones(rows, 2)
        assert torch.equal(foreign.call_denoiser(wrap(model), x, 1.0, context=context), x)
    diagnostics.score_circulation(wrap(model), X, 1.0, condition={"context": context})
    model.shared_conditions = ()
    with pytest.raises(
        ValueError, match=r"context has 77 rows .*shared_conditions = \('context',\)"
    ):
        foreign.call_denoiser(wrap(model), X, 1.0, context=context)


def test_labels_of_another_length_than_the_training_data_are_refused():
    student = EnergyModel(Careless())
    with pytest.raises(ValueError, match=r"labels must be \[n\] = \[20\].*, given \[32\]"):
        edmfast.distill(
            CarelessDenoiser(), student, (X, torch.zeros(32, dtype=torch.int64)), progress=False
        )
