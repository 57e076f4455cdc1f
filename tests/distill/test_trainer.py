"""Distillation improves the energy, ends with the averaged weights, and refuses invalid input."""

import copy
import math
import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch

from edmfast._internal.files import read_tensors
from edmfast.distill import DistillConfig, checkpoint, distill, load_ema
from edmfast.models import Denoiser, EnergyModel, ResidualMLP


def score_error(model, teacher, sigma):
    x = teacher.sample(1000, sigma, seed=9).float()
    _, exact = teacher.energy_and_score(x, sigma)
    score = (model(x, sigma) - x).detach() / sigma**2
    return ((score - exact).norm() / exact.norm()).item()


def test_energies_improve(teacher, data, student):
    config = DistillConfig(steps=300, batch_size=256, warmup_steps=20, learning_rate=3e-3)
    before = student(64, 3)
    result = distill(teacher, student(64, 3), data, config=config, progress=False)
    assert result.step == 300
    assert result.losses.shape == (300,)
    assert result.losses[-30:].mean() < result.losses[:10].mean() / 50
    assert not result.model.training
    for sigma in (0.2, 0.5, 2.0):
        assert score_error(result.model, teacher, sigma) < 0.15
        assert score_error(before, teacher, sigma) > 2 * score_error(result.model, teacher, sigma)
    x = teacher.sample(1000, 0.5, seed=10).float()
    error = result.model.energy_and_score(x, 0.5)[0] - teacher.energy_and_score(x, 0.5)[0]
    assert error.std() < 0.1


@pytest.mark.parametrize("kind", [Denoiser, EnergyModel])
def test_score_matching_needs_no_teacher(kind, teacher, data):
    torch.manual_seed(0)
    model = kind(ResidualMLP(2, 64, 3), sigma_data=0.9)
    config = DistillConfig(mode="dsm", steps=400, batch_size=256, learning_rate=3e-3)
    result = distill(None, model, data, config=config, progress=False)
    assert result.losses[-50:].mean() < 0.75 * result.losses[:10].mean()
    assert score_error(result.model, teacher, 0.5) < 0.2


def test_difference_loss_falls(teacher, data, student):
    settings = {"steps": 200, "batch_size": 128, "learning_rate": 3e-3, "warmup_steps": 20}
    config = DistillConfig(difference_weight=0.1, **settings)
    result = distill(teacher, student(32, 2), data, config=config, progress=False)
    assert result.losses[-30:].mean() < result.losses[:10].mean() / 5


def test_classes_are_distinguished(student):
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    labels = torch.arange(1000) % 2
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    samples = centres[labels] + 0.1 * noise
    config = DistillConfig(
        mode="dsm",
        steps=300,
        batch_size=128,
        learning_rate=3e-3,
        label_dropout=0.2,
        p_mean=1.0,
        p_std=0.5,
    )
    model = student(32, 2, num_classes=2)
    distill(None, model, (samples, labels), config=config, progress=False)
    for label, expected in ((0, -2.0), (1, 2.0), (2, 0.0)):
        denoised = model(torch.zeros(1, 2), 3.0, class_label=torch.tensor([label]))
        assert abs(denoised[0, 0] - expected) < 0.4


def test_student_ends_with_the_average_and_the_teacher_is_untouched(data, student):
    teacher = Denoiser(ResidualMLP(2, 8, 1), sigma_data=0.9).train()
    torch.nn.init.normal_(teacher.backbone.output.weight)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes = []
    teacher.register_forward_hook(lambda *_: modes.append(teacher.training))
    config = DistillConfig(steps=5, batch_size=8, ema_decay=0.0, warmup_steps=0)
    result = distill(teacher, student(), data, config=config, progress=False)
    assert not any(modes)
    assert teacher.training
    assert all(torch.equal(value, before[n]) for n, value in teacher.state_dict().items())
    config = DistillConfig(steps=5, batch_size=8, warmup_steps=0)
    averaged = distill(teacher, student(), data, config=config, progress=False)
    assert torch.equal(averaged.losses, result.losses)
    weights = [m.model.backbone.output.weight for m in (result, averaged)]
    assert 0 < weights[1].norm() < weights[0].norm()


