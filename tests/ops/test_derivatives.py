"""The documented table of derivatives matches the operators."""

import pytest
import torch

from bench.report import derivatives

ALL = {"linear_combination", "mlp_potential", "potential_assemble"}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", derivatives.DTYPES)
@pytest.mark.parametrize("name", derivatives.CASES)
def test_orders_that_are_right(name, dtype, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if dtype not in derivatives.CASES[name].dtypes:
        pytest.skip("not a dtype of the operator")
    wanted = derivatives.MOST if name in ALL else 2
    assert derivatives.right_orders(name, dtype, device) == wanted


@pytest.mark.parametrize("name", derivatives.REFUSING)
def test_operators_without_a_derivative_refuse(name):
    assert derivatives.refuses(name)


def test_the_table_of_the_page_is_the_one_generated():
    text = derivatives.PAGE.read_text()
    start = text.index(derivatives.BEGIN) + len(derivatives.BEGIN)
    stop = text.index(derivatives.END)
    made = derivatives.table(text[start:stop])
    if torch.cuda.is_available() and derivatives.UNTRIED in text[start:stop]:
        pytest.skip("the table was made on a machine without a GPU")
    assert text[start:stop] == made, "run python -m bench.report.derivatives --write"


def test_a_wrong_derivative_is_found(monkeypatch):
    case = derivatives.CASES["potential"]

    def wrong(h, y, weight):
        energy, cotangent = case.ours(h, y, weight)
        return energy + (h - h.detach()).sum(1) * 1e-3, cotangent

    monkeypatch.setitem(derivatives.CASES, "potential", case._replace(ours=wrong))
    with pytest.raises(AssertionError, match="order 1"):
        derivatives.right_orders("potential", torch.float64, "cpu")
