"""Test how runs behave: independence of the batch, resuming, files and errors."""

import copy
import math
import warnings

import pytest
import torch

from edmfast import smc
from edmfast._internal.files import read_tensors
from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel
from edmfast.models.backbones import ResidualMLP
from edmfast.smc.checkpoint import file
from edmfast.targets import Conditioned, Guided, Tempered
from tests.grouped import grouped

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")


def network():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=32, depth=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def fields(result):
    return {
        "x": result.x,
        "log_weights": result.log_weights,
        "log_z": result.log_z,
        "ess": result.ess.T,
        "resampled": result.resampled.T,
        "sd": result.log_weight_sd.T,
        "unique": result.unique_ancestors,
    }


@pytest.mark.parametrize("particles", [1, 3, 50])
@pytest.mark.parametrize("proposal", ["curvature_matched", "ancestral"])
def test_population_does_not_depend_on_company(levels, particles, proposal):
    options = {"particles": particles, "proposal": proposal, "seed": 7}
    sigmas = levels(8)
    target = Tempered(network(), 1.5)
    many = fields(smc.sample(target, (2,), sigmas, **grouped(populations=5, **options)))
    alone = fields(smc.sample(target, (2,), sigmas, **grouped(populations=1, **options)))
    later = fields(
        smc.sample(target, (2,), sigmas, **grouped(populations=2, first_population=3, **options))
    )
    for name, value in many.items():
        assert torch.equal(value[:1], alone[name]), name
        assert torch.equal(value[3:], later[name]), name


def test_threads_do_not_change_bits(cold, levels):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(
                smc.sample(
                    cold,
                    (2,),
                    levels(8),
                    particles=5000,
                    options=smc.RunOptions(dtype=torch.float32),
                )
            )
    finally:
        torch.set_num_threads(before)
    for name, value in fields(results[0]).items():
        assert torch.equal(value, fields(results[1])[name]), name


def labelled():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=16, depth=1, num_classes=3))
    torch.nn.init.normal_(model.backbone.output.weight)
    return model


@pytest.mark.parametrize("batch_size", [None, 50])
def test_every_population_has_its_own_condition(levels, batch_size):
    model, options = labelled(), {"particles": 30, "seed": 4}
    labels = torch.tensor([2, 0, 1])
    target = Guided(model, Conditioned(model, class_label=labels), 2.0)
    together = smc.sample(
        target, (2,), levels(6), **grouped(populations=3, batch_size=batch_size, **options)
    )
    for p, label in enumerate(labels.tolist()):
        single = Guided(model, Conditioned(model, class_label=label), 2.0)
        alone = smc.sample(single, (2,), levels(6), **grouped(first_population=p, **options))
        assert torch.equal(together.x[p : p + 1], alone.x)
        assert torch.equal(together.log_weights[p : p + 1], alone.log_weights)


def test_a_checkpoint_of_another_condition_is_refused(levels, tmp_path):
    model, path = labelled(), tmp_path / "run.safetensors"
    options = {"particles": 20, "checkpoint": path, "checkpoint_every": 2}
    smc.sample(Conditioned(model, class_label=1), (2,), levels(6), **grouped(**options))
    with pytest.raises(ValueError, match=r"another run or model.*target"):
        smc.sample(
            Conditioned(model, class_label=2),
            (2,),
            levels(6),
            particles=20,
            checkpoint=smc.Checkpoint(resume_from=path),
        )


class Stop(Exception):
    pass


def interrupt_at(step, error):
    def callback(info):
        if info["i"] == step:
            raise error

    return callback


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop])
def test_resume_repeats_the_bits(levels, tmp_path, error):
    target, path = Tempered(network(), 2.0), tmp_path / "run.safetensors"
    options = {"particles": 64, "populations": 2, "seed": 1, "ess_threshold": 0.9}
    whole = fields(smc.sample(target, (2,), levels(10), **grouped(**options)))
    with pytest.raises(error), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smc.sample(
            target,
            (2,),
            levels(10),
            **grouped(
                checkpoint=path, checkpoint_every=2, callback=interrupt_at(5, error), **options
            ),
        )
    resumed = fields(smc.sample(target, (2,), levels(10), **grouped(resume_from=path, **options)))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def failing_at(target, call, rows):
    """Return a target that raises at one of its calls with `rows` rows, the number of the run's particles."""

    class Failing(type(target)):
        calls = 0

        def energy_and_score(self, x, sigma, **condition):
            self.calls += len(x) == rows
            if self.calls == call:
                raise Stop("in the target")
            return super().energy_and_score(x, sigma, **condition)

    failing = copy.copy(target)
    failing.__class__ = Failing
    return failing


