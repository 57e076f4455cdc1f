"""Run the cases of test_distributed.py on one rank; the tests start it once for each number of ranks.

python distributed_worker.py FOLDER kill      dies at a step on the last rank
python distributed_worker.py FOLDER cases     writes what differs from one process, by case, as JSON
"""

import contextlib
import datetime
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel
from edmfast.models.backbones import ResidualMLP
from edmfast.ops import Weights, rng_state, weigh_and_resample
from edmfast.smc.distributed.ranks import Ranks
from edmfast.smc.distributed.shared_population import SharedPopulations
from edmfast.smc.populations.local import Increments
from edmfast.targets import Conditioned, Guided, Product, Tempered, Tilted
from tests.grouped import grouped
from tests.process_groups import leave

RUN = {"particles": 48, "populations": 5, "seed": 3, "ess_threshold": 0.9, "genealogy": True}
KILLED = RUN | {"populations": 2}
DIES_AT = 7


def levels():
    ramp = torch.linspace(0, 1, 11, dtype=torch.float64)
    return (20.0 ** (1 / 7) + ramp * (0.02 ** (1 / 7) - 20.0 ** (1 / 7))) ** 7


def network(**options):
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=32, depth=2, **options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def target():
    return Tempered(network(), 1.5)


def labelled():
    model = network(num_classes=3)
    return Guided(model, Conditioned(model, class_label=torch.tensor([2, 0, 1, 1, 0])), 2.0)


def mixtures():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    return [GaussianMixture(means + shift, [0.2, 0.4]) for shift in (0.0, 0.3)]


class Denoiser:
    """The denoiser of a mixture, without its energy."""

    def __init__(self, mixture):
        self.mixture = mixture

    def __call__(self, x, sigma):
        return x + sigma[:, None] ** 2 * self.mixture.energy_and_score(x, sigma)[1]


def first(x):
    return x[:, 0]


class Walled:
    """A Gaussian whose energy is replaced by a bad value in a half-space, or everywhere."""

    exponent = 1.0

    def __init__(self, value, bound):
        self.value, self.bound = value, bound

    def energy_and_score(self, x, sigma):
        energy = 0.5 * x.square().sum(1) / (1 + sigma**2)
        return energy.masked_fill(x[:, 0] > self.bound, self.value), -x / (1 + sigma**2)


def runs():
    """Return name -> (target, options) of runs that must not depend on how they are split."""
    pair = [Denoiser(mixture) for mixture in mixtures()]
    double = {"dtype": torch.float64}

    def smooth(x, sigma):
        return x / (1 + sigma[:, None] ** 2)

    return {
        "probed curvature": (target(), {}),
        "a last zero": (target(), {"sigmas": [*levels().tolist(), 0.0]}),
        "at every step": (target(), {"ess_threshold": 1.0, "first_population": 7}),
        "never": (target(), {"ess_threshold": 0.0}),
        "below no sigma": (target(), {"sigma_range": (0.5, 10.0)}),
        "ancestral": (target(), {"proposal": "ancestral"}),
        "labels": (labelled(), {}),
        "exponents": (
            Tempered(mixtures()[0], torch.linspace(1, 2, 5, dtype=torch.float64)),
            double,
        ),
        "scores": (Product([*pair]), double),
        "superposed": (Product([*pair]), {"proposal": "superdiff", **double}),
        "steered": (Tilted(pair[0], first, 0.5, ramp=None, potential="max"), double),
        "guided": (Tilted(smooth, first, 0.5, ramp=(2.0, 0.1), gradient="exact"), double),
        "walled": (Walled(torch.inf, 0.1), {"proposal": "ancestral"}),
        "collapsed": (Walled(torch.inf, -torch.inf), {"proposal": "ancestral"}),
        "not a number": (Walled(torch.nan, 1.0), {"proposal": "ancestral"}),
        "one particle on a rank": (target(), {"particles": dist.get_world_size()}),
    }


def sample(what, options, **more):
    options = {"sigmas": levels()} | RUN | options | more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smc.DegenerateWeightsWarning)
        warnings.simplefilter("ignore", smc.DoubtfulWeightsWarning)
        return smc.sample(what, (2,), options.pop("sigmas"), **grouped(**options))


def differing(actual, expected):
    """Return the names of fields that differ in a bit; only the spread of increments may differ by rounding."""
    names = []
    for name, value in vars(expected).items():
        other = getattr(actual, name)
        if not isinstance(value, torch.Tensor):
            same = other == value
        elif name == "log_weight_sd":
            same = torch.allclose(other, value, rtol=1e-12, atol=1e-13, equal_nan=True)
        else:
            same = other.dtype == value.dtype and torch.equal(
                *map(torch.nan_to_num, (other, value))
            )
        if not same:
            names.append(name)
    return names


