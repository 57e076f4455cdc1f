"""Test the driver of compute-sanitizer without a GPU: which calls it makes, and when it refuses."""

import pytest
import torch

from bench.gpu import sanitize
from bench.harness import machine


@pytest.mark.parametrize("few", [False, True])
def test_every_operator_with_a_cuda_kernel_is_called_under_the_sanitizer(few):
    names = {name.split()[0] for name, _, _ in sanitize.calls(few)}
    assert names == set(sanitize.OPERATORS)
    registered = {file.stem for file in (machine.ROOT / "csrc" / "cuda").glob("*.cu")}
    stems = {"weigh_and_resample": "weigh", "curvature_matched": "curvature"}
    assert {stems.get(name, name) for name in names} == registered


def test_bad_weights_and_absent_exponents_reach_the_kernels():
    seen = set()
    for _, function, arguments in sanitize.bad_weighings():
        outputs = function(*arguments)
        assert arguments[4] is None
        assert outputs[0].isnan().any()
        seen.update(outputs[7].tolist())
    assert {arguments[-1] for _, _, arguments in sanitize.bad_weighings()} == {False, True}
    assert {1, 2, 4} <= seen  # These statuses mean NaN, all weights zero, and infinite.


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([0.0, torch.nan, torch.inf]),
        torch.tensor([1.0, 0.0, torch.inf]),
        torch.tensor([1.0, torch.nan, -torch.inf]),
        torch.tensor([1.0 + 2**-23, torch.nan, torch.inf]),
        torch.tensor([1.0, torch.nan, torch.inf]).double(),
        torch.tensor([[1.0, torch.nan, torch.inf]]),
    ],
)
def test_the_sanitizer_driver_sees_other_bits(wrong):
    right = torch.tensor([1.0, torch.nan, torch.inf])
    outputs = iter((right, right.clone(), wrong, right))
    assert not sanitize.differs(lambda: next(outputs), (), "cpu")
    assert sanitize.differs(lambda: next(outputs), (), "cpu")


ALL = ", ".join(sanitize.OPERATORS)


@pytest.fixture
def kernels(monkeypatch):
    """Return a function that imitates a GPU for which torch reports kernels of these operators."""

    def stand_in(cuda, triton="off: unused", registered=sanitize.OPERATORS):
        status = {"cpu": "_C.so", "cuda": cuda, "triton": triton}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(sanitize._extension, "kernel_status", lambda: status)
        monkeypatch.setattr(
            sanitize._extension, "_has_cuda_kernel", lambda name: name in registered
        )
        monkeypatch.setattr(sanitize, "calls", lambda few: [("sum", torch.sum, (torch.ones(3),))])
        monkeypatch.setattr(sanitize, "differs", lambda *_: False)

    return stand_in


@pytest.mark.parametrize(
    ("kernel_options", "absent"),
    [
        # Triton's kernels are registered for CUDA too, even when the library is absent or lacks some.
        (("off: no compiled library", ALL), ALL),
        (("off: _cuda.so did not load", "off: triton is not installed"), ALL),
        (("_cuda.so", "attention, propagate"), "propagate"),
        (("_cuda.so", "attention", sanitize.OPERATORS[:-1]), "score_gram"),
    ],
)
def test_the_sanitizer_driver_refuses_other_kernels(kernels, kernel_options, absent, capsys):
    kernels(*kernel_options)
    assert sanitize.main([]) == 2
    assert f"no CUDA kernel of {absent}" in capsys.readouterr().err


def test_the_sanitizer_driver_tells_how_far_it_came(kernels, capsys):
    kernels("_cuda.so", "attention, potential")
    assert sanitize.main([]) == 0
    assert "1 of 1 calls: sum\n" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_the_sanitizer_driver_needs_a_device():
    assert sanitize.main([]) == 2
