"""The networks load states of EDM by name and reproduce the stored outputs, which were computed in float64."""

import pytest
import torch

from bench.rivals.plain_networks import by_formula, plain_formulas
from edmfast.models.backbones import self_attention
from edmfast.models.preconditioning import edm_scaling
from tests.models.backbones.edm.fixture import NAMES, arguments, condition, denoiser, state, tensor


def in_float32(q, k, v, scale, causal=False, key_mask=None):
    """Attention whose weights are computed in float32, as in the run that made the stored outputs."""
    weights = torch.softmax(q.float() @ (k / scale**-1).float().mT, -1)
    return weights.to(q.dtype) @ v


def outputs(name, dtype=torch.float64):
    model = denoiser(name).to(dtype)
    x, sigma = tensor(name, "x").to(dtype), tensor(name, "sigma").to(dtype)
    scaling = edm_scaling(sigma[:, None, None, None], model.sigma_data)
    with torch.no_grad():
        raw = model.backbone(scaling.c_in * x, scaling.c_noise, **condition(name))
        return {"raw": raw, "denoised": model(x, sigma, **condition(name))}


def distance(actual, expected):
    return float((actual.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_of_the_state(name):
    kind, config, _ = arguments(name)
    own = kind(**config).state_dict()
    assert [(key, value.shape) for key, value in own.items()] == [
        (key, value.shape) for key, value in state(name).items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_with_attention_in_float32(name, monkeypatch):
    monkeypatch.setattr(self_attention, "attention", in_float32)
    for key, output in outputs(name).items():
        assert distance(output, tensor(name, key)) < 1e-13, key


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_in_float64_and_float32(name):
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        for key, output in outputs(name, dtype).items():
            assert output.dtype == dtype
            assert distance(output, tensor(name, key)) < tolerance, (key, dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by_autocast", [True, False])
def test_stored_outputs_in_bfloat16(name, by_autocast):
    """The error in half precision is at most twice that of plain formulas in half precision."""
    model = denoiser(name) if by_autocast else denoiser(name).to(torch.bfloat16)
    dtype = torch.float32 if by_autocast else torch.bfloat16
    x, sigma, exact = (tensor(name, key) for key in ("x", "sigma", "denoised"))

    def error():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=by_autocast):
            output = model(x.to(dtype), sigma.to(dtype), **condition(name))
        assert output.dtype == dtype
        return distance(output, exact)

    with plain_formulas(by_formula):
        plain = error()
    assert error() <= 2 * plain < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_inputs_and_weights(name):
    model = denoiser(name).double()
    x, sigma = tensor(name, "x"), tensor(name, "sigma")
    wanted = model(x, sigma, **condition(name))
    last = torch.channels_last
    for network in (model, model.to(memory_format=last)):
        output = network(x.to(memory_format=last), sigma, **condition(name))
        torch.testing.assert_close(output, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_classes_are_their_one_hot_rows(name):
    model = denoiser(name).double().backbone
    x, sigma, rows = (tensor(name, key) for key in ("x", "sigma", "labels"))
    wanted = model(x, sigma, class_label=rows)
    torch.testing.assert_close(model(x, sigma, class_label=rows.argmax(1)), wanted, rtol=0, atol=0)
    without = model(x, sigma)
    assert (without - wanted).abs().max() > 1e-3
    for unconditional in (torch.full((2,), 5), torch.zeros(2, 5, dtype=torch.float64)):
        torch.testing.assert_close(model(x, sigma, class_label=unconditional), without)
    one = model(x, sigma, class_label=torch.tensor([3]))
    torch.testing.assert_close(one, model(x, sigma, class_label=torch.tensor([3, 3])))
