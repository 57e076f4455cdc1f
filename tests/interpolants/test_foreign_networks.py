"""Networks and models that change their input in place, or reuse their output, change nothing else."""

from __future__ import annotations

import pytest
import torch

from edmfast.interpolants import (
    Interpolant,
    InterpolantModel,
    from_velocity,
    log_likelihood,
    solve_ode,
    solve_sde,
)

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIMES = [0.2, 0.5, 0.9]


def plain(x, t):
    return torch.sin(x) + t[:, None] * x


def changing(x, t):
    """Return the same as `plain`; where no graph needs them, overwrite the states and the times."""
    result = plain(x, t)
    if result.requires_grad:
        return result
    t.zero_()
    return x.copy_(result)


class Buffered:
    """A network that returns the same tensor at every call where no graph is recorded."""

    def __init__(self):
        self.answer = torch.empty_like(X)

    def __call__(self, x, t):
        result = plain(x, t)
        return result if result.requires_grad else self.answer.copy_(result)


class Fields:
    """A model of another package with the two methods, around one network."""

    def __init__(self, network):
        self.network = network

    def drift(self, x, t):
        return self.network(x, torch.as_tensor(t, dtype=x.dtype).expand(len(x)).clone())

    def drift_and_score(self, x, t):
        drift = self.drift(x, t)
        return drift, drift


def pair(network):
    return InterpolantModel(Interpolant(), drift=network, noise=network)


ENTRIES = {
    "from_velocity": lambda network: from_velocity(network)(X, 0.5),
    "solve_ode": lambda network: solve_ode(network, X, TIMES),
    "rk4": lambda network: solve_ode(pair(network), X, TIMES, method="rk4"),
    "solve_sde": lambda network: solve_sde(pair(network), X, TIMES, seed=1),
    "foreign ode": lambda network: solve_ode(Fields(network), X, TIMES),
    "foreign sde": lambda network: solve_sde(Fields(network), X, TIMES, seed=1),
    "log_likelihood": lambda network: log_likelihood(network, X, TIMES).log_prob,
    "foreign likelihood": lambda network: log_likelihood(Fields(network), X, TIMES).log_prob,
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("network", [changing, Buffered()], ids=["changing", "buffered"])
def test_results_are_those_of_a_plain_network(network, entry):
    before = X.clone()
    expected = ENTRIES[entry](plain)
    torch.testing.assert_close(ENTRIES[entry](network), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(before, X)


def test_a_foreign_model_is_checked():
    class One(Fields):
        def drift_and_score(self, x, t):
            return self.drift(x, t)

    class Short(Fields):
        def drift_and_score(self, x, t):
            return x, x[:, :1]

    with pytest.raises(
        TypeError, match=r"drift_and_score must return two tensors.*One returned a Tensor"
    ):
        solve_sde(One(plain), X, TIMES, seed=1)
    with pytest.raises(
        ValueError, match=r"the score must return \[B, 3\].*Short returned \[B, 1\]"
    ):
        solve_sde(Short(plain), X, TIMES, seed=1)
    with pytest.raises(ValueError, match=r"the drift must return \[B, 3\]"):
        solve_ode(Fields(lambda x, t: x[:, :1]), X, TIMES)
