"""Test that the gates refuse concrete wrong answers, each made from a right one."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cases import distill as bench_distill
from bench.cases import energy as bench_energy
from bench.cases import mlp_potential as bench_mlp_potential
from bench.cases import noise as bench_noise
from bench.cases import norms as bench_norms
from bench.cases import populations as bench_populations
from bench.cases import potential as bench_potential
from bench.cases import propagate as bench_propagate
from bench.cases import resample as bench_resample
from bench.cases import systematic_resample as bench_systematic_resample
from bench.cases import weigh as bench_weigh
from bench.cases.sampler_targets import Truth
from bench.harness import laws
from edmfast.ops.resample.operator import SCHEMES

CPU = torch.device("cpu")


def made(case, shape):
    """Return the inputs, the truth and our answer of a case at a small shape."""
    inputs = case.make_inputs(shape, case.dtype, CPU)
    return inputs, case.reference(*inputs), case.ours(*inputs)


def refused(check, output, truth):
    with pytest.raises((AssertionError, AttributeError, TypeError, ValueError)):
        check(output, truth)


PERMUTED = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
ANCESTORS = {
    "none": lambda a: None,
    "float": lambda a: a.float(),
    "another shape": lambda a: a[:, :-1],
    "identity": lambda a: torch.arange(a.shape[1]).expand_as(a),
    "tens": lambda a: torch.arange(a.shape[1]).expand_as(a) // 10 * 10,
    "uniform": lambda a: torch.randint(a.shape[1], a.shape).sort(1).values,
    "of the next particle": lambda a: ((a + 1) % a.shape[1]).sort(1).values,
    "of permuted particles": lambda a: PERMUTED[a.long()].sort(1).values,
    "beyond the last": lambda a: a + 1,
    "zeros": lambda a: a * 0,
}


@pytest.mark.parametrize("wrong", [*ANCESTORS, "of permuted slots", "some lost", "lighter"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ancestors_of_every_scheme(scheme, wrong):
    (case,) = (c for c in bench_resample.CASES if c.name.split("/")[1] == scheme)
    inputs, truth, output = made(case, (1, 10_000))
    case.check(output, truth)
    a = output.ancestors
    if wrong == "of permuted slots":
        if scheme == "killing":
            return  # Killing returns its ancestors in no order.
        changed = a[:, PERMUTED]
    elif wrong == "some lost":
        changed = torch.where(a >= 9000, 8999, a)
    elif wrong == "lighter":
        changed = case.ours(0.9 * inputs[0], inputs[1]).ancestors
    else:
        changed = ANCESTORS[wrong](a)
    refused(case.check, output._replace(ancestors=changed), truth)


def test_one_scheme_is_not_taken_for_another():
    systematic, multinomial = (
        made(c, (1, 10_000)) for c in bench_resample.CASES if c.name.split("/")[1][1] in "yu"
    )
    for one_case, other_case in ((systematic, multinomial), (multinomial, systematic)):
        refused(
            bench_resample.check, one_case[2]._replace(scheme=other_case[2].scheme), one_case[1]
        )


@pytest.mark.parametrize("wrong", ANCESTORS)
@pytest.mark.parametrize("shape", [(1, 10_000), (3, 10_000)])
def test_systematic_ancestors(shape, wrong):
    case = bench_systematic_resample.CASES[0]
    _, truth, output = made(case, shape)
    case.check(output, truth)
    refused(case.check, ANCESTORS[wrong](output), truth)


def test_systematic_ancestors_of_another_population_or_order():
    case = bench_systematic_resample.CASES[0]
    _, truth, output = made(case, (8, 16))
    for changed in (output.roll(1, 0), output.flip(1), output.roll(1, 1)):
        refused(case.check, changed, truth)


def test_offspring_within_one_of_any_but_one_uniform():
    """These floors and ceilings come in an order that no single uniform number gives."""
    expected = torch.full((1, 8), 1.0, dtype=torch.float64) + 0.5 * torch.tensor([1, -1] * 4)
    right, wrong = ([1, 1, 2, 0, 2, 0, 1, 1], [2, 1, 2, 1, 1, 0, 1, 0])
    for counts, passes in ((right, True), (wrong, False)):
        ancestors = torch.repeat_interleave(torch.arange(8), torch.tensor(counts))[None]
        if passes:
            laws.check_systematic(ancestors, expected)
        else:
            refused(laws.check_systematic, ancestors, expected)


@pytest.mark.parametrize("wrong", ["ancestors", "roots", "log_weights", "log_z", "ess", "rolled"])
def test_weights(wrong):
    case = bench_weigh.CASES[0]
    _, truth, output = made(case, (2, 1000))
    case.check(output, truth)
    rolled = (output.ancestors + 1).clamp(max=999)
    changes = {
        "ancestors": {"ancestors": rolled, "root": truth.root.gather(1, rolled.long())},
        "roots": {"root": output.root.roll(1, 1)},
        "log_weights": {"log_weights": 1.02 * output.log_weights},
        "log_z": {"log_z": output.log_z + 1e-3},
        "ess": {"ess": output.ess * 1.02},
        "rolled": {name: getattr(output, name).roll(1, 0) for name in ("ess", "log_z")},
    }
    refused(case.check, output._replace(**changes[wrong]), truth)


NOISE = {
    "none": lambda z: None,
    "zeros": lambda z: 0 * z,
    "larger": lambda z: 1.02 * z,
    "shifted": lambda z: z + 0.02,
    "uniform of the same variance": lambda z: (torch.rand_like(z) - 0.5) * 12**0.5,
    "signs": lambda z: z.sign(),
    "another shape": lambda z: z[:, 1:],
    "half": lambda z: z.half(),
    "double": lambda z: z.double(),
    "elements twice": lambda z: z[..., ::2].repeat_interleave(2, -1),
    "particles twice": lambda z: z[:, ::2].repeat_interleave(2, 1),
    "a stream used twice": lambda z: torch.cat([z[:, ::2], z[:, ::2]], 1),
    "with opposite signs": lambda z: torch.cat([z[:, ::2], -z[:, ::2]], 1),
    "rounded": lambda z: (z * 1000).round() / 1000,
    "half of its numbers twice, in no order": lambda z: z.flatten()[
        torch.randperm(z.numel()) // 2
    ].view_as(z),
}


@pytest.mark.parametrize("wrong", NOISE)
def test_noise(wrong):
    case = bench_noise.CASES[0]
    _, truth, output = made(case, (1, 4096, 32))
    for right in (output, output.z, torch.randn_like(output.z)):
        case.check(right, truth)
    refused(case.check, NOISE[wrong](output.z), truth)


def test_noise_of_the_counter_is_that_of_its_place():
    case = bench_noise.CASES[0]
    _, truth, output = made(case, (1, 4096, 32))
    for changed in (output.z.roll(1, 1), torch.randn_like(output.z)):
        refused(case.check, bench_noise.Counted(changed), truth)


@pytest.mark.parametrize("wrong", [n for n in NOISE if n != "rounded"])
def test_noise_of_a_step(wrong):
    """Each step has the right ratio for its noise, so only the noise can be refused."""
    case = bench_propagate.CASES[0]
    _, truth, output = made(case, (1, 4096, 32))
    case.check(output, truth)
    z = NOISE[wrong]((output.moved - truth.mean.float()) / bench_propagate.V_M**0.5)
    if z is None or z.shape != output.moved.shape:
        refused(case.check, None if z is None else (z, output.ratio), truth)
        return
    case_step = partial(step_of, truth)
    if wrong in ("half", "double"):
        moved, ratio = case_step(z.double())
        refused(case.check, (moved.to(z.dtype), ratio.float()), truth)
        return
    if wrong.endswith("in no order"):
        # Only a comparison with the counter finds these.
        refused(case.check, bench_propagate.Counted(*each_float(case_step(z))), truth)
        return
    refused(case.check, each_float(case_step(z)), truth)


def step_of(truth, z):
    moved = truth.mean + bench_propagate.V_M**0.5 * z.double()
    v_m, v_l, d = bench_propagate.V_M, bench_propagate.V_L, z.shape[2]
    ratio = (
        0.5 * z.double().square().sum(2)
        - 0.5 * (truth.start - moved).square().sum(2) / v_l
        + 0.5 * d * torch.tensor(v_m / v_l).log()
    )
    return moved, ratio


def each_float(step):
    return tuple(tensor.float() for tensor in step)


@pytest.mark.parametrize(
    "wrong", ["none", "moved alone", "another ratio", "other ancestors", "rolled"]
)
def test_step(wrong):
    case = bench_propagate.CASES[0]
    inputs, truth, output = made(case, (1, 4096, 32))
    case.check(tuple(output), truth)
    x, score, ancestors, kernel, rng = inputs
    changes = {
        "none": lambda: None,
        "moved alone": lambda: output.moved,
        "another ratio": lambda: output._replace(ratio=1.02 * output.ratio),
        "other ancestors": lambda: case.ours(x, score, ancestors.roll(1, 1), kernel, rng),
        "rolled": lambda: output._replace(ratio=output.ratio.roll(1, 1)),
    }
    refused(case.check, changes[wrong](), truth)


NUMBERS = {
    "none": lambda output: None,
    "the first alone": lambda output: output[0],
    "one too few": lambda output: output[:-1],
    "zeros": lambda output: tuple(0 * each for each in output),
    "larger": lambda output: tuple(1.02 * each for each in output),
    "rolled": lambda output: tuple(each.roll(1, 0) if each.dim() else each for each in output),
    "wrong signs": lambda output: (output[0], *(-each for each in output[1:])),
}
CASES = {
    "energy": (bench_energy.CASES[0], (32, 64)),
    "product": (bench_energy.product_case((32, 64)), (32, 64)),
    "distill": (bench_distill.CASES[0], (64, 64)),
    "potential": (bench_potential.CASES[0], (16, 8)),
    "potential, double": (bench_potential.CASES[-1], (16, 8)),
    "mlp_potential": (bench_mlp_potential.CASES[0], (16, 64)),
    "mlp_potential backward": (bench_mlp_potential.CASES[-1], (16, 64)),
    "norm": (bench_norms.CASES[5], (16, 4, 384)),
}


@pytest.mark.parametrize("name", CASES)
def test_tensors(name):
    """Each case's first baseline gives right answers in float32; the gate refuses every change of them."""
    case, shape = CASES[name]
    inputs = case.make_inputs(shape, case.dtype, CPU)
    truth = case.reference(*inputs)
    output = tuple(next(iter(case.baselines.values()))(*inputs))
    case.check(output, truth)
    for change, wrong in NUMBERS.items():
        if len(output) > 1 or change not in ("the first alone", "wrong signs"):
            refused(case.check, wrong(output), truth)


@pytest.mark.parametrize("name", ["energy", "distill"])
def test_references_call_no_operator_of_ours(name):
    case, shape = CASES[name]
    inputs = case.make_inputs(shape, case.dtype, CPU)
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        case.reference(*inputs)
    assert called
    assert not [name_called for name_called in called if name_called.startswith("edmfast")]


def test_populations():
    truth = Truth(
        torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64), torch.full((3,), 1e-3).double()
    )
    for masses, passes in (((0.5, 0.5), True), ((0.6, 0.4), False)):
        answers = torch.tensor([[0.0, *masses]], dtype=torch.float64).expand(100, 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench_populations, "answer", lambda run, a=answers: a)
            result = SimpleNamespace(log_z=answers[:, 0])
            if passes:
                bench_populations.check_populations(result, truth)
            else:
                refused(bench_populations.check_populations, result, truth)