@pytest.mark.parametrize(
    ("teacher_given", "settings", "change", "error", "message"),
    [
        (None, {}, None, ValueError, 'mode="dsm"'),
        (None, {"mode": "dsm", "difference_weight": 0.1}, None, ValueError, "without a teacher"),
        (None, {"mode": "dsm", "value_weight": 0.1}, None, ValueError, "and value_weight=0"),
        (3, {}, None, TypeError, "callable"),
        (1, {}, lambda d: d * math.nan, ValueError, "4000 non-finite"),
        (1, {}, lambda d: d.double(), TypeError, r"torch\.float64"),
        (1, {}, lambda d: d[:0], ValueError, "n >= 1"),
        (1, {}, lambda d: d[:, 0], ValueError, r"\[n, \*shape\]"),
        (1, {}, lambda d: [1.0], TypeError, "tensor"),
        (1, {}, lambda d: (d, torch.zeros(len(d))), TypeError, "int64"),
        (1, {}, lambda d: (d, torch.zeros(3).long()), ValueError, r"\[n\] = \[2000\]"),
        (1, {}, lambda d: (d, -torch.ones(len(d)).long()), ValueError, "negative"),
        (1, {"label_dropout": 0.1}, None, ValueError, "needs data="),
        (1, {"checkpoint": "/nowhere/at/all"}, None, FileNotFoundError, "no folder"),
    ],
)
def test_bad_input(teacher_given, settings, change, error, message, teacher, data, student):
    chosen_teacher = teacher if teacher_given == 1 else teacher_given
    samples = data if change is None else change(data)
    with pytest.raises(error, match=message):
        distill(
            chosen_teacher, student(), samples, config=DistillConfig(**settings), progress=False
        )


def test_bad_students(teacher, data, student):
    for setting in ("difference_weight", "value_weight"):
        config = DistillConfig(**{setting: 0.1})
        with pytest.raises(ValueError, match=f"{setting} > 0 needs an energy, given Denoiser"):
            distill(teacher, Denoiser(ResidualMLP(2)), data, config=config)
    with pytest.raises(TypeError, match="given Linear"):
        distill(teacher, torch.nn.Linear(2, 2), data)
    frozen = student().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        distill(teacher, frozen, data)
    with pytest.raises(ValueError, match="same object"):
        distill(frozen, frozen, data)
    labels = torch.full((len(data),), 4)
    with pytest.raises(ValueError, match="below num_classes = 3"):
        distill(teacher, student(num_classes=3), (data, labels))


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(data, student, tmp_path):
    calls = []

    def broken(x, sigma):
        calls.append(1)
        return x * (math.nan if len(calls) == 8 else 0.5)

    path = tmp_path / "run.safetensors"
    config = DistillConfig(steps=20, batch_size=8, checkpoint=path, checkpoint_every=3)
    model = student()
    with pytest.raises(FloatingPointError, match=rf"step 7: loss nan.*{path}"):
        distill(broken, model, data, config=config, progress=False)
    assert read_tensors(path)[1]["step"] == 6
    assert all(p.isfinite().all() for p in model.parameters())
    resumed = distill(
        lambda x, sigma: 0.5 * x, student(), data, config=config, resume_from=path, progress=False
    )
    assert resumed.step == 20