def test_an_error_of_the_target_or_callback_leaves_the_last_whole_step(levels, tmp_path, cold):
    options = {"particles": 20, "populations": 2, "proposal": "noise_matched"}
    path, seen = tmp_path / "run", []
    with pytest.warns(UserWarning, match=r"stopped by Stop.*the run is in"), pytest.raises(Stop):
        smc.sample(failing_at(cold, 6, 40), (2,), levels(10), **grouped(checkpoint=path, **options))
    assert read_tensors(path)[1]["index"] == 4  # The start is the first call.
    whole = smc.sample(
        cold, (2,), levels(10), **grouped(callback=lambda info: seen.append(info["x"]), **options)
    )
    assert torch.equal(read_tensors(path)[0]["x"], seen[4])
    with pytest.warns(UserWarning, match="the run is in"), pytest.raises(Stop):
        smc.sample(
            cold,
            (2,),
            levels(10),
            **grouped(checkpoint=path, callback=interrupt_at(7, Stop), overwrite=True, **options),
        )
    resumed = smc.sample(cold, (2,), levels(10), **grouped(resume_from=path, **options))
    assert torch.equal(resumed.x, whole.x)


def test_an_error_comes_through_where_no_checkpoint_can_be_written(
    levels, tmp_path, cold, monkeypatch
):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("edmfast.smc.checkpoint.file.write_tensors", full)
    with pytest.warns(UserWarning, match="could not be written.*disk full"), pytest.raises(Stop):
        smc.sample(
            cold,
            (2,),
            levels(10),
            particles=16,
            checkpoint=tmp_path / "run",
            callback=interrupt_at(3, Stop),
        )


