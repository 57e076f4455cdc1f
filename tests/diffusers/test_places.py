"""The model call of a timestep is found by its value, or on an accelerator by its place in memory."""

from __future__ import annotations

import pytest
import torch

from edmfast.diffusers.steps.timestep_index import place_of, value_of

VALUES = [999.0, 500.0, 500.0, 10.0]


def test_the_second_of_two_calls_with_one_timestep():
    assert [place_of(value, VALUES, False) for value in (999.0, 500.0, 10.0)] == [0, 2, 3]
    assert place_of(1.0, VALUES, True) == 3
    with pytest.raises(ValueError, match=r"scheduler\.timesteps, got 1\.0"):
        place_of(1.0, VALUES, False)


def test_values_of_numbers_and_of_tensors_on_the_cpu():
    timesteps = torch.tensor(VALUES)
    assert value_of(timesteps[1], timesteps, VALUES) == 500.0
    assert value_of(torch.tensor(10), timesteps, VALUES) == 10.0
    assert value_of(999, timesteps, VALUES) == 999.0


def test_an_element_on_another_device_is_not_read():
    """Tensors on the meta device have no values, so only their place can tell which they are."""
    timesteps = torch.tensor(VALUES, device="meta")
    assert [value_of(t, timesteps, VALUES) for t in timesteps[1:]] == VALUES[1:]
