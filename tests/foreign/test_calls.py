"""Denoisers written for other packages work in every entry point, with the same results as plain ones."""

import warnings

import pytest
import torch

from edmfast import smc
from tests.foreign.entries import COMPILED, DATA, DENOISERS, ENERGIES, LEVELS
from tests.foreign.wrappers import WRAPPERS, plain


@pytest.fixture(autouse=True)
def warnings_of_compilers():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        warnings.simplefilter("ignore", smc.MixedModelsWarning)
        yield


@pytest.mark.parametrize("entry", DENOISERS.values(), ids=DENOISERS)
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_every_convention_in_every_entry_point(entry, wrapper):
    result, wanted = entry(wrapper), entry(plain)
    torch.testing.assert_close(result, wanted, rtol=1e-3, atol=1e-3)
    assert result.isfinite().all()


@pytest.mark.parametrize("name", ["discrete"])
def test_the_step_of_a_run_is_compiled_with_it(name):
    wanted = DENOISERS["Tempered"](WRAPPERS[name])
    torch.testing.assert_close(COMPILED(WRAPPERS[name]), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["calibrate", "mcmc", "calibrate_offsets", "self_check",
                                  "ancestral_trajectory", "fokker_planck"])  # fmt: skip
def test_entry_points_that_need_an_energy_say_so(name):
    with pytest.raises(TypeError, match="has no energy"):
        ENERGIES[name](WRAPPERS["velocity"])


def test_levels_and_states_are_those_of_the_caller():
    for dtype in (torch.float32, torch.float64):
        seen = []

        def denoiser(x, sigma):
            seen.append((sigma.dtype, sigma.device, sigma.is_contiguous(), x.dtype))  # noqa: B023, it is called in this round only
            return plain(x, sigma)

        DENOISERS["plain"](denoiser)
        smc.sample(
            denoiser, DATA.shape[1:], LEVELS, particles=4, options=smc.RunOptions(dtype=dtype)
        )
        assert seen[-1] == (dtype, torch.device("cpu"), True, dtype)
