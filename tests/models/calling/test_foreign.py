"""Foreign models receive copies and one noise level per sample, and their results are checked."""

import pytest
import torch

from edmfast import analytic
from edmfast.models.calling.foreign import call_denoiser, call_energy

MODEL = analytic.GaussianMixture(means=[[-3.0, 0.0], [3.0, 0.0]], stds=[0.9, 0.3])
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def test_a_foreign_denoiser_gets_one_level_per_sample():
    seen = []

    def denoiser(x, sigma):
        seen.append(sigma)
        return x / (1 + sigma.view(-1, 1) ** 2)

    for sigma in (0.7, torch.tensor(0.7), torch.full((5,), 0.7)):
        torch.testing.assert_close(call_denoiser(denoiser, X, sigma), X / 1.49)
    assert [level.shape for level in seen] == [(5,)] * 3


def test_changes_in_place_change_nothing_else():
    x = X.clone()
    call_denoiser(lambda x, sigma: x.mul_(0), x, 0.7)

    class InPlace:
        def energy_and_score(self, x, sigma):
            return x.mul_(2).square().sum(1), x

    call_energy(InPlace(), x, 0.7)
    assert torch.equal(x, X)


def test_output_buffers_may_be_reused():
    class Buffered:
        energy, score = torch.zeros(5), torch.zeros(5, 2)

        def energy_and_score(self, x, sigma):
            self.energy.copy_(x[:, 0])
            return self.energy, self.score.copy_(x)

    first = call_energy(Buffered(), X, 0.7)
    call_energy(Buffered(), X + 1, 0.7)
    assert torch.equal(first[0], X[:, 0])
    assert torch.equal(first[1], X)


@pytest.mark.parametrize("shape", [(), (2,), (1, 2), (5, 1), (5, 2, 1)], ids=str)
def test_other_shapes_are_not_broadcast(shape):
    with pytest.raises(ValueError, match="must return the denoised states"):
        call_denoiser(lambda x, sigma: torch.zeros(shape), X, 0.7)

    class Energy:
        def energy_and_score(self, x, sigma):
            return torch.zeros(5), torch.zeros(shape)

    with pytest.raises(ValueError, match="Energy returned"):
        call_energy(Energy(), X, 0.7)


def test_the_error_names_what_was_returned_instead_of_a_tensor():
    with pytest.raises(TypeError, match="returned a tuple"):
        call_denoiser(lambda x, sigma: (x,), X, 0.7)

    class Single:
        def energy_and_score(self, x, sigma):
            return x[:, 0]

    with pytest.raises(TypeError, match="Single returned a Tensor"):
        call_energy(Single(), X, 0.7)


def test_our_own_models_are_called_as_they_are():
    assert torch.equal(call_denoiser(MODEL, X, 0.7), MODEL(X, 0.7))
    assert torch.equal(call_energy(MODEL, X, 0.7)[1], MODEL.energy_and_score(X, 0.7)[1])
