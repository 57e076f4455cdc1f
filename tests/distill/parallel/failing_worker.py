"""Stop runs of two ranks by errors of one of them, and write what each rank saw to a file.

python failing_worker.py FOLDER, with RANK and WORLD_SIZE in the environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill, load_ema, run, train_interpolant
from edmfast.distill.parallel import Accord, Replicas
from edmfast.interpolants import Interpolant, InterpolantModel
from edmfast.models import DiT, EnergyModel
from tests.distill.test_interpolant import Perceptron

TEACHER = GaussianMixture(torch.tensor([[-1.0] * 16, [1.0] * 16]).double(), [0.15, 0.25])
DATA = TEACHER.sample(40, seed=1).reshape(-1, 1, 4, 4)
STEPS, STOPPED = 5, 3
BASE = DistillConfig(steps=STEPS, batch_size=8, warmup_steps=2, checkpoint_every=2)


def student():
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 4, width=8, depth=2, heads=2))
    torch.nn.init.normal_(model.backbone.output.weight, std=0.1)
    return model.double()


class Teacher:
    """A teacher that does something in its call number STOPPED + 1, on some ranks."""

    def __init__(self, action, ranks=(1,)):
        self.action = action if dist.get_rank() in ranks else lambda denoised: denoised
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        denoised = TEACHER.denoise(x.flatten(1), sigma).reshape(x.shape)
        return self.action(denoised) if self.calls == STOPPED + 1 else denoised


def fail(denoised=None):
    raise ValueError("the teacher fails")


def interrupt(denoised):
    os.kill(os.getpid(), signal.SIGINT)
    return denoised


def numbers(model):
    """Return a number that tells the weights of a model, NaN where one of them is NaN."""
    return float(sum(tensor.detach().square().sum() for tensor in model.parameters()))


def shapes(model):
    return [[*tensor.shape] for tensor in model.parameters()]


def stopped(teacher, config, **options):
    """Run to an error, and return the error, the student and the warnings."""
    model, plain = student(), student()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            arguments = {"progress": False, "group": dist.group.WORLD} | options
            distill(teacher, model, arguments.pop("data", DATA), config=config, **arguments)
            error = "none"
        except (Exception, KeyboardInterrupt) as stop:
            error = f"{type(stop).__name__}: {stop}"
    report = {
        "error": error,
        "weights": numbers(model),
        "started": numbers(plain),
        "same shapes": shapes(model) == shapes(plain),
        "own forwards": not any("forward" in vars(module) for module in model.modules()),
        "warnings": [str(warning.message) for warning in caught],
    }
    return report, model


@contextlib.contextmanager
def failing_save(call):
    """Let a save on rank 0 fail with an error that is none of the file system."""
    original, calls = run.keep_step, 0

    def keep(*args):
        nonlocal calls
        calls += 1
        if calls == call and dist.get_rank() == 0:
            raise ValueError("the save fails")
        return original(*args)

    run.keep_step = keep
    try:
        yield
    finally:
        run.keep_step = original


def cases(folder, shard):
    """Return the reports of all cases in which the ranks stay together."""
    rank = dist.get_rank()
    reports = {}

    def config(name, **settings):
        path = folder / f"{name}-{shard}.safetensors"
        return dataclasses.replace(BASE, shard=shard, checkpoint=path, **settings)

    both = (0, 1)
    teachers = {
        "teacher": Teacher(fail),
        "first": Teacher(fail, (0,)),
        "both": Teacher(fail, both),
        "interrupt": Teacher(interrupt),
        "not finite": Teacher(lambda denoised: denoised * torch.nan),
    }
    for name, teacher in teachers.items():
        reports[name] = stopped(teacher, config(name))[0]
    plain = Teacher(None, ())
    for name in ("teacher", "first", "interrupt", "none"):
        path = folder / f"{name}-{shard}.safetensors"
        resume = {} if name == "none" else {"resume_from": path}
        reports[f"{name} resumed"] = stopped(plain, config(name), **resume)[0]
    for call, name in ((1, "save"), (3, "last save")):
        with failing_save(call):
            reports[name] = stopped(plain, config(name))[0]
    wrong = DATA if rank == 0 else DATA.float()
    reports["data"] = stopped(plain, config("data"), data=wrong)[0]
    path = folder / f"none-{shard}.safetensors"
    missing = path if rank == 0 else folder / "missing.safetensors"
    reports["resume"] = stopped(plain, config("resume"), resume_from=missing)[0]
    return reports


def interpolant():
    """Return the error of a training of an interpolant whose data are wrong on rank 1."""
    model = InterpolantModel(Interpolant(), drift=Perceptron(4), noise=Perceptron(4))
    data = torch.zeros(8, 1, dtype=torch.float64 if dist.get_rank() else torch.float32)
    try:
        train_interpolant(model, data, progress=False, group=dist.group.WORLD)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def student_fails():
    """Return the report of a run without shares in which the student fails on rank 1."""
    model = student()

    def hook(*_):
        hook.calls += 1
        if dist.get_rank() == 1 and hook.calls > STOPPED:
            raise ValueError("the student fails")

    hook.calls = 0
    model.backbone.register_forward_hook(hook)
    try:
        distill(Teacher(None, ()), model, DATA, config=BASE, progress=False, group=dist.group.WORLD)
    except Exception as error:
        return f"{type(error).__name__}: {error}", hook.calls
    return "none", hook.calls


def looks_now_and_then():
    """Return (losses, error) of steps whose signals are looked at only in steps 3 and 6."""
    accord = Accord(
        Replicas(dist.group.WORLD, torch.device("cpu")), False, 8, lambda done: done % 3 == 0
    )
    weight, losses = torch.zeros(2), []
    try:
        for step in range(8):
            if step == 3 and dist.get_rank() == 1:
                fail()
            loss = torch.tensor(1.0 + dist.get_rank())
            signals = accord.average(loss, [torch.ones(2)], False)
            losses.append(float(loss))
            if accord.looks(accord.done):
                accord.look(signals)
    except ValueError as error:
        accord.tell(error, torch.zeros(8), [weight])
        return losses, accord.agreed, "own"
    except RuntimeError as error:
        return losses, accord.agreed, str(error)
    return losses, accord.agreed, "none"


def inside(folder):
    """Return the report of a run with shares whose student fails within an evaluation on rank 1."""
    path = folder / "inside.safetensors"
    config = dataclasses.replace(BASE, shard=True, checkpoint=path)
    model, calls = student(), 0

    def hook(*_):
        nonlocal calls
        calls += 1
        if dist.get_rank() == 1 and calls == 1 + STOPPED:
            raise ValueError("the student fails")

    model.backbone.register_forward_pre_hook(hook)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            distill(
                Teacher(None, ()),
                model,
                DATA,
                config=config,
                progress=False,
                group=dist.group.WORLD,
            )
            error = "none"
        except Exception as stop:
            error = f"{type(stop).__name__}: {stop}"
            if dist.get_rank() == 1:
                # the other rank waits for this one, until it leaves
                dist.destroy_process_group()
    lost = numbers(model)
    kept = numbers(load_ema(path, student())) if path.exists() else None
    return {
        "error": error,
        "weights": lost,
        "same shapes": shapes(model) == shapes(student()),
        "kept": kept,
        "loaded": numbers(load_ema(path, model)),
        "warnings": [str(warning.message) for warning in caught],
    }


def main(folder):
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    report = {str(shard): cases(folder, shard) for shard in (False, True)}
    report["interpolant"] = interpolant()
    report["student"] = student_fails()
    report["looks"] = looks_now_and_then()
    # the group ends with this case
    report["inside"] = inside(folder)
    (folder / f"{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
