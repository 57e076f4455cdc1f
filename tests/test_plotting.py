"""Pictures of a run draw each kind of sample in its own way."""

import dataclasses
import sys

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.plotting import is_image, particles_figure, samples_figure


def run(shape, populations=2, particles=6):
    dim = torch.Size(shape).numel()
    mixture = GaussianMixture(torch.randn(3, dim, generator=torch.manual_seed(0)), [0.3] * 3)
    return smc.sample(
        mixture, shape, [3.0, 1.0, 0.3, 0.0], particles=particles, populations=populations
    )


def test_points_are_scattered_with_areas_like_weights():
    result = run((2,))
    result.log_weights[0] = torch.tensor([0.0, -1.0, -2.0, -3.0, -4.0, -torch.inf])
    axis = samples_figure(result).axes[0]
    assert len(axis.collections) == 2
    areas = torch.tensor(axis.collections[0].get_sizes())
    torch.testing.assert_close(areas / areas.sum(), result.weights[0], rtol=1e-6, atol=0)
    assert torch.equal(torch.tensor(axis.collections[0].get_offsets().data), result.x[0].double())


@pytest.mark.parametrize(
    ("shape", "populations", "size"),
    [
        ((1, 4, 5), 2, (12, 42)),
        ((4, 5), 2, (12, 42)),
        ((3, 4, 5), 2, (12, 42, 3)),
        ((4, 5), 1, (12, 21)),
    ],
)
def test_images_make_a_mosaic(shape, populations, size):
    axis = samples_figure(run(shape, populations)).axes[0]
    assert axis.images[0].get_array().shape == size


def test_a_mosaic_shows_particles_as_often_as_they_weigh():
    result = run((4, 4))
    result.x[:] = torch.arange(6.0)[:, None, None] / 5
    result.log_weights[:] = torch.tensor([0, 1.0, 0, 0, 0, 2.0]).log()
    shown = torch.as_tensor(samples_figure(result).axes[0].images[0].get_array())
    assert shown[2, 2::6][:6].tolist() == pytest.approx([0, 0, 1, 1, 1, 1], abs=1e-6)


def test_other_samples_make_a_histogram():
    for shape in ((5,), (3, 3), (1,)):
        axis = samples_figure(run(shape)).axes[0]
        assert len(axis.patches) >= 60
        assert not axis.images
    assert is_image((4, 4))
    assert not is_image((13, 3))


def test_panels_show_resampling_and_ancestors():
    result = run((2,), particles=10)
    result.resampled[:] = torch.tensor([[False, False], [True, False], [False, False]])
    ess, spread, family, _ = particles_figure(result).axes
    marks = [line.get_xdata().tolist() for line in ess.lines if line.get_marker() == "v"]
    assert marks == [[1.0], [], []]  # the last one belongs to the legend
    assert len(spread.lines) == 2
    assert [line.get_ydata().tolist() for line in family.lines] == result.survivors.T.tolist()
    ancestors = torch.zeros(3, 2, 10, dtype=torch.int32)
    ancestors[1:] = torch.arange(10, dtype=torch.int32)
    family = particles_figure(dataclasses.replace(result, ancestors=ancestors)).axes[2]
    assert [line.get_ydata().tolist() for line in family.lines[2:]] == [[1, 10, 10]] * 2
    family = particles_figure(dataclasses.replace(result, survivors=None)).axes[2]
    assert family.lines[0].get_ydata().tolist() == result.unique_ancestors.tolist()


def test_the_error_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'edmfast\[demo\]'"):
        run((2,)).plot()