@pytest.fixture
def interruptible():
    """Install Python's handler of Ctrl-C, which a process lacks that a shell has put in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_from_outside_finishes_the_step_and_saves(data, student, tmp_path, capsys):
    path = tmp_path / "run.safetensors"
    config = DistillConfig(steps=20, batch_size=8, checkpoint=path)

    def interrupted(x, sigma):
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        calls.append(1)
        return 0.5 * x

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt, match=f"step 6: continue with resume_from='{path}'"):
        distill(interrupted, student(), data, config=config, progress=False)
    assert str(path) in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = distill(interrupted, student(), data, config=config, resume_from=path, progress=False)
    whole = distill(
        lambda x, s: 0.5 * x, student(), data, config=config, progress=False, overwrite=True
    )
    assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.usefixtures("interruptible")
def test_a_run_that_cannot_be_interrupted_says_so(data, student):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = DistillConfig(steps=2, batch_size=8)
    with pytest.warns(RuntimeWarning, match="this process ignores SIGINT"):
        distill(lambda x, s: 0.5 * x, student(), data, config=config, progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_an_error_of_the_teacher_saves_the_steps_done(data, student, tmp_path):
    config = DistillConfig(steps=20, batch_size=8, checkpoint=tmp_path / "run.safetensors")
    calls: list[int] = []

    def failing(x, sigma):
        calls.append(1)
        if len(calls) == 8:
            raise OSError("the teacher is gone")
        return 0.5 * x

    with (
        pytest.warns(RuntimeWarning, match="training stopped by OSError.*interrupted at step 7"),
        pytest.raises(OSError, match="the teacher is gone"),
    ):
        distill(failing, student(), data, config=config, progress=False)
    assert read_tensors(config.checkpoint)[1]["step"] == 7


def test_a_full_disk_loses_nothing(data, student, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    path = tmp_path / "run.safetensors"
    config = DistillConfig(steps=6, batch_size=8, checkpoint=path, checkpoint_every=2)
    real = checkpoint.write_tensors

    def full(place, *arguments, **options):
        if Path(place).parent == tmp_path:
            raise OSError(28, "No space left on device")
        real(place, *arguments, **options)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.warns(RuntimeWarning, match="No space left") as warned:
        result = distill(lambda x, s: 0.5 * x, student(), data, config=config, progress=False)
    assert len(warned) == 2  # one warning for the first failure, and one for the last checkpoint
    assert result.step == 6
    assert result.checkpoint is not None
    assert result.checkpoint.parent == elsewhere
    assert read_tensors(result.checkpoint)[1]["step"] == 6


def test_the_checkpoint_of_another_run_is_not_replaced(data, student, tmp_path):
    path = tmp_path / "run.safetensors"
    config = DistillConfig(steps=3, batch_size=8, checkpoint=path)
    distill(lambda x, s: 0.5 * x, student(), data, config=config, progress=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"earlier run.*resume_from="):
        distill(lambda x, s: 0.5 * x, student(), data, config=config, progress=False)
    assert path.read_bytes() == before


def test_interrupt_without_a_checkpoint_path_still_saves_a_checkpoint(
    data, student, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def stop(x, sigma):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f"edmfast-distill-{os.getpid()}"):
        distill(stop, student(), data, progress=False)
    (saved,) = tmp_path.iterdir()
    assert read_tensors(saved)[1]["step"] == 0
    load_ema(saved, student())


def test_progress_shows_loss_and_speed_on_a_terminal(teacher, data, student, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    config = DistillConfig(steps=30, batch_size=8)
    result = distill(teacher, student(), data, config=config, progress=True)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "steps/s" in shown
    assert result.steps_per_second > 0
    assert result.checkpoint is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("error:compile=True failed")
@pytest.mark.parametrize("autocast", [None, "bfloat16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_trains_and_resumes_on_the_gpu(compiled, autocast, teacher, data, student, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"steps": 60, "batch_size": 64, "checkpoint": path, "checkpoint_every": 30}
    settings |= {"compile": compiled, "autocast": autocast}
    config = DistillConfig(difference_weight=0.05, **settings)
    target = copy.deepcopy(teacher).cuda()
    result = distill(target, student().cuda(), data, config=config, progress=False)
    assert result.losses[-10:].mean() < result.losses[:10].mean()
    again = distill(target, student().cuda(), data, config=config, resume_from=path, progress=False)
    assert torch.equal(again.losses, result.losses)


def test_a_start_without_a_gradient_is_told(teacher, data):
    config = DistillConfig(steps=3, batch_size=16)

    def norms(network):
        model = EnergyModel(network, potential="norm", sigma_data=0.9)
        return distill(teacher, model, data, config=config, progress=False).losses

    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="the gradient of the first step is zero"):
        norms(ResidualMLP(2, width=8, depth=1))
    started = ResidualMLP(2, width=8, depth=1)
    torch.nn.init.xavier_uniform_(started.output.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        norms(started)
