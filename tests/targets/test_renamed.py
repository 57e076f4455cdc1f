"""Names of conditions: errors list the accepted names, and Renamed combines models with different names."""

import pytest
import torch

import edmfast
from edmfast import Conditioned, DistillConfig, EnergyModel, Guided, analytic, sampling, smc
from edmfast.models import Denoiser, ResidualMLP
from edmfast.targets import Renamed

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
GAUSSIAN = analytic.GaussianMixture(means=[[0.0, 0.0]], stds=[1.0])
SIGMAS = torch.tensor([10.0, 1.0, 0.1])


def energy(dtype=torch.float32):
    torch.manual_seed(0)
    return EnergyModel(ResidualMLP(2, width=8, depth=1, num_classes=3)).to(dtype)


def theirs(x, sigma, class_labels):
    return x / (1 + sigma[:, None] ** 2) + 0.1 * class_labels[:, None]


def test_a_renamed_model_is_the_model():
    model = energy()
    renamed = Renamed(Renamed(model, kind="class_label"), label="kind")
    for call in ("energy", "energy_and_score", "forward"):
        result = getattr(renamed, call)(X, 0.5, label=LABELS)
        expected = getattr(model, call)(X, 0.5, class_label=LABELS)
        torch.testing.assert_close(result, expected)
    bound = Conditioned(Renamed(theirs, class_label="class_labels"), class_label=2)
    target = Guided(Conditioned(energy(), class_label=2), bound, 1.5)
    assert smc.sample(target, (2,), SIGMAS, particles=8).x.isfinite().all()
    backbone = Renamed(ResidualMLP(2, num_classes=3), class_labels="class_label")
    assert EnergyModel(backbone)(X, 0.5, class_labels=LABELS).shape == X.shape


def test_an_unknown_condition_is_refused_with_the_accepted_names():
    message = "accepts the conditions class_label, given class_labels: .*Renamed"
    calls = [
        lambda: Conditioned(energy(), class_labels=1),
        lambda: Conditioned(Guided(energy(), energy(), 2.0), class_labels=1),
        lambda: energy()(X, 0.5, class_labels=LABELS),
        lambda: energy().energy(X, 0.5, class_labels=LABELS),
        lambda: Denoiser(ResidualMLP(2, num_classes=3))(X, 0.5, class_labels=LABELS),
        lambda: sampling.sample_euler(energy(), X, SIGMAS, {"class_labels": LABELS}),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match="theirs accepts the conditions class_labels, given label"):
        sampling.sample_euler(theirs, X, SIGMAS, {"label": LABELS})
    with pytest.raises(TypeError, match="accepts no conditions, given class_label"):
        Conditioned(GAUSSIAN, class_label=1)
    Conditioned(lambda x, sigma, **condition: x, anything=1)


def test_distillation_of_a_teacher_with_another_name(tmp_path):
    data = X, LABELS
    path = tmp_path / "run.safetensors"
    config = DistillConfig(steps=2, batch_size=4, checkpoint=path)
    options = {"config": config, "progress": False}
    with pytest.raises(TypeError, match=r"teacher theirs accepts the conditions class_labels"):
        edmfast.distill(theirs, energy(), data, **options)
    with pytest.raises(TypeError, match=r"the student EnergyModel accepts the conditions labels"):
        student = EnergyModel(Renamed(ResidualMLP(2, num_classes=3), labels="class_label"))
        edmfast.distill(theirs, student, data, **options)
    with pytest.raises(ValueError, match="condition_names"):
        edmfast.distill(theirs, energy(), data, condition_names={"kind": "kinds"}, **options)
    assert not path.exists()
    result = edmfast.distill(
        theirs, energy(), data, condition_names={"class_label": "class_labels"}, **options
    )
    expected = edmfast.distill(
        lambda x, sigma, class_label: theirs(x, sigma, class_label),
        energy(),
        data,
        config=DistillConfig(steps=2, batch_size=4),
        progress=False,
    )
    assert torch.equal(result.losses, expected.losses)


def test_bad_names_are_refused():
    with pytest.raises(TypeError, match="must be a string"):
        Renamed(theirs, class_label=3)
    with pytest.raises(TypeError, match="accepts the conditions class_labels, given labels"):
        Renamed(theirs, class_label="labels")
    with pytest.raises(ValueError, match="given twice"):
        Renamed(theirs, label="class_labels")(X, 0.5, label=LABELS, class_labels=LABELS)


def test_states_of_another_dtype_are_refused():
    for call in (
        lambda: smc.sample(
            Conditioned(energy(), class_label=1),
            (2,),
            SIGMAS,
            particles=4,
            options=smc.RunOptions(dtype=torch.float64),
        ),
        lambda: sampling.sample_euler(energy(), X.double(), SIGMAS),
        lambda: energy(torch.float64).energy(X, 0.5),
    ):
        with pytest.raises(
            TypeError,
            match=r"has numbers of .*was given states of torch.float.*options=smc\.RunOptions\(dtype=",
        ):
            call()


def test_a_list_of_models_is_refused():
    with pytest.raises(TypeError, match=r"takes a Mixture, such as Mixture.*got a list"):
        smc.calibrate_offsets([GAUSSIAN, GAUSSIAN], (2,), SIGMAS)


def test_inference_mode_is_left_for_a_run():
    options = {"particles": 8, "seed": 1}
    expected = smc.sample(energy(), (2,), SIGMAS, **options).x
    config = DistillConfig(steps=2, batch_size=4)
    losses = edmfast.distill(GAUSSIAN, energy(), X, config=config, progress=False).losses
    with torch.inference_mode():
        result = smc.sample(energy_outside(), (2,), SIGMAS, **options).x
        chains = smc.mcmc(energy_outside(), X[None].clone(), 0.5, smc.MALA(), transitions=2)
        trained = edmfast.distill(
            GAUSSIAN, energy_outside(), X, config=config, progress=False
        ).losses
    assert torch.equal(result, expected)
    assert torch.equal(trained, losses)
    assert chains.states.isfinite().all()


def energy_outside():
    with torch.inference_mode(False):
        return energy()
