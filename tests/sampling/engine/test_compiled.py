"""A run as one compiled graph gives the samples of the eager run, and draws the same noise."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref

import pytest
import torch

from edmfast import EnergyModel, sampling
from edmfast.sampling.engine import compiled
from tests.small_models import mlp

SIGMAS = sampling.get_sigmas_karras(3, 0.05, 10.0)


class Calls:
    """The number of runs of `Network.forward`, outside the module, whose attributes are constants of a graph."""

    count = 0


class Network(torch.nn.Module):
    """A denoiser with weights, which records each run by Python."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, sigma, shift=0.0, scale=1.0):
        Calls.count += 1
        return self.layer(x).tanh() * scale / (1 + sigma[:, None]) + shift


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network()


def start():
    return torch.linspace(-8, 8, 8).reshape(4, 2)


def graphs(model):
    return sum(
        len(g) for flat in compiled.runs_of(model).graphs.values() for g in flat.graphs.values()
    )


def close(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_one_graph_serves_every_grid_of_a_length():
    model = network()
    heun = sampling.compiled(sampling.sample_heun)
    options = {"s_churn": 2.0, "seed": 3, "disable": True}
    traced = []
    for sigmas in (SIGMAS, sampling.get_sigmas_karras(3, 0.1, 20.0)):
        expected = sampling.sample_heun(model, start(), sigmas, **options)
        before = Calls.count
        close(heun(model, start(), sigmas, **options), expected)
        traced.append(Calls.count > before)
    assert traced == [True, False]
    assert graphs(model) == 1


def test_seeds_of_samples_do_not_depend_on_the_batch():
    model = network()
    seeds = [5, 9, 5, 2]
    run = sampling.compiled(sampling.sample_euler_ancestral)
    together = run(model, start(), SIGMAS, seed=seeds, disable=True)
    expected = sampling.sample_euler_ancestral(model, start(), SIGMAS, seed=seeds, disable=True)
    close(together, expected)
    for k, seed in enumerate(seeds):
        alone = sampling.sample_euler_ancestral(
            model, start()[k : k + 1], SIGMAS, seed=seed, disable=True
        )
        close(together[k : k + 1], alone)


def test_new_weights_and_conditions():
    model = network()
    run = sampling.compiled(sampling.sample_dpmpp_2m)
    shift = torch.tensor([[1.0, 2.0]])

    def check(**conditions):
        arguments = (model, start(), SIGMAS, conditions)
        close(run(*arguments, disable=True), sampling.sample_dpmpp_2m(*arguments, disable=True))

    check(shift=shift)
    check(shift=2 * shift)
    check(shift=shift, scale=0.5)
    with torch.no_grad():
        model.layer.weight.mul_(2.0)
    check(shift=shift)


def test_tensors_inside_conditions_are_inputs():
    text, time = torch.tensor([[0.5, -1.0]]), torch.tensor([[3.0], [1.0], [0.0], [2.0]])

    def check(text, weight):
        def conditions():
            return {"added": {"text": text.clone(), "time": time}, "weights": [weight]}

        arguments = (nested_model, start(), SIGMAS)
        expected = sampling.sample_euler(*arguments, conditions(), disable=True)
        close(sampling.sample_euler(*arguments, conditions(), disable=True, compile=True), expected)

    def nested_model(x, sigma, added, weights):
        return (x * weights[0] + added["text"] * added["time"]) / (1 + sigma[:, None])

    check(text, 0.5)
    check(2 * text, 0.5)
    assert graphs(nested_model) == 1
    check(text, 0.25)
    assert graphs(nested_model) == 2


class Scale:
    """A condition that is no number."""

    value = 0.5


def test_conditions_that_a_graph_cannot_watch_run_eagerly():
    def model(x, sigma, scale):
        return x * scale.value

    for Scale.value in (0.5, 0.25):
        expected = sampling.sample_euler(model, start(), SIGMAS, {"scale": Scale()}, disable=True)
        with pytest.warns(
            UserWarning, match="the run goes on eagerly: the conditions hold a Scale"
        ):
            result = sampling.sample_euler(
                model, start(), SIGMAS, {"scale": Scale()}, disable=True, compile=True
            )
        assert torch.equal(result, expected)


class Buffered(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.ones(2))

    def forward(self, x, sigma):
        return super().forward(x, sigma) + self.offset


def with_buffer(model):
    model.offset = torch.zeros(2)


def with_parameter(model):
    model.layer.weight = torch.nn.Parameter(torch.eye(2))


def with_module(model):
    model.layer = torch.nn.Linear(2, 2, bias=False)


@pytest.mark.parametrize("replace", [with_buffer, with_parameter, with_module])
def test_replaced_members_of_a_model_are_seen(replace):
    model = Buffered()
    sampling.sample_euler(model, start(), SIGMAS, disable=True, compile=True)
    replace(model)
    expected = sampling.sample_euler(model, start(), SIGMAS, disable=True)
    close(sampling.sample_euler(model, start(), SIGMAS, disable=True, compile=True), expected)


def test_an_energy_is_traced_with_its_gradient():
    model = EnergyModel(mlp())
    torch.nn.init.ones_(model.backbone.output.weight)
    expected = sampling.sample_euler(model, start(), SIGMAS[1:], disable=True)
    close(sampling.sample_euler(model, start(), SIGMAS[1:], disable=True, compile=True), expected)
    assert graphs(model) == 1


@pytest.mark.parametrize(
    "wrap", [lambda net: net, lambda net: Wrapper(net), lambda net: lambda x, s: net(x, s)]
)
def test_graphs_do_not_keep_their_model_alive(wrap):
    model = wrap(network())
    sampling.sample_euler(model, start(), SIGMAS[-2:], disable=True, compile=True)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", ["callback", "noise_sampler"])
def test_what_a_graph_cannot_call_is_refused(name):
    with pytest.raises(ValueError, match=name):
        sampling.sample_euler(
            network(), start(), SIGMAS, s_churn=1.0, compile=True, **{name: lambda *_: start()}
        )


def test_a_model_that_cannot_be_traced_runs_eagerly_and_says_so():
    def branching(x, sigma):
        return x * 0.5 if float(sigma[0]) > 1 else x * 0.25

    expected = sampling.sample_euler(branching, start(), SIGMAS, disable=True)
    with pytest.warns(UserWarning, match="compile=True failed, the run goes on eagerly"):
        result = sampling.sample_euler(branching, start(), SIGMAS, disable=True, compile=True)
    assert torch.equal(result, expected)


def test_compiled_takes_samplers_of_this_package():
    assert sampling.compiled(sampling.sample_heun).__name__ == "sample_heun"
    with pytest.raises(TypeError, match="compile"):
        sampling.compiled(torch.nn.functional.relu)


def with_a_graph():
    functions = [getattr(sampling, name) for name in sampling.__all__ if name.startswith("sample_")]
    return [f for f in functions if "compile" in inspect.signature(f).parameters]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", with_a_graph(), ids=lambda f: f.__name__)
def test_every_sampler_with_a_fixed_grid(sampler):
    seeded = {"seed": 3} if "seed" in inspect.signature(sampler).parameters else {}
    # This sampler takes a range of levels and a number of model calls instead of a grid.
    grid = (0.05, 10.0, 7) if sampler is sampling.sample_dpm_fast else (SIGMAS,)
    model = network()
    expected = sampler(model, start(), *grid, disable=True, **seeded)
    close(sampling.compiled(sampler)(model, start(), *grid, disable=True, **seeded), expected)
    assert graphs(model) == 1


def test_samplers_with_a_loop_of_their_own_have_no_graph():
    without = {name for name in sampling.__all__ if name.startswith("sample_")}
    without -= {sampler.__name__ for sampler in with_a_graph()}
    assert without == {
        "sample_dpm_adaptive",
        "sample_dpm_solver_adaptive",
        "sample_dpm_solver_v3",
    }


class Wrapper:
    """A callable object that is no module."""

    def __init__(self, net, factor=1.0):
        self.net, self.factor = net, factor

    def __call__(self, x, sigma):
        return self.net(x, sigma) * self.factor


def replace_a_parameter(net, _):
    net.layer.weight = torch.nn.Parameter(2.0 * net.layer.weight.detach())


def replace_a_submodule(net, _):
    net.layer = torch.nn.Linear(2, 2)


def replace_a_buffer(net, _):
    net.offset = net.offset + 1.0


def fill_a_replaced_buffer(net, _):
    net.offset = torch.zeros(2)
    net.offset.fill_(2.0)


def change_an_attribute(net, _):
    net.factor = 3.0


def change_a_closure(_, settings):
    settings["factor"] = 3.0


class Scaled(Network):
    def __init__(self):
        super().__init__()
        self.factor = 1.0
        self.register_buffer("offset", torch.zeros(2))

    def forward(self, x, sigma):
        return super().forward(x, sigma) * self.factor + self.offset


def as_it_is(net, _):
    return net


def inside_an_object(net, _):
    return Wrapper(net)


def inside_a_partial(net, _):
    return functools.partial(net)


def inside_a_lambda(net, settings):
    return lambda x, sigma: net(x, sigma) * settings["factor"]


def inside_guidance(net, _):
    return sampling.guidance.AutoGuidance(net, net, 1.5)


@pytest.mark.parametrize(
    "change",
    [
        replace_a_parameter,
        replace_a_submodule,
        replace_a_buffer,
        fill_a_replaced_buffer,
        change_an_attribute,
    ],
)
@pytest.mark.parametrize("wrap", [as_it_is, inside_a_lambda])
def test_a_change_of_the_model_reaches_its_graphs(wrap, change):
    check_change(wrap, change)


@pytest.mark.parametrize(
    ("wrap", "change"),
    [
        (inside_an_object, replace_a_parameter),
        (inside_a_partial, replace_a_submodule),
        (inside_guidance, replace_a_parameter),
        (inside_a_lambda, change_a_closure),
    ],
)
def test_a_change_inside_a_wrapper_reaches_its_graphs(wrap, change):
    check_change(wrap, change)


def check_change(wrap, change):
    torch.manual_seed(0)
    net, settings = Scaled(), {"factor": 1.0}
    model = wrap(net, settings)
    sigmas = SIGMAS[-2:]

    def both():
        eager = sampling.sample_euler(model, start(), sigmas, disable=True)
        close(sampling.sample_euler(model, start(), sigmas, disable=True, compile=True), eager)
        return eager

    first = both()
    change(net, settings)
    assert not torch.allclose(both(), first)
