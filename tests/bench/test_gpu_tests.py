"""Test the runner of GPU tests: its chunks, its reports, and the skips that it does not allow."""

import pytest
import torch

from bench.gpu import tests as gpu_tests


def test_chunks_are_of_one_file_and_slow_ones_come_first():
    quick = [f"tests/ops/test_a.py::test[{i}]" for i in range(3)]
    slow = [f"tests/ops/triton/test_attention.py::test[{i}]" for i in range(5)]
    assert [*gpu_tests.chunks([*quick, *slow], 2)] == [
        slow[:2],
        slow[2:4],
        slow[4:],
        quick[:2],
        quick[2:],
    ]


def test_tests_in_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    markers = '[tool.pytest.ini_options]\nmarkers = ["gpu: g", "slow: s"]\n'
    (tmp_path / "pyproject.toml").write_text(markers)
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n@pytest.mark.slow\n@pytest.mark.parametrize('i', range(2))\n"
        "def test_number(i):\n    assert i < 1\n\ndef test_other():\n    assert 0\n"
    )
    folder = tmp_path / "found"
    options = ["--marker", "slow", "--jobs", "1", "--path", "test_some.py"]
    assert gpu_tests.main([str(folder), "--seconds", "60", *options]) == 1
    printed = capsys.readouterr().out
    assert "2 tests in 1 chunks" in printed
    assert "FAILED" in printed
    assert "test_number[1]" in printed
    assert (folder / "000.xml").read_text().count("<testcase") == 2
    assert gpu_tests.main([str(folder), "--seconds", "0", *options]) == 1
    assert "not started" in capsys.readouterr().out
    assert gpu_tests.main([str(folder), "--marker", "gpu"]) == 2


KERNELS, OTHERS = "tests.ops.test_cuda", "tests.gpu.test_some"


@pytest.mark.parametrize(
    ("tests", "wrong"),
    [
        ([(OTHERS, "needs 50 GiB of device memory")], ""),
        ([(KERNELS, "needs 50 GiB of device memory"), (KERNELS, None)], ""),
        ([(KERNELS, "CUDA kernels off: no library"), (KERNELS, None)], "skipped on a GPU"),
        ([(OTHERS, "CUDA kernels not built: C++ only"), (KERNELS, None)], "skipped on a GPU"),
        ([(OTHERS, "no CUDA device"), (OTHERS, None)], "skipped on a GPU"),
        ([(KERNELS, "for some other reason"), (OTHERS, None)], "skipped whole"),
        ([(KERNELS, ""), (KERNELS, "")], "skipped whole"),
    ],
)
def test_skips_that_a_gpu_must_not_have(tests, wrong):
    messages = gpu_tests.wrongly_skipped([gpu_tests.Ran(file, "test", why) for file, why in tests])
    assert messages[0].startswith(wrong) if wrong else not messages


@pytest.mark.parametrize("gpu", [True, False])
def test_skips_are_told_and_fail_on_a_gpu(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    markers = '[tool.pytest.ini_options]\nmarkers = ["gpu: g"]\n'
    (tmp_path / "pyproject.toml").write_text(markers)
    file = tmp_path / "tests" / "ops" / "test_cuda.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import pytest\n\npytestmark = [pytest.mark.gpu, pytest.mark.skipif(True, reason='for some reason')]\n\n"
        "@pytest.mark.parametrize('i', range(2))\ndef test_kernel(i):\n    pass\n"
    )
    status = gpu_tests.main([str(tmp_path / "found"), "--seconds", "60", "--jobs", "1"])
    printed = capsys.readouterr().out
    assert "2 of 2 tests were skipped\n    2 skipped: for some reason\n" in printed
    assert status == int(gpu)
    assert ("skipped whole on a GPU: tests.ops.test_cuda, 2 tests" in printed) == gpu


def test_results_of_a_run_before_do_not_count(tmp_path):
    for kind in ("log", "xml"):
        (tmp_path / f"000.{kind}").write_text("of a run before")
    assert [
        *gpu_tests.ran(tmp_path / "000.xml")
    ] == []  # A file that was cut off does not count either.
    assert gpu_tests.run_chunk(["a.py::b"], tmp_path / "000", end=0).startswith("not started")
    assert [*tmp_path.iterdir()] == []


def test_what_tells_most_comes_first():
    names = [
        "tests/ops/test_noise.py::t",
        "tests/ops/triton/test_attention.py::t",
        "tests/gpu/test_runs.py::t",
        "tests/ops/test_cuda.py::t",
        "tests/gpu/test_live.py::t",
    ]
    order = [chunk[0] for chunk in gpu_tests.chunks(names)]
    assert order == [names[4], names[3], names[2], names[1], names[0]]


def test_chunks_of_attention_are_small():
    names = [f"tests/ops/triton/test_attention.py::test[{i}]" for i in range(20)]
    others = [f"tests/ops/test_noise.py::test[{i}]" for i in range(20)]
    sizes = [len(chunk) for chunk in gpu_tests.chunks([*names, *others])]
    assert sizes == [6, 6, 6, 2, 20]


def test_a_path_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu: g"]\n')
    for name in ("a", "b"):
        (tmp_path / f"test_{name}.py").write_text(
            "import pytest\n\n@pytest.mark.gpu\ndef test_it():\n    pass\n"
        )
    assert len(gpu_tests.collect("gpu")) == 2
    assert gpu_tests.collect("gpu", ["--ignore=test_a.py"]) == ["test_b.py::test_it"]
