"""Whole runs on a device equal those on the CPU: the same distribution, noise and decisions.

States agree to rounding, since targets multiply matrices. In float64 the rounding changes no ancestor.
"""

from __future__ import annotations

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.targets import Product, Tempered
from tests.grouped import grouped

LEVELS = [10.0 * 0.6**i for i in range(12)]
NAMES = ("x", "log_weights", "log_z", "ess", "log_weight_sd")
EXACT = ("resampled", "unique_ancestors", "survivors", "degenerate")


def mixture():
    return GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), [0.15, 0.45], [0.5, 0.5])


def network(kind=EnergyModel):
    torch.manual_seed(0)
    return kind(ResidualMLP(2, 16, 2, embedding_width=8)).double()


RUNS = {
    "analytic": (lambda: Tempered(mixture(), 2.0), {}),
    "networks": (lambda: Product([network(), network()]), {"proposal": "ancestral"}),
    "scores": (lambda: Product([network(Denoiser), network(Denoiser)]), {"weights": "score"}),
    "corrected": (mixture, {"correctors": smc.MALA(), "sigma_range": (0.1, 5.0)}),
    "killing": (lambda: Tempered(mixture(), 2.0), {"resampling": "killing"}),
}


def run(name, device, **changes):
    make, options = RUNS[name]
    inputs = {"particles": 60, "populations": 3, "ess_threshold": 0.9, "seed": 2, "genealogy": True}
    target = make().to(device)
    arguments = grouped(dtype=torch.float64, **(inputs | options | changes))
    return smc.sample(target, (2,), LEVELS, **arguments)


def assert_same(results, wanted, tolerance=1e-9):
    for name in EXACT:
        assert torch.equal(getattr(results, name).cpu(), getattr(wanted, name).cpu()), name
    for name in NAMES:
        ours, theirs = getattr(results, name).cpu(), getattr(wanted, name).cpu()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_the_cpu(name, device):
    results, wanted = run(name, device), run(name, "cpu")
    assert results.x.device.type == device
    assert wanted.resampled.any()
    assert torch.equal(results.ancestors.cpu(), wanted.ancestors)
    assert_same(results, wanted)


def test_the_start_has_the_bits_of_the_cpu(device):
    """The start has the same bits in float32 too: it is noise times a number."""
    states = []
    for place in (device, "cpu"):
        smc.sample(
            mixture().float().to(place),
            (2,),
            LEVELS[:2],
            particles=50,
            seed=4,
            callback=lambda info: states.append(info["x"].cpu()) if info["i"] == 0 else None,
        )
    assert torch.equal(*states)


@pytest.mark.parametrize("name", ["analytic", "networks"])
def test_a_population_does_not_see_the_others(name, device):
    alone = run(name, device, populations=1, first_population=2)
    among = run(name, device, populations=3)
    assert torch.equal(alone.ancestors[:, 0], among.ancestors[:, 2])
    torch.testing.assert_close(alone.x[0], among.x[2], rtol=1e-9, atol=1e-9)
    in_parts = run(name, device, batch_size=70)
    assert_same(in_parts, among)


def test_a_run_goes_on_on_another_device(device, tmp_path):
    path = tmp_path / "run.safetensors"

    def interrupt(info):
        if info["i"] == 5:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        run("networks", "cpu", checkpoint=path, callback=interrupt)
    wanted = run("networks", "cpu")
    resumed = run("networks", device, resume_from=path)
    assert resumed.x.device.type == device
    assert_same(resumed, wanted)


def test_from_the_device_to_the_cpu(device, tmp_path):
    path = tmp_path / "particles.safetensors"
    results = run("analytic", device)
    results.save(path)
    loaded = smc.Particles.load(path)
    assert torch.equal(loaded.x.cpu(), results.x.cpu())
    assert loaded.draw().shape == (3, 2)
    torch.testing.assert_close(
        results.expectation(lambda x: x).cpu(), loaded.expectation(lambda x: x).cpu()
    )


@pytest.mark.filterwarnings("error:compile=True failed")
@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("networks", "cpu"),
        pytest.param("networks", "cuda", marks=pytest.mark.gpu),
        pytest.param("analytic", "cuda", marks=pytest.mark.gpu),
    ],
    indirect=["device"],
)
def test_a_compiled_run_is_the_eager_one(name, device):
    """On a GPU the step is a CUDA graph."""
    assert_same(run(name, device, compile=True), run(name, device))


def test_the_masses_of_two_modes(device):
    """In two dimensions the square of the density has mass (1/s²)/(1/s² + 1/t²) in the mode of deviation s."""
    target = Tempered(mixture(), 2.0).to(device)
    result = smc.sample(
        target, (2,), [20.0 * 0.8**i for i in range(30)], particles=300, populations=24, seed=1
    )
    mass = result.expectation(lambda x: (x[..., 0] < 0).double()).cpu()
    variances = torch.tensor([0.15, 0.45], dtype=torch.float64) ** 2 + result.sigmas[-1].cpu() ** 2
    wanted = (1 / variances[0]) / (1 / variances).sum()
    # the modes overlap a little at the last level
    assert abs(mass.mean() - wanted) < 3 * mass.std() / 24**0.5 + 0.02