def test_checkpoint_of_another_run_or_model(levels, tmp_path, cold):
    path = tmp_path / "run.safetensors"
    smc.sample(cold, (2,), levels(4), particles=8, checkpoint=smc.Checkpoint(path, every=1))
    with pytest.raises(ValueError, match=r"another run or model.*seed"):
        smc.sample(
            cold, (2,), levels(4), particles=8, checkpoint=smc.Checkpoint(resume_from=path), seed=1
        )
    other = Tempered(GaussianMixture(torch.zeros(1, 2), [1.0]), 2.0)
    with pytest.raises(ValueError, match=r"another run or model.*target"):
        smc.sample(other, (2,), levels(4), particles=8, checkpoint=smc.Checkpoint(resume_from=path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable"):
        smc.sample(cold, (2,), levels(4), particles=8, checkpoint=smc.Checkpoint(resume_from=path))
    with pytest.raises(FileNotFoundError):
        smc.sample(
            cold,
            (2,),
            levels(4),
            particles=8,
            checkpoint=smc.Checkpoint(resume_from=tmp_path / "none"),
        )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_particles_round_trip_and_read_outs(cold, levels, tmp_path):
    result = smc.sample(cold, (2,), levels(6), particles=100, populations=3)
    result.save(tmp_path / "p.safetensors")
    back = smc.Particles.load(tmp_path / "p.safetensors")
    for name, value in fields(result).items():
        assert torch.equal(value, fields(back)[name]), name
    assert (back.nfe, back.seed) == (7, 0)
    assert result.draw().shape == (3, 2)
    assert torch.equal(result.draw(), result.draw())
    drawn = torch.stack([result.draw(seed=k)[0] for k in range(400)])
    mean = result.expectation(lambda x: x)[0]
    assert (drawn.mean(0) - mean).abs().max() < 4 * drawn.std(0).max() / 20
    with pytest.raises(ValueError, match="fn must return"):
        result.expectation(lambda x: x.sum())
    result.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable"):
        smc.Particles.load(tmp_path / "bad")


def test_calibration_lowers_variance_and_survives_json(levels, tmp_path):
    mixture = GaussianMixture(torch.randn(12, 8, generator=torch.manual_seed(0)), [0.15] * 12)
    target = Tempered(mixture, 2.0)
    sigmas = levels(12, low=0.05)
    calibration = smc.calibrate(target, (8,), sigmas, particles=1000, pilot_steps=128)
    calibration.save(tmp_path / "c.json")
    assert smc.Calibration.load(tmp_path / "c.json") == calibration
    total = {}
    for name, schedule in (("karras", sigmas), ("equalised", calibration)):
        run = smc.sample(target, (8,), schedule, particles=1000, populations=4)
        total[name] = float(run.log_weight_sd[1:].square().sum(0).mean())
    assert total["equalised"] < 0.8 * total["karras"], total
    with pytest.raises(ValueError, match="kappa"):
        smc.Calibration((1.0, 0.5), (), ())
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ValueError, match="not a calibration"):
        smc.Calibration.load(tmp_path / "c.json")


class Broken:
    """A Gaussian whose energy is replaced by a bad value, everywhere or where x[0] > 1."""

    exponent = 1.0

    def __init__(self, value, everywhere):
        self.value, self.everywhere = value, everywhere

    def energy_and_score(self, x, sigma):
        energy = 0.5 * x.square().sum(1) / (1 + sigma**2)
        bad = torch.ones_like(energy, dtype=torch.bool) if self.everywhere else x[:, 0] > 1
        return energy.masked_fill(bad, self.value), -x / (1 + sigma**2)


@pytest.mark.parametrize(
    ("value", "everywhere", "text"),
    [(math.nan, False, "NaN"), (math.inf, True, "all weights zero"), (math.nan, True, "all")],
)
def test_degenerate_weights_are_told(levels, value, everywhere, text):
    options = {"particles": 50, "proposal": "ancestral"}
    with pytest.warns(smc.DegenerateWeightsWarning, match=text):
        result = smc.sample(Broken(value, everywhere), (2,), levels(4), **grouped(**options))
    assert torch.isfinite(result.x).all()
    assert bool(result.degenerate.all())
    assert torch.isfinite(result.weights).all()
    with pytest.raises(RuntimeError, match=text):
        smc.sample(
            Broken(value, everywhere), (2,), levels(4), **grouped(on_degenerate="raise", **options)
        )


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"sigmas": [1.0, 1.0]}, ValueError, "decrease strictly"),
        ({"sigmas": [0.5, 1.0]}, ValueError, "decrease strictly"),
        ({"sigmas": [1.0]}, ValueError, "two positive levels"),
        ({"sigmas": [1.0, 0.0]}, ValueError, "positive"),
        ({"sigmas": [1.0, -1.0]}, ValueError, "positive"),
        ({"sigmas": [math.nan, 0.1]}, ValueError, "finite"),
        ({"particles": 0}, ValueError, "particles"),
        ({"populations": 0}, ValueError, "populations"),
        ({"shape": ()}, ValueError, "shape"),
        ({"shape": (3,)}, ValueError, "2"),
        ({"proposal": "heun"}, ValueError, r"unknown proposal.*euler"),
        ({"proposal": 3}, TypeError, "Proposal"),
        ({"proposal": smc.CurvatureMatched((0.5,) * 3)}, ValueError, "kappa table"),
        ({"resampling": "magic"}, ValueError, "unknown resampling"),
        ({"ess_threshold": 2.0}, ValueError, "ess_threshold"),
        ({"sigma_range": (2.0, 1.0)}, ValueError, "sigma_range"),
        ({"on_degenerate": "quiet"}, ValueError, "on_degenerate"),
        ({"dtype": torch.float16}, TypeError, "dtype"),
        ({"target": object()}, TypeError, "energy_and_score"),
        ({"weights": "both"}, ValueError, r"unknown weights.*score"),
    ],
)
def test_bad_input(two_modes, change, error, text):
    arguments = {"target": two_modes, "shape": (2,), "sigmas": [2.0, 1.0, 0.5], "particles": 4}
    arguments |= change
    with pytest.raises(error, match=text):
        smc.sample(
            arguments.pop("target"),
            arguments.pop("shape"),
            arguments.pop("sigmas"),
            **grouped(**arguments),
        )


