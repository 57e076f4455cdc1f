"""The helpers of `K.utils` do what their names say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edmfast.k_diffusion as K


def test_axes_are_appended():
    x = torch.arange(3.0)
    assert K.utils.append_dims(x, 4).shape == (3, 1, 1, 1)
    assert K.utils.append_dims(x[0], 0).shape == ()
    with pytest.raises(ValueError, match="target_dims must be at least the 3 axes of x, got 2"):
        K.utils.append_dims(torch.zeros(1, 2, 3), 2)


def test_a_zero_is_appended():
    assert K.utils.append_zero(torch.tensor([2.0, 1.0])).tolist() == [2.0, 1.0, 0.0]
    assert K.sampling.append_zero is K.utils.append_zero


def test_parameters_are_counted():
    assert K.utils.n_params(nn.Linear(3, 4)) == 16


def test_modes_are_set_and_restored_for_each_module():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    with K.utils.eval_mode(model) as same:
        assert same is model
        assert not model[0].training
    with pytest.raises(KeyError), K.utils.train_mode(model):
        assert model[1].training
        raise KeyError
    assert [model[0].training, model[1].training] == [True, False]


def test_averages_move_towards_the_model_and_buffers_are_copied():
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.running_mean.fill_(5.0)
    K.utils.ema_update(model, average, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]
    with pytest.raises(ValueError, match="the same parameters, got"):
        K.utils.ema_update(nn.Linear(2, 2, bias=False), nn.Linear(2, 2), 0.5)
