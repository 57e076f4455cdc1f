"""Averages made after training from snapshots are those that a run keeps directly."""

import dataclasses
import shutil

import pytest
import torch

from edmfast._internal.files import read_tensors
from edmfast.distill import DistillConfig, distill, load_ema, post_hoc_ema
from edmfast.distill.averages import post_hoc
from edmfast.distill.averages.power_function import gamma_of
from edmfast.distill.averages.profiles import Profiles
from edmfast.models import save_model

SETTINGS = {"batch_size": 16, "warmup_steps": 5, "learning_rate": 3e-3, "schedule": "constant"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return (the folder of snapshots of a run with three widths, its result)."""
    from edmfast.analytic import GaussianMixture
    from edmfast.models import EnergyModel, ResidualMLP

    teacher = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])
    torch.manual_seed(0)
    student = EnergyModel(ResidualMLP(2, 16, 2, embedding_width=8), sigma_data=0.9)
    folder = tmp_path_factory.mktemp("run")
    config = DistillConfig(
        steps=240,
        ema_profiles=(0.05, 0.075, 0.10),
        snapshot_every=20,
        checkpoint=folder / "run.safetensors",
        **SETTINGS,
    )
    data = teacher.sample(500, seed=1).float()
    return folder / "run-ema", distill(teacher, student, data, config=config, progress=False)


def tracked(path):
    tensors, _ = read_tensors(path)
    pairs = (name.partition(".") for name in tensors)
    return {name: tensors[f"{group}.{name}"] for group, _, name in pairs if group == "average"}


def files(folder, *widths):
    return [path for path in sorted(folder.iterdir()) if path.stem.endswith(widths)]


def distance(state, other, start):
    """Return the distance of two states relative to how far the other is from the start."""
    square = sum((state[name] - other[name]).square().sum() for name in other)
    return float((square / sum((other[n] - start[n]).square().sum() for n in other)).sqrt())


@pytest.mark.parametrize(("step", "largest"), [(100, 1e-3), (240, 1e-4)])
def test_it_reconstructs_a_width_that_was_kept_directly(run, step, largest):
    folder, _ = run
    wanted = tracked(folder / f"step-{step:09d}-0.075.safetensors")
    others = files(folder, "-0.05", "-0.1")
    assert len(others) == 24
    state = post_hoc_ema(others, 0.075, at_step=step)
    wide = tracked(folder / f"step-{step:09d}-0.1.safetensors")
    # the error is small beside the difference of two widths that were kept
    assert distance(state, wanted, wide) < 3e-2
    zero = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    print(
        distance(state, wanted, wide), distance(wide, wanted, zero), distance(state, wanted, zero)
    )
    assert distance(wide, wanted, zero) > 3e-3
    assert distance(state, wanted, zero) < largest


@pytest.mark.parametrize("width", [0.03, 0.15, 0.2])
def test_widths_beyond_those_of_the_snapshots(run, width):
    """The average of a trajectory that changes smoothly is that of its profile."""
    gamma = gamma_of(width)
    path = [torch.tensor([k / 400]).sin() for k in range(1, 401)]
    kept = Profiles([torch.zeros(1, dtype=torch.float64)], (0.05, 0.1))
    gammas, steps, values = [], [], []
    for step, theta in enumerate(path, 1):
        kept.parameters[0].copy_(theta)
        kept.update(step)
        if step % 20 == 0:
            for index in range(2):
                gammas.append(kept.gammas[index])
                steps.append(float(step))
                values.append(float(kept.averages[index][0]))
    tensors = [torch.tensor(numbers, dtype=torch.float64) for numbers in (gammas, steps, values)]
    coefficients, misfit = post_hoc.fit(*tensors[:2], gamma, 400)
    ends = torch.arange(401).double().div(400).pow(gamma + 1)
    weight = ends.diff()
    exact = float((weight * torch.cat(path)).sum())
    assert coefficients.sum() == pytest.approx(1, abs=1e-12)
    assert misfit < 0.05
    assert float((coefficients * tensors[2]).sum()) == pytest.approx(exact, rel=1e-3)


def test_it_returns_the_tracked_average_where_there_is_one(run):
    folder, _ = run
    state = post_hoc_ema(folder, 0.05)
    wanted = tracked(folder / "step-000000240-0.05.safetensors")
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_state_is_a_whole_state_of_the_student(run, student, tmp_path):
    folder, result = run
    model = student()
    model.load_state_dict(post_hoc_ema(str(folder), 0.08))
    assert model.state_dict().keys() == result.model.state_dict().keys()
    save_model(model, tmp_path / "model.safetensors")


def test_a_resumed_run_has_the_same_averages(teacher, data, student, tmp_path):
    config = DistillConfig(
        steps=30,
        ema_profiles=(0.05, 0.10),
        snapshot_every=7,
        checkpoint=tmp_path / "run.safetensors",
        checkpoint_every=10,
        **SETTINGS,
    )
    whole = tmp_path / "whole"
    uninterrupted = dataclasses.replace(config, checkpoint=None, snapshot_folder=whole)
    distill(teacher, student(), data, config=uninterrupted, progress=False)

    def stopping(*arguments):
        nonlocal calls
        calls += 1
        if calls > 17:
            raise KeyboardInterrupt
        return teacher(*arguments)

    calls = 0
    with pytest.raises(KeyboardInterrupt):
        distill(stopping, student(), data, config=config, progress=False)
    names = sorted(path.name for path in (tmp_path / "run-ema").iterdir())
    assert names == [f"step-{step:09d}-{w}.safetensors" for step in (7, 14) for w in (0.05, 0.1)]
    # snapshots after the checkpoint are written again
    resumed = {"resume_from": config.checkpoint, "progress": False}
    distill(teacher, student(), data, config=config, **resumed)
    assert len(files(whole, "-0.05", "-0.1")) == 10
    for path in whole.iterdir():
        assert path.read_bytes() == (tmp_path / "run-ema" / path.name).read_bytes()
    with pytest.raises(ValueError, match=r"config\.ema_profiles is only in the file"):
        plain = dataclasses.replace(config, ema_profiles=())
        distill(teacher, student(), data, config=plain, **resumed)


def test_averages_are_no_part_of_the_trajectory(teacher, data, student, tmp_path):
    plain = DistillConfig(steps=8, **SETTINGS)
    kept = dataclasses.replace(
        plain, ema_profiles=(0.1,), snapshot_folder=tmp_path, snapshot_every=3
    )
    runs = [distill(teacher, student(), data, config=c, progress=False) for c in (plain, kept)]
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert "snapshot_folder" not in kept.trajectory()
    assert "ema_profiles" not in plain.trajectory()
    assert len(files(tmp_path, "-0.1")) == 3


def test_half_precision_weights_have_averages_in_float32():
    parameter = torch.zeros(3, dtype=torch.bfloat16)
    profiles = Profiles([parameter], (0.1,))
    for step in range(1, 2001):
        parameter.fill_(1 + step % 2)
        profiles.update(step)
    assert profiles.averages[0][0].dtype == torch.float32
    torch.testing.assert_close(profiles.averages[0][0], torch.full((3,), 1.5), atol=3e-3, rtol=0)


def test_a_folder_with_snapshots_of_another_run(teacher, data, student, tmp_path):
    config = DistillConfig(steps=4, ema_profiles=(0.1,), snapshot_folder=tmp_path, **SETTINGS)
    distill(teacher, student(), data, config=config, progress=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds 1 snapshots of an earlier run"):
        distill(teacher, student(), data, config=config, progress=False)
    shorter = dataclasses.replace(config, steps=3)
    distill(teacher, student(), data, config=shorter, progress=False, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt",
        "step-000000003-0.1.safetensors",
    ]
    beside = tmp_path / "notes.txt"
    wrong = dataclasses.replace(config, snapshot_folder=beside)
    with pytest.raises(NotADirectoryError, match="snapshot_folder must be a folder"):
        distill(teacher, student(), data, config=wrong, progress=False)


def test_snapshots_that_do_not_fit(run, teacher, data, student, tmp_path):
    folder, result = run
    with pytest.raises(FileNotFoundError, match=r"up to step 5, only of steps \[20, 40"):
        post_hoc_ema(folder, 0.1, at_step=5)
    with pytest.raises(FileNotFoundError, match="no folder"):
        post_hoc_ema(tmp_path / "none", 0.1)
    with pytest.raises(FileNotFoundError, match="no snapshot in"):
        post_hoc_ema(tmp_path, 0.1)
    with pytest.raises(ValueError, match="sigma_rel must lie"):
        post_hoc_ema(folder, 0.5)
    with pytest.raises(ValueError, match="not 'edmfast-ema-snapshot'"):
        post_hoc_ema([result.checkpoint], 0.1)
    with pytest.warns(UserWarning, match=r"1 snapshots misses .* by \d+%"):
        post_hoc_ema(folder / "step-000000020-0.05.safetensors", 0.2)
    other = dict(SETTINGS, learning_rate=1e-3)
    config = DistillConfig(steps=20, ema_profiles=(0.1,), snapshot_folder=tmp_path, **other)
    distill(teacher, student(), data, config=config, progress=False)
    shutil.copy(folder / "step-000000020-0.05.safetensors", tmp_path)
    with pytest.raises(ValueError, match="are snapshots of different runs"):
        post_hoc_ema(tmp_path, 0.1)
    path = folder / "step-000000040-0.05.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    copy = tmp_path / "damaged.safetensors"
    copy.write_bytes(damaged)
    with pytest.raises(ValueError, match="is corrupt"), pytest.warns(UserWarning, match="misses"):
        post_hoc_ema([copy], 0.1)


def test_a_folder_that_cannot_be_written_does_not_end_the_run(teacher, data, student, tmp_path):
    folder = tmp_path / "ema"
    config = DistillConfig(
        steps=4, ema_profiles=(0.1,), snapshot_every=1, snapshot_folder=folder, **SETTINGS
    )

    def removing(*arguments):
        if folder.exists():
            folder.rmdir()
        return teacher(*arguments)

    with pytest.warns(RuntimeWarning, match="snapshots of step 1 could not be written") as caught:
        assert distill(removing, student(), data, config=config, progress=False).step == 4
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"ema_profiles": (0.1,)}, ValueError, "needs a snapshot_folder or a checkpoint"),
        ({"ema_profiles": 0.1}, TypeError, "must be a sequence of widths"),
        ({"ema_profiles": (0.1, 0.1), "checkpoint": "a"}, ValueError, "must be different widths"),
        ({"ema_profiles": (0.4,), "checkpoint": "a"}, ValueError, "ema_profiles must lie within"),
        ({"snapshot_every": 0}, ValueError, "snapshot_every"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        DistillConfig(**settings)


def test_the_moving_average_of_the_run_is_the_same_with_profiles(run, student):
    _, result = run
    loaded = load_ema(result.checkpoint, student())
    x = torch.randn(4, 2)
    assert torch.equal(loaded.eval()(x, 0.5), result.model(x, 0.5))
