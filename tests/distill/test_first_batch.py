"""A training run cannot be resumed with another teacher, or with other data of the same shape."""

import dataclasses

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, ResidualMLP

LONG = DistillConfig(steps=8, batch_size=16, schedule="constant")


@pytest.fixture
def path(teacher, data, student, tmp_path):
    config = dataclasses.replace(LONG, steps=4, checkpoint=tmp_path / "run")
    distill(teacher, student(), data, config=config, progress=False)
    return config.checkpoint


def resume(path, teacher, data, student):
    model = student()
    before = [parameter.clone() for parameter in model.parameters()]
    try:
        return distill(teacher, model, data, config=LONG, resume_from=path, progress=False)
    except ValueError:
        assert all(map(torch.equal, before, model.parameters()))
        raise


def test_another_teacher_is_refused(path, teacher, data, student):
    resume(path, teacher, data, student)
    with pytest.raises(ValueError, match="to another run: its teacher"):
        resume(path, lambda x, sigma: 1.1 * teacher(x, sigma), data, student)


def test_other_data_are_refused(path, teacher, data, student):
    changed = data.clone()
    changed[1234, 1] += 1e-3
    with pytest.raises(ValueError, match="to another run: the numbers of its data"):
        resume(path, teacher, changed, student)


def test_a_random_teacher_cannot_be_compared(path, teacher, data, student):
    def noisy(x, sigma):
        return teacher(x, sigma) + torch.randn(x.shape)

    with pytest.warns(UserWarning, match="cannot be compared"):
        resume(path, noisy, data, student)


def test_a_teacher_that_differs_at_some_noise_levels_is_refused(tmp_path):
    model = GaussianMixture(means=[[-1.0, 0.0], [1.0, 0.5]], stds=[0.3, 0.6])
    data = model.sample(200, seed=1).float()
    config = DistillConfig(steps=4, batch_size=64, checkpoint=tmp_path / "run", checkpoint_every=2)

    def student():
        torch.manual_seed(0)
        return EnergyModel(ResidualMLP(2, width=8, depth=1), sigma_data=1.0)

    distill(model.denoise, student(), data, config=config, progress=False)
    for changed in (lambda s: s > 2, lambda s: s < 0.1):

        def other(x, sigma, changed=changed):
            return model.denoise(x, sigma) + changed(sigma)[:, None]

        with pytest.raises(ValueError, match="to another run"):
            distill(
                other, student(), data, config=config, resume_from=config.checkpoint, progress=False
            )
