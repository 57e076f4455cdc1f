"""Provide every entry point that calls a foreign denoiser or energy, each as a function of that model."""

import torch

import edmfast
from edmfast import (
    Conditioned,
    Constrained,
    DistillConfig,
    EnergyModel,
    Guided,
    LinearInverse,
    Mixture,
    Product,
    Tempered,
    Tilted,
    diagnostics,
    interpolants,
    models,
    sampling,
    smc,
)
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.models import initialise_from
from edmfast.targets import ProposedBy, constrained
from tests.foreign.wrappers import SHAPE, Gaussian
from tests.grouped import grouped

LEVELS = [10.0, 3.0, 1.0, 0.3]
STEPS = {"num_steps": 4, "sigma_min": 0.1, "sigma_max": 10.0}
DATA = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
NORMAL, HALF = Gaussian(), Gaussian(0.5)


def reward(x):
    return x.flatten(1).sum(1)


def sampled(function, **options):
    def call(model):
        torch.manual_seed(0)
        x = 10 * DATA[:4]
        return function(model, x, torch.tensor([*LEVELS, 0.0]), disable=True, **options)

    return call


def run(make, **options):
    def call(model):
        options_ = {"particles": 8, "dtype": torch.float32, **options}
        return smc.sample(make(model), SHAPE, [*LEVELS, 0.0], **grouped(**options_)).x

    return call


def steered(method):
    def call(model):
        return smc.steer(model, reward, SHAPE, LEVELS, prompts=3, method=method).samples

    return call


def student():
    torch.manual_seed(0)
    return EnergyModel(models.ResidualMLP(16, width=8, depth=1))


def distilled(compile=False):
    def call(model):
        config = DistillConfig(steps=2, batch_size=8, difference_weight=0.05, compile=compile)
        return edmfast.distill(model, student(), DATA, config=config, progress=False).losses

    return call


def initialised(model):
    return initialise_from(student(), model, DATA, weights_from=student().backbone).scale.values


def measured(model):
    return LinearInverse(
        model, torch.eye(16)[:3], torch.ones(3), 0.5, full_below=0.3, gradient="none"
    )


def reported(model):
    report = diagnostics.conservativity_report({"m": model}, [DATA] * 4, LEVELS)
    return torch.cat([report.asymmetry["m"], report.circulation["m"]])


DENOISERS = {
    "sample_euler": sampled(sampling.sample_euler),
    "sample_euler churned": sampled(sampling.sample_euler, s_churn=1.0),
    "sample_heun": sampled(sampling.sample_heun),
    "sample_dpmpp_2m": sampled(sampling.sample_dpmpp_2m),
    "sample_euler_ancestral": sampled(sampling.sample_euler_ancestral),
    "score scaling": lambda model: score_scaled_samples(
        model, 2.0, torch.empty(1, 8, *SHAPE), torch.tensor(LEVELS)
    ),
    "edm_sampler": lambda model: sampling.edm_sampler(model, DATA[:4], **STEPS),
    "edm2_sampler": lambda model: sampling.edm2_sampler(
        NORMAL.denoise, DATA[:4], gnet=model, guidance=1.5, **STEPS
    ),
    "distill": distilled(),
    "initialise_from": initialised,
    "plain": run(lambda model: model),
    "calibrated": lambda model: (
        smc.sample(
            model,
            SHAPE,
            smc.calibrate(NORMAL, SHAPE, LEVELS, particles=8, pilot_steps=4),
            particles=8,
        ).x
    ),
    "Tempered": run(lambda model: Tempered(model, 2.0)),
    "Product": run(lambda model: Product([model, NORMAL])),
    "Product of exponents per population": run(
        lambda model: Tempered(model, torch.tensor([1.0, 2.0])), populations=2
    ),
    "Guided": run(lambda model: Guided(NORMAL.denoise, model, 2.0)),
    "SuperDiff OR": run(lambda model: Mixture([model, HALF])),
    "SuperDiff AND": run(lambda model: Product([model, HALF]), proposal="superdiff"),
    "Tilted": run(lambda model: Tilted(model, reward, 0.1, ramp=(2.0, 0.3))),
    "Tilted exact": run(
        lambda model: Tilted(model, reward, 0.1, ramp=(2.0, 0.3), gradient="exact")
    ),
    "Constrained": run(
        lambda model: Constrained(
            model, constrained.box(-1.0, 1.0), 1.0, ramp=(2.0, 0.3), gradient="none"
        )
    ),
    "LinearInverse": run(measured),
    "Conditioned": run(Conditioned),
    "ProposedBy": lambda model: (
        smc.sample(ProposedBy(NORMAL, model), SHAPE, LEVELS, particles=8, proposal="ancestral").x
    ),
    "steer fk": steered("fk"),
    "steer svdd": steered("svdd"),
    "steer best of n": steered("best_of_n"),
    "score_asymmetry": lambda model: diagnostics.score_asymmetry(model, DATA, 0.5).squared_norm,
    "score_circulation": lambda model: diagnostics.score_circulation(model, DATA, 0.5).strength,
    "conservativity_report": reported,
    "log_density": lambda model: edmfast.log_density(model, DATA, LEVELS, paths=2).paths,
    "to_velocity": lambda model: interpolants.to_velocity(model)(DATA, 0.4),
    "solve_ode": lambda model: interpolants.solve_ode(
        interpolants.OneSidedModel(model), DATA, [0.2, 0.5, 1.0], disable=True
    ),
    "solve_sde": lambda model: interpolants.solve_sde(
        interpolants.OneSidedModel(model), DATA, [0.2, 0.5, 0.9], seed=1, disable=True
    ),
    "log_likelihood of a flow": lambda model: (
        interpolants.log_likelihood(
            interpolants.OneSidedModel(model), DATA, [0.9, 0.5, 0.2], probes=1, disable=True
        ).log_prob
    ),
    "forward of a sum": lambda model: Product([model, NORMAL])(DATA, torch.full((16,), 0.5)),
    "forward of a tilt": lambda model: Tilted(model, reward, 1.0, ramp=None)(DATA, 0.5),
}


