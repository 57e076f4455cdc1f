"""Skip the tests of this folder except under `python -m bench.gpu.no_device`, as `make check-cuda` runs them."""

import pytest

from bench.gpu import no_device


@pytest.fixture(autouse=True)
def device_that_does_nothing():
    if not no_device.active():
        pytest.skip("needs a CUDA build of torch and no GPU: make check-cuda")