def raises(error, text, *arguments, **options):
    try:
        sample(*arguments, **options)
    except error as raised:
        return [] if text in str(raised) else [str(raised)]
    return [f"no {error.__name__}"]


def weights_of_a_level():
    """Compare the decision of a level among very uneven weights with that of one process."""
    ranks = Ranks(dist.group.WORLD, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    populations, particles = 6, 48
    shared = SharedPopulations(ranks, particles, first_population=5)
    mine = slice(shared.first_particle, shared.first_particle + shared.held)
    identity = torch.arange(shared.held, dtype=torch.int32).repeat(populations, 1)
    whole = Weights.start(populations, particles)
    part = shared.start(populations, shared.held, torch.device("cpu"))
    part = part._replace(ancestors=part.ancestors + shared.first_particle)
    x, wrong = torch.randn(populations, particles, 3, generator=generator), []
    here, travelled, exchange = x[:, mine], [], ranks.exchange

    def counted(*arguments):
        received, due = exchange(*arguments)
        travelled.append(len(received))
        return received, due

    ranks.exchange = counted
    for step in range(24):
        ratio, now, past = torch.randn(3, populations, particles, generator=generator)
        # One population continues without resampling; the others must resample.
        ratio[:3] *= torch.tensor([[0.0], [5.0], [50.0]])
        now[0], past[0] = 0.1 * now[0], 0.1 * past[0]
        alone = step * 7 % particles
        ratio[3, torch.arange(particles) != alone] = -torch.inf
        ratio[4] = -torch.inf if step == 5 else ratio[4]
        ratio[5, alone] = [torch.nan, torch.inf, 0.0][step % 3]
        threshold, rng = [0.5, 1.0, 0.9, 0.0][step % 4], rng_state(3, step)
        travelled.clear()
        before, here = shared.bring(part.ancestors, [past[:, mine], here])
        if travelled[-1] != sum(len(row.unique()) for row in part.ancestors):
            wrong.append(f"more than the parents travel at step {step}")
        x = x.gather(1, whole.ancestors.long()[..., None].expand_as(x))
        whole = weigh_and_resample(
            whole, ratio, now, past, rng, ess_threshold=threshold, first_population=5
        )
        part = shared.weigh_and_resample(
            part._replace(ancestors=identity),
            Increments(ratio[:, mine], [now[:, mine]], [before]),
            rng,
            weigh=True,
            ess_threshold=threshold,
        )
        expected_part = Weights(*(t[:, mine] if t.dim() == 2 else t for t in whole))
        names = [n for n in Weights._fields if n != "increment_sd"]
        pairs = {n: (getattr(expected_part, n), getattr(part, n)) for n in names} | {
            "x": (x[:, mine], here)
        }
        distinct = torch.tensor([len(row.unique()) for row in whole.root])
        pairs["distinct roots"] = distinct, part.survivors
        for name, (a, b) in pairs.items():
            if a.dtype != b.dtype or not torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)):
                wrong.append(f"{name} at step {step}")
    return wrong


def errors(group):
    rank, model = dist.get_rank(), target()
    options = {"group": group, "split": "particles"}
    other = Tempered(network(), 1.5 + rank)
    particular = Conditioned(network(num_classes=3), class_label=torch.arange(5 * 48) % 3)
    return {
        "not divisible": raises(ValueError, "divisible", model, {"particles": 49}, **options),
        "another scheme": raises(ValueError, "systematic", model, {"resampling": "ssp"}, **options),
        "compiled": raises(ValueError, "compile", model, {"compile": True}, **options),
        "correctors": raises(
            ValueError, "correctors", model, {"correctors": smc.MALA()}, **options
        ),
        "a part of one": raises(ValueError, "gather", model, {"gather": False}, **options),
        "unknown": raises(ValueError, "split", model, {"split": "halves"}, group=group),
        "too few": raises(ValueError, "each", model, {"populations": 1}, group=group),
        "another seed": raises(ValueError, "differ in seed", model, {"seed": rank}, group=group),
        "another model": raises(ValueError, "differ in target", other, {}, **options),
        "every particle's own": raises(ValueError, "one condition", particular, {}, **options),
        "no checkpoint": raises(
            FileNotFoundError, "none", model, {"resume_from": "none"}, **options
        ),
    }


class Stop(Exception):
    pass


def stop_at(step):
    def callback(info):
        if info["i"] == step:
            raise Stop

    return callback