def test_exponent_must_be_positive(levels):
    target = Broken(0.0, False)
    target.exponent = -1.0
    with pytest.raises(ValueError, match="exponent"):
        smc.sample(target, (2,), levels(4), particles=4)


def test_curvature_needs_a_graph(levels):
    class Detached(Broken):
        def energy_and_score(self, x, sigma):
            return tuple(t.detach() for t in super().energy_and_score(x, sigma))

    with pytest.raises(ValueError, match="noise_matched"):
        smc.sample(Detached(0.0, False), (2,), levels(4), particles=4)


def test_a_full_disk_does_not_end_a_run(levels, tmp_path, cold, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    options = {"particles": 20, "populations": 2, "proposal": "noise_matched"}
    whole = smc.sample(cold, (2,), levels(10), **grouped(**options))
    monkeypatch.setattr("edmfast.smc.checkpoint.file.write_tensors", full)
    with pytest.warns(RuntimeWarning, match="the run goes on.*No space left") as warned:
        run = smc.sample(
            cold,
            (2,),
            levels(10),
            **grouped(checkpoint=tmp_path / "run", checkpoint_every=2, **options),
        )
    assert len(warned) == 1
    assert torch.equal(run.x, whole.x)


def test_the_last_step_goes_elsewhere_where_the_disk_is_full(levels, tmp_path, cold, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    real = file.write_tensors

    def full(place, *arguments, **options):
        if place.parent == tmp_path:
            raise OSError(28, "No space left on device")
        real(place, *arguments, **options)

    monkeypatch.setattr(file, "write_tensors", full)
    with pytest.warns(UserWarning, match="the run is in .*elsewhere"), pytest.raises(Stop):
        smc.sample(
            cold,
            (2,),
            levels(10),
            particles=16,
            checkpoint=tmp_path / "run",
            callback=interrupt_at(3, Stop),
        )
    (kept,) = elsewhere.iterdir()
    assert read_tensors(kept)[1]["index"] == 3


def test_a_forgotten_resume_does_not_replace_a_checkpoint(levels, tmp_path, cold):
    path = tmp_path / "run"
    options = {"particles": 16, "proposal": "noise_matched", "checkpoint_every": 2}
    smc.sample(cold, (2,), levels(10), **grouped(checkpoint=path, **options))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="resume_from="):
        smc.sample(cold, (2,), levels(10), **grouped(checkpoint=path, **options))
    assert path.read_bytes() == before
    smc.sample(cold, (2,), levels(10), **grouped(checkpoint=path, resume_from=path, **options))
    smc.sample(
        cold, (2,), levels(10), **grouped(checkpoint=path, overwrite=True, seed=1, **options)
    )
    assert path.read_bytes() != before


@pytest.mark.parametrize("path", ["folder", "none/run", "x" * 300])
def test_paths_are_checked_before_any_step(path, levels, tmp_path, cold):
    (tmp_path / "folder").mkdir()
    calls = []
    with pytest.raises(OSError, match="cannot write"):
        smc.sample(
            cold, (2,), levels(10), particles=16, checkpoint=tmp_path / path, callback=calls.append
        )
    assert not calls


def test_a_callback_may_change_weights_in_any_way(levels):
    """A change through `.data` shows nowhere, and still no step uses numbers of the old weights."""

    def run(change):
        model = network()

        def callback(info):
            if info["i"] == 3:
                change(model.backbone.shifts.weight)

        return smc.sample(
            model,
            (2,),
            levels(8),
            **grouped(particles=20, weights="energy", proposal="ancestral", callback=callback),
        )

    def through_data(weight):
        weight.data.mul_(3)

    def in_place(weight):
        with torch.no_grad():
            weight.mul_(3)

    unseen, seen, unchanged = run(through_data), run(in_place), run(lambda weight: None)
    assert torch.equal(unseen.x, seen.x)
    assert torch.equal(unseen.log_weights, seen.log_weights)
    assert not torch.equal(unseen.x, unchanged.x)