COMPILED = run(lambda model: Tempered(model, 2.0), compile=True)


def chains(model):
    return smc.mcmc(model, DATA[None], 0.5, smc.MALA(), transitions=3).states


def offsets(model):
    calibration = smc.calibrate_offsets(
        Mixture([model, HALF]), SHAPE, LEVELS, particles=8, populations=2
    )
    return torch.tensor(calibration.offsets.values)


ENERGIES = {
    "to_velocity": lambda model: interpolants.to_velocity(model)(DATA, 0.4),
    "solve_sde": lambda model: interpolants.solve_sde(
        interpolants.OneSidedModel(model), DATA, [0.2, 0.5, 0.9], seed=1, disable=True
    ),
    "plain": run(lambda model: model, proposal="ancestral"),
    "probed": run(lambda model: model),
    "Tempered": run(lambda model: Tempered(model, 2.0)),
    "Product": run(lambda model: Product([model, NORMAL])),
    "Guided": run(lambda model: Guided(NORMAL, model, 2.0)),
    "Mixture": run(lambda model: Mixture([model, HALF])),
    "Tilted": run(lambda model: Tilted(model, reward, 0.1, ramp=(2.0, 0.3), gradient="exact")),
    "Constrained": run(
        lambda model: Constrained(
            model, constrained.box(-1.0, 1.0), 1.0, ramp=(2.0, 0.3), hard_below=0.3
        )
    ),
    "LinearInverse": run(
        lambda model: LinearInverse(model, torch.eye(16)[:3], torch.ones(3), 0.5, full_below=0.3)
    ),
    "Conditioned": run(Conditioned),
    "correctors": run(lambda model: model, correctors=smc.MALA()),
    "score law": run(lambda model: Tempered(model, 2.0), weights="score"),
    "SuperDiff": run(lambda model: Product([model, HALF]), proposal="superdiff"),
    "calibrate": lambda model: torch.tensor(
        smc.calibrate(model, SHAPE, LEVELS, particles=8, pilot_steps=4).kappa
    ),
    "calibrate_offsets": offsets,
    "mcmc": chains,
    "ProposedBy": lambda model: smc.sample(ProposedBy(NORMAL, model), SHAPE, LEVELS, particles=8).x,
    "weights of a proposal": lambda model: (
        smc.sample(ProposedBy(model, NORMAL), SHAPE, LEVELS, particles=8, proposal="ancestral").x
    ),
    "energy of a condition": lambda model: Conditioned(model).energy(DATA, 0.5),
    "self_check": lambda model: diagnostics.self_check(model, [DATA] * 4, LEVELS).residuals,
    "ancestral_trajectory": lambda model: torch.stack(
        diagnostics.ancestral_trajectory(model, DATA, LEVELS)
    ),
    "fokker_planck": lambda model: diagnostics.fokker_planck(model, [DATA] * 4, LEVELS).residuals,
    "log_density": lambda model: edmfast.log_density(model, DATA, LEVELS, paths=2).paths,
    "SuperDiff by paths": run(
        lambda model: Product([model, HALF]), proposal=smc.SuperDiff(density="path")
    ),
}