def corrected(group, folder):
    """Compare chains of correctors, whose step sizes and genealogy are part of the state."""
    differences = []
    for name, options in (
        ("moved", {"correctors": smc.MALA(steps=2)}),
        ("waste-free", {"correctors": smc.MALA(), "waste_free": 4, "ess_threshold": 1.0}),
    ):
        whole, path = sample(target(), options), folder / f"{name}.safetensors"
        differences += differing(sample(target(), options, group=group), whole)
        kept = {"checkpoint_every": 2, "callback": stop_at(5), "overwrite": True}
        kept |= {"checkpoint": path}
        with contextlib.suppress(Stop):
            sample(target(), options | kept, group=group)
        differences += differing(sample(target(), options, resume_from=path, group=group), whole)
        differences += differing(sample(target(), options, resume_from=path), whole)
    return differences


def checkpoints(group, folder, split):
    """Compare runs that ranks write and one process resumes, and the other way round."""
    whole = sample(target(), {})
    by_ranks, single = (folder / f"{kind} {split}.safetensors" for kind in ("ranks", "single"))
    # All numbers of ranks share the folder, so existing files are overwritten.
    kept = {"checkpoint_every": 2, "callback": stop_at(5), "overwrite": True}
    differences = []
    for path, more in ((by_ranks, {"group": group, "split": split}), (single, {})):
        if more or dist.get_rank() == 0:
            with contextlib.suppress(Stop):
                sample(target(), kept, checkpoint=path, **more)
    dist.barrier()
    resumed = sample(target(), {}, resume_from=single, group=group, split=split)
    differences += differing(resumed, whole)
    differences += differing(sample(target(), {}, resume_from=by_ranks), whole)
    return differences


def parts(group):
    """Compare the populations of this rank, and those that a callback sees, when gather=False."""
    seen = []
    more = {"callback": lambda info: seen.append(len(info["x"])), "gather": False}
    part, whole = sample(target(), more, group=group), sample(target(), {})
    size, rank = dist.get_world_size(), dist.get_rank()
    sizes = [5 // size + (r < 5 % size) for r in range(size)]
    start = sum(sizes[:rank])
    same = torch.equal(part.x, whole.x[start : start + sizes[rank]])
    return [] if same and set(seen) == {sizes[rank]} else ["x or callback"]


def per_particle(group):
    """Compare conditions of single particles without resampling, in one population or in several."""
    differences = []
    for populations, split in ((1, "particles"), (5, "populations")):
        labels = torch.arange(populations * 48) // 7 % 3
        model = Conditioned(network(num_classes=3), class_label=labels)
        options = {"populations": populations, "ess_threshold": 0.0}
        truth = sample(model, options)
        differences += differing(sample(model, options, group=group, split=split), truth)
    return differences


def cases(group, folder):
    differences = {"weights of a level": weights_of_a_level(), "parts": parts(group)}
    differences["per particle"] = per_particle(group)
    differences["corrected"] = corrected(group, folder)
    differences |= {f"error: {name}": wrong for name, wrong in errors(group).items()}
    for split in ("populations", "particles"):
        differences[f"checkpoints, {split}"] = checkpoints(group, folder, split)
        for name, (what, options) in runs().items():
            split_run = sample(what, options, group=group, split=split)
            differences[f"{name}, {split}"] = differing(split_run, sample(what, options))
    killed = folder / "killed.safetensors"
    if killed.exists():
        resumed = sample(target(), KILLED, resume_from=killed, group=group, split="particles")
        differences["killed"] = differing(resumed, sample(target(), KILLED))
    by_rank = [None] * dist.get_world_size()
    dist.all_gather_object(by_rank, differences)
    return {
        name: [f"rank {r}: {at_rank[name]}" for r, at_rank in enumerate(by_rank) if at_rank[name]]
        for name in differences
    }


def kill(group, folder):
    """Kill the last rank; the other ranks must raise an error, which they write down."""

    def callback(info):
        if info["i"] == DIES_AT and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    more = {"checkpoint": folder / "killed.safetensors", "checkpoint_every": 3}
    try:
        sample(target(), KILLED, group=group, split="particles", callback=callback, **more)
    except RuntimeError as error:
        (folder / f"told {dist.get_rank()}").write_text(str(error))


def main():
    folder, what = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    store = f"file://{folder}/store {what}" if what == "kill" else "env://"
    world = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, timeout=timeout, **world)
    if what == "kill":
        kill(dist.group.WORLD, folder)
        os._exit(0)  # Without the other rank the group cannot be taken down in order.
    try:
        differences = cases(dist.group.WORLD, folder)
    except Exception:
        traceback.print_exc()
        os._exit(1)
    if dist.get_rank() == 0:
        (folder / f"{dist.get_world_size()}.json").write_text(json.dumps(differences))
    leave()


if __name__ == "__main__":
    main()
