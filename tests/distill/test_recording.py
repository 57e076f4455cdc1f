"""Runs tell their measures, keep their last and best checkpoints, and name what was not finite."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types

import pytest
import torch

from edmfast._internal.files import read_tensors
from edmfast.distill import DistillConfig, JsonLines, TensorBoard, WeightsAndBiases, distill
from edmfast.distill.keeping import keep_step, steps_of
from edmfast.models import load_model, save_model

CONFIG = DistillConfig(steps=24, batch_size=16, schedule="constant", log_every=4)


def run(teacher, student, data, config=CONFIG, **options):
    return distill(teacher, student, data, config=config, progress=False, **options)


def test_records_are_means_of_the_steps_before_them(teacher, data, student, tmp_path):
    path = tmp_path / "run.jsonl"
    result = run(teacher, student(), data, loggers=[JsonLines(path)])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [4, 8, 12, 16, 20, 24]
    for record in records:
        part = result.losses[record["step"] - 4 : record["step"]]
        assert record["loss"] == pytest.approx(float(part.mean()), rel=1e-6)
        assert record["learning_rate"] == CONFIG.learning_rate_at(record["step"] - 1)
        assert record["samples_per_second"] == pytest.approx(16 * record["steps_per_second"])
        assert record["memory_gib"] > 0
    assert records[-1]["seconds_left"] == 0


def test_a_resumed_run_repeats_no_record(teacher, data, student, tmp_path):
    path, checkpoint = tmp_path / "run.jsonl", tmp_path / "run.safetensors"
    config = dataclasses.replace(CONFIG, checkpoint=checkpoint, checkpoint_every=8, steps=12)
    run(teacher, student(), data, config, loggers=[JsonLines(path)])
    path.write_text(path.read_text() + json.dumps({"step": 16, "loss": 0.0}) + "\n")
    longer = dataclasses.replace(config, steps=24)
    run(teacher, student(), data, longer, resume_from=checkpoint, loggers=[JsonLines(path)])
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [4, 8, 12, 16, 20, 24]


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ValueError, match="holds no records"):
        JsonLines(path)
    assert path.read_text() == "hello"
    with pytest.raises(FileNotFoundError):
        JsonLines(tmp_path / "missing" / "run.jsonl")


def test_a_logger_that_fails_ends_no_run(teacher, data, student):
    seen = []

    def broken(step, values):
        seen.append(step)
        raise OSError("no room")

    with pytest.warns(RuntimeWarning, match="logger function failed.*no room"):
        result = run(teacher, student(), data, loggers=[broken])
    assert result.step == 24
    assert seen == [4]


def test_loggers_of_other_packages(teacher, data, student, monkeypatch, tmp_path):
    sent = []
    fake = types.SimpleNamespace(log=lambda values, step: sent.append((step, values["loss"])))
    run(teacher, student(), data, loggers=[WeightsAndBiases(fake)])
    assert [step for step, _ in sent] == [4, 8, 12, 16, 20, 24]
    for name, logger in (("wandb", WeightsAndBiases), ("torch.utils.tensorboard", TensorBoard)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match="needs the package"):
            logger(*([tmp_path] if logger is TensorBoard else []))


def test_the_last_and_the_best_checkpoints_stay(teacher, data, student, tmp_path):
    path = tmp_path / "run.safetensors"
    options = {"checkpoint": path, "checkpoint_every": 4, "keep_last": 3, "keep_best": True}
    other = tmp_path / "run.step-99999999.safetensors"
    other.write_text("a file of the user")
    result = run(teacher, student(), data, dataclasses.replace(CONFIG, **options))
    kept = steps_of(path)
    assert [read_tensors(file)[1]["step"] for file in kept] == [16, 20, 24]
    assert read_tensors(path)[1]["step"] == 24
    means = result.losses.view(6, 4).mean(1)
    best = read_tensors(tmp_path / "run.best.safetensors")[1]["step"]
    assert best == 4 * (int(means.argmin()) + 1)
    assert other.read_text() == "a file of the user"
    # a checkpoint of a step continues the run
    again = run(teacher, student(), data, resume_from=kept[0])
    assert torch.equal(again.losses, result.losses)


def test_a_resumed_run_remembers_the_best_loss(teacher, data, student, tmp_path):
    """The checkpoint with the lowest loss holds that loss itself, so that no worse one takes its place."""
    path, other = tmp_path / "run.safetensors", tmp_path / "other.safetensors"
    options = {"checkpoint_every": 4, "keep_last": 9, "keep_best": True}
    config = dataclasses.replace(CONFIG, checkpoint=path, **options)
    losses = run(teacher, student(), data, config).losses
    step = 4 * (int(losses.view(6, 4).mean(1).argmin()) + 1)
    start = tmp_path / f"run.step-{step:08d}.safetensors"
    assert step < 24
    assert read_tensors(start)[1]["best_loss"] == pytest.approx(
        float(losses[step - 4 : step].mean())
    )
    run(teacher, student(), data, config, resume_from=start, overwrite=True)
    assert read_tensors(tmp_path / "run.best.safetensors")[1]["step"] == step
    # where a run continues at another path, its first checkpoint is the best one there
    moved = dataclasses.replace(config, checkpoint=other)
    run(teacher, student(), data, moved, resume_from=start)
    assert read_tensors(tmp_path / "other.best.safetensors")[1]["step"] > step


def test_a_file_of_another_kind_is_not_replaced(student, tmp_path):
    path = tmp_path / "run.safetensors"
    save_model(student(), path)
    named = tmp_path / "run.step-00000004.safetensors"
    save_model(student(), named)
    with pytest.raises(FileExistsError, match="no checkpoint of a training"):
        keep_step(path, 4, 2)
    assert load_model(named).sigma_data == 0.9


def test_what_is_not_finite_is_named(teacher, data, student):
    def broken(x, sigma):
        answer = teacher(x, sigma).clone()
        broken.calls += 1
        if broken.calls >= 3:
            answer[5] = math.inf
            broken.sigma = float(sigma[5])
        return answer

    broken.calls = 0
    with pytest.raises(FloatingPointError, match="step 2: loss inf") as caught:
        run(broken, student(), data)
    level = f"the target of row 5 of the batch at noise level {broken.sigma:.4g} is not finite"
    assert level in str(caught.value)
    weights = student()
    with torch.no_grad():
        weights.backbone.output.weight.fill_(1e38)
    with pytest.raises(FloatingPointError, match="the student's denoised state of row 0"):
        run(teacher, weights, data)


def test_the_cause_is_looked_for_in_every_part_and_tensor(teacher, data, student):
    def broken(x, sigma):
        answer = teacher(x, sigma).clone()
        # the second of two parts, when it is made and when it is made again
        broken.calls += 1
        if broken.calls % 2 == 0:
            answer[5] = math.nan
        return answer

    broken.calls = 0
    config = dataclasses.replace(CONFIG, accumulate=2)
    with pytest.raises(
        FloatingPointError, match="the target of row 13 of the batch at noise level"
    ):
        run(broken, student(), data, config)

    class Valued:
        def __call__(self, x, sigma):
            return teacher(x, sigma)

        def energy(self, x, sigma):
            return torch.full((len(x),), math.nan)

        def energy_and_score(self, x, sigma):
            return self.energy(x, sigma), torch.zeros_like(x)

    config = dataclasses.replace(CONFIG, value_weight=0.1)
    with pytest.raises(FloatingPointError, match="value_target of rows 0 to 15 has 16 numbers"):
        run(Valued(), student(), data, config)


def test_a_cause_that_does_not_come_again_is_not_invented(teacher, data, student):
    def once(x, sigma):
        once.calls += 1
        return teacher(x, sigma) * (math.nan if once.calls == 3 else 1)

    once.calls = 0
    with pytest.raises(FloatingPointError, match=r"finite now.*the teacher answers otherwise"):
        run(once, student(), data)

    def gone(x, sigma):
        gone.calls += 1
        if gone.calls > 3:
            raise OSError("the server is gone")
        return teacher(x, sigma) * (math.nan if gone.calls == 3 else 1)

    gone.calls = 0
    with pytest.raises(FloatingPointError, match=r"step 2: loss nan.*made again .*server is gone"):
        run(gone, student(), data)
