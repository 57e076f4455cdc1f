"""The two models of a distillation run: their checks, the names of their conditions, and their modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.models.calling.conditions import accepted_conditions, check_accepted, has_no_classes
from edmfast.models.calling.origin import name_of
from edmfast.models.protocols import Denoiser
from edmfast.models.two_heads import TwoHeads
from edmfast.targets.renamed import Renamed


def check_models(teacher: Denoiser | None, student: nn.Module, config: DistillConfig) -> None:
    """Raise TypeError or ValueError where teacher and student do not fit the configuration."""
    if not isinstance(config, DistillConfig):
        raise TypeError(
            "config must be a DistillConfig, for example DistillConfig(steps=1000), given "
            f"{type(config).__name__}"
        )
    if not isinstance(student, nn.Module) or not hasattr(student, "sigma_data"):
        raise TypeError(
            f"the student must be an EnergyModel, a Denoiser or another module with sigma_data, "
            f"given {type(student).__name__}"
        )
    if isinstance(student, TwoHeads) != (config.mode == "two_heads"):
        raise ValueError(
            f'mode="two_heads" and a student TwoHeads need each other, given mode={config.mode!r} and '
            f"{type(student).__name__}"
        )
    # a student that learns from itself would stay where it is
    if teacher is student:
        raise ValueError("teacher and student must be two objects, given the same object twice")
    # the losses of energies need the teacher in every mode
    needed = config.mode == "distill" or config.difference_weight > 0 or config.value_weight > 0
    if teacher is None and needed:
        raise ValueError(
            'training without a teacher needs mode="dsm" or "two_heads", difference_weight=0 and value_weight=0'
        )
    if teacher is not None and not callable(teacher):
        raise TypeError(f"the teacher must be callable, given {type(teacher).__name__}")
    for name in ("difference_weight", "value_weight", "fokker_planck_weight", "time_score_weight"):
        if getattr(config, name) > 0 and not hasattr(student, "energy"):
            raise ValueError(
                f"a student for {name} > 0 needs an energy, given {type(student).__name__}"
            )


def with_our_names(
    teacher: Denoiser | None,
    student: nn.Module,
    data: TrainingData,
    condition_names: Mapping[str, str] | None,
) -> Denoiser | None:
    """Return the teacher wrapped so that it takes conditions by our names.

    Raises ValueError for names of other conditions, and TypeError where the data have labels and one of the two
    models does not accept them.
    """
    names = dict(condition_names or {})
    # a typing error in a name would otherwise be ignored
    if names.keys() - {"class_label"}:
        raise ValueError(
            f"condition_names may rename class_label, the only condition of a training run, given {names}"
        )
    if names and teacher is None:
        raise ValueError("condition_names needs a teacher, given teacher=None")
    renamed = Renamed(teacher, **names) if names and teacher is not None else teacher
    if data.has_labels:
        try:
            check_accepted(student, ["class_label"], f"the student {type(student).__name__}")
            for model, noun in ((student, "student"), (renamed, "teacher")):
                if model is not None and has_no_classes(model):
                    raise TypeError(
                        f"the {noun} was built without classes and takes no class_label"
                    )
            if renamed is not None:
                _check_teacher(teacher, renamed)
        except TypeError as error:
            # a file or a folder may have labels that the caller does not know of
            raise TypeError(
                f"{error}. The data have labels: open_data(data, labels=False) leaves them out"
            ) from error
    return renamed


def _check_teacher(teacher: Denoiser | None, renamed: Denoiser) -> None:
    """Raise TypeError with the names that a teacher accepts, where class_label is known not to be among them."""
    accepted = accepted_conditions(renamed)
    if accepted and "class_label" not in accepted:
        own = ", ".join(sorted(accepted))
        raise TypeError(
            f"the teacher {name_of(teacher)} accepts the conditions {own}, given class_label: if NAME "
            'among them is its name for class labels, pass condition_names={"class_label": NAME}'
        )
    check_accepted(renamed, ["class_label"], f"the teacher {name_of(teacher)}")


@contextmanager
def training_modes(student: nn.Module, teacher: Denoiser | None) -> Iterator[None]:
    """Put the student in training mode and the teacher in eval mode; the teacher's mode is restored at the end."""
    # dropout in the teacher would make its targets random
    was_training = isinstance(teacher, nn.Module) and teacher.training
    if isinstance(teacher, nn.Module):
        teacher.eval()
    student.train()
    try:
        yield
    finally:
        if isinstance(teacher, nn.Module):
            teacher.train(was_training)
