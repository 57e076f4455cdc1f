"""The stand-in of the CUDA driver answers what torch's own libraries ask, and says where it cannot be made."""

import ctypes
import shutil
import subprocess

import pytest
import torch

from bench.gpu import no_device


def test_it_has_every_function_that_is_asked_of_the_driver(tmp_path, monkeypatch):
    compiler = shutil.which("gcc")
    if compiler is None or shutil.which("nm") is None:
        pytest.skip("needs gcc and nm")
    libraries = tmp_path / "torch" / "lib"
    libraries.mkdir(parents=True)
    code = "int cuModuleLoad(void); int cuDevicePrimaryCtxGetState(void);"
    code += "int asks(void) { return cuModuleLoad() + cuDevicePrimaryCtxGetState(); }"
    (tmp_path / "asks.c").write_text(code)
    asks = libraries / "libcaffe2_nvrtc.so"
    subprocess.run([compiler, "-shared", "-fPIC", tmp_path / "asks.c", "-o", asks], check=True)
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    driver = ctypes.CDLL(str(no_device.build(tmp_path)))
    assert driver.cuModuleLoad() == 0
    count, active = ctypes.c_int(), ctypes.c_int(7)
    assert driver.cudaGetDeviceCount(ctypes.byref(count)) == 0
    assert count.value == 1
    driver.cuDevicePrimaryCtxGetState(0, ctypes.byref(ctypes.c_uint()), ctypes.byref(active))
    assert active.value == 0


@pytest.mark.skipif(torch.version.cuda is not None, reason="this is a CUDA build of torch")
def test_a_build_of_torch_for_the_cpu_is_refused(capsys):
    assert no_device.main(["-c", "1"]) == 2
    assert "no CUDA build" in capsys.readouterr().err
    assert not no_device.active()
