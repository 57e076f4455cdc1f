"""The compiled training step equals the eager step, and a failure to compile warns and is not fatal."""

import shutil
import warnings

import pytest
import torch

from edmfast.distill import DistillConfig, distill
from edmfast.distill.gradients import gradient_function
from edmfast.distill.loss import TrainingLoss
from edmfast.distill.run import TrainingRun
from edmfast.models import DiT, EnergyModel
from edmfast.models.compiling import flat_graph

SETTINGS = {"steps": 12, "batch_size": 32, "warmup_steps": 2, "difference_weight": 0.05}
SETTINGS |= {"value_weight": 0.05, "value_paths": 16, "value_levels": 6}


def run(teacher, data, student, **settings):
    config = DistillConfig(**SETTINGS, **settings)
    return distill(teacher, student(8, 1), data, config=config, progress=False)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_losses_equal_eager_ones(teacher, data, student):
    eager = run(teacher, data, student)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        compiled = run(teacher, data, student, compile=True)
    torch.testing.assert_close(compiled.losses, eager.losses, rtol=1e-5, atol=1e-5)
    assert eager.losses[-1] != eager.losses[0]


def test_failure_warns_once_and_training_goes_on(teacher, data, student, monkeypatch):
    def refuse(function, **options):
        raise NotImplementedError("no tracer today")

    monkeypatch.setattr(flat_graph, "make_fx", refuse)
    message = "runs eagerly: NotImplementedError: no tracer today"
    with pytest.warns(UserWarning, match=message) as record:
        fallen_back = run(teacher, data, student, compile=True)
    assert len([entry for entry in record if "eagerly" in str(entry.message)]) == 1
    assert torch.equal(fallen_back.losses, run(teacher, data, student).losses)


def transformer(dropout):
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 4, width=8, depth=1, heads=2, num_classes=None, dropout=dropout))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def images():
    return torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def losses(dropout=0.0, **settings):
    config = DistillConfig(mode="dsm", steps=4, batch_size=32, warmup_steps=1, **settings)
    return distill(None, transformer(dropout), images(), config=config, progress=False)


@pytest.fixture
def graphs(monkeypatch):
    traced = []
    compile_ = flat_graph.compile_graph

    def record(graph, *arguments):
        traced.append(graph)
        return compile_(graph, *arguments)

    monkeypatch.setattr(flat_graph, "compile_graph", record)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        yield traced


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_a_transformer_with_dropout_trains_compiled_as_it_does_eagerly(graphs):
    eager = losses(dropout=0.3)
    assert not torch.equal(losses().losses, eager.losses)
    assert not torch.equal(losses(dropout=0.3, seed=1).losses, eager.losses)
    compiled = losses(dropout=0.3, compile=True)
    torch.testing.assert_close(compiled.losses, eager.losses, rtol=1e-4, atol=1e-5)
    names = [str(node.target) for node in graphs[0].graph.nodes]
    for name, count in {
        "attention": 1,
        "attention_backward": 2,
        "attention_double_backward": 1,
        "linear_combination": 2,
    }.items():
        assert names.count(f"edmfast.{name}.default") == count, name
    # rows of a few numbers are plain formulas there, see tests/ops/test_fusing.py
    assert not any("potential" in name for name in names)


def test_dropout_is_resumed_exactly(tmp_path):
    whole = losses(dropout=0.3)
    path = tmp_path / "half.safetensors"
    config = {"mode": "dsm", "steps": 4, "batch_size": 32, "warmup_steps": 1}
    half = DistillConfig(**config, checkpoint=path, checkpoint_every=2)
    student = transformer(0.3)

    class Stop(Exception):
        pass

    saved = TrainingRun._save

    def save_and_stop(self, *arguments, **options):
        if options["last"]:  # the exception makes the run write another checkpoint
            return
        saved(self, *arguments, **options)
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(TrainingRun, "_save", save_and_stop)
        distill(None, student, images(), config=half, progress=False)
    resumed = distill(
        None,
        transformer(0.3),
        images(),
        config=DistillConfig(**config),
        resume_from=path,
        progress=False,
    )
    assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_autocast(graphs):
    plain, eager = losses(), losses(autocast="bfloat16")
    assert not torch.equal(plain.losses, eager.losses)
    torch.testing.assert_close(eager.losses, plain.losses, rtol=0.05, atol=0.05)
    compiled = losses(autocast="bfloat16", compile=True)
    torch.testing.assert_close(compiled.losses, eager.losses, rtol=0.02, atol=0.02)
    casts = [node for node in graphs[0].graph.nodes if torch.bfloat16 in node.kwargs.values()]
    assert casts
    assert next(compiled.model.parameters()).dtype == torch.float32


class Counting(torch.nn.Module):
    """A backbone that changes a buffer at every call, in place or by a new tensor."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.layer = torch.nn.Linear(16, 16)
        self.register_buffer("n", torch.ones(()))

    def forward(self, y, c_noise):
        if self.in_place:
            self.n += 1
        else:
            self.n = self.n + 1
        return self.layer(y.flatten(1)).reshape(y.shape) / self.n


@pytest.mark.parametrize("in_place", [True, False])
def test_a_student_that_changes_its_buffers_trains_eagerly(in_place):
    results = []
    for compile in (False, True):
        torch.manual_seed(0)
        student = EnergyModel(Counting(in_place))
        config = DistillConfig(mode="dsm", steps=4, batch_size=32, compile=compile)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = distill(None, student, images(), config=config, progress=False)
        assert any("buffers" in str(entry.message) for entry in warned) == compile
        results.append(result)
    assert torch.equal(results[0].losses, results[1].losses)
    assert results[0].model.backbone.n == results[1].model.backbone.n == 5


class Scheduled(torch.nn.Module):
    """A student with a plain attribute, which optionally counts its calls."""

    sigma_data = 0.5

    def __init__(self, counts=False):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.gain, self.calls, self.counts = 1.0, 0, counts

    def forward(self, x, sigma):
        self.calls += self.counts
        return self.gain * self.layer(x) * (1 + self.calls)


def steps_of(student, compile):
    named = dict(student.named_parameters())
    loss = TrainingLoss(student, 0.0)
    return gradient_function(
        loss, {f"student.{name}": value for name, value in named.items()}, compile=compile
    )


@pytest.mark.parametrize("counts", [False, True])
def test_attributes_that_change_during_training_are_noticed(monkeypatch, counts):
    monkeypatch.setattr(flat_graph, "compile_graph", lambda graph, *_: graph)
    students = [Scheduled(counts), Scheduled(counts)]
    students[1].load_state_dict(students[0].state_dict())
    compiled, eager = steps_of(students[0], True), steps_of(students[1], False)
    draw = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(8, 2, generator=draw) for name in ("x", "target")}
    batch["sigma"] = torch.rand(8, generator=draw) + 0.1
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        for gain in (1.0, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0):
            students[0].gain = students[1].gain = gain
            actual, expected = compiled(batch), eager(batch)
            torch.testing.assert_close(actual[0], expected[0])
            torch.testing.assert_close(actual[1], expected[1])
    messages = [str(entry.message) for entry in record if "eagerly" in str(entry.message)]
    assert len(messages) == 1
    expected = "changes the attribute Scheduled.calls" if counts else "Scheduled.gain took more"
    assert expected in messages[0]
