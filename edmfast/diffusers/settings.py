"""The reading of a scheduler's configuration: which family it is of, its settings, and what is not supported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edmfast.diffusers.coordinates import Frame
from edmfast.diffusers.families import FAMILIES, FLOW, VP, Family
from edmfast.diffusers.levels.curves import CURVES

FAMILY_KEY = "_diffusers_class"
"""The setting of a saved `EdmfastScheduler` that names the class of diffusers whose results it gives."""

# Each class takes the names that others give to its settings, as `from_config` of diffusers allows.
_TRANSLATED = {
    "DPMSolverMultistepScheduler": {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    },
    "UniPCMultistepScheduler": {
        "solver_type": dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")
    },
    "DEISMultistepScheduler": {
        "algorithm_type": dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
        "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
    },
}
_TRANSLATED["DPMSolverSinglestepScheduler"] = _TRANSLATED["DPMSolverMultistepScheduler"]
_TRANSLATED["EDMDPMSolverMultistepScheduler"] = _TRANSLATED["DPMSolverMultistepScheduler"]

# Pipelines and runs of diffusers change these, and leave them in the list of settings that have their defaults.
_CHANGED_LATER = ("steps_offset", "clip_sample", "lower_order_final")

_DPM_CHOICES = {
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    "solver_type": ("midpoint", "heun"),
    "solver_order": (1, 2, 3),
}
_CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "DPMSolverMultistepScheduler": _DPM_CHOICES,
    "DPMSolverSinglestepScheduler": {
        **_DPM_CHOICES,
        "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"),
    },
    "EDMDPMSolverMultistepScheduler": {
        **_DPM_CHOICES,
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    },
    "UniPCMultistepScheduler": {
        "solver_type": ("bh1", "bh2"),
        "solver_order": (1, 2, 3, 4, 5, 6),
        "solver_p": (None,),
    },
    "DEISMultistepScheduler": {
        "algorithm_type": ("deis",),
        "solver_type": ("logrho",),
        "solver_order": (1, 2, 3),
    },
}


def family_of(config: Mapping[str, Any], name: str | None) -> Family:
    """Return the family that a configuration names, or the one that the caller names.

    A scheduler that was constructed, and not loaded, does not have its class in its configuration. The names of
    the settings, and the values that are defaults, then tell it. They do not tell KDPM2 from its ancestral form,
    nor LMS from these two where the betas were given.
    """
    if name is None:
        name = config.get(FAMILY_KEY) or config.get("_class_name")
    if name is not None:
        family = FAMILIES.get(str(name))
        if family is None:
            raise ValueError(
                f"EdmfastScheduler does not have the steps of {name}. {_advice(_for_network_of(config))}"
            )
        return family
    keys = {key for key in config if not key.startswith("_")}
    defaults = {
        key: config[key]
        for key in config.get("_use_default_values", ())
        if key in config and key not in _CHANGED_LATER
    }
    found = [
        family
        for family in FAMILIES.values()
        if family.settings.keys() == keys
        and all(family.settings[key] == value for key, value in defaults.items())
    ]
    if len(found) != 1:
        names = [family.name for family in found]
        fitting = f"it fits {' and '.join(names)}" if found else "none fits"
        raise ValueError(
            f"the configuration does not say of which class it is, and {fitting}. "
            f"{_advice(names or _for_network_of(config))}"
        )
    return found[0]


def _advice(names: Sequence[str]) -> str:
    """Return the lines that name a class."""
    lines = " or ".join(
        f'EdmfastScheduler.from_config(pipe.scheduler.config, family="{name}")' for name in names
    )
    return f"Name a class: {lines or 'family=...'}. The classes are {', '.join(FAMILIES)}"


def _for_network_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return classes to suggest for the network of a configuration, or none where its noise levels are others."""
    if "beta_schedule" in config and "snr_shift_scale" not in config:
        return "DPMSolverMultistepScheduler", "DDIMScheduler"
    if "shift" in config and "sigma_data" not in config:
        return ("FlowMatchEulerDiscreteScheduler",)
    return ()


def read(
    config: Mapping[str, Any], name: str | None, changes: Mapping[str, Any]
) -> tuple[Family, dict[str, Any], dict[str, Any]]:
    """Return (family, settings, other entries of the configuration, which are kept and not used).

    Args:
        config: the configuration of a scheduler of diffusers, or of an `EdmfastScheduler`.
        name: the class of diffusers to follow, or None for the one that the configuration names.
        changes: settings that replace those of the configuration.

    Raises:
        ValueError: a scheduler or a setting that is not supported.
        TypeError: a change of a setting that the family does not have.
    """
    family = family_of(config, name)
    unknown = changes.keys() - family.settings.keys()
    if unknown:
        raise TypeError(
            f"{family.name} has no setting {sorted(unknown)[0]!r}: its settings are "
            f"{', '.join(sorted(family.settings))}"
        )
    # Defaults of one class say nothing about another one. Pipelines change entries of the configuration, and
    # leave them in its list of defaults.
    own_class = config.get(FAMILY_KEY) or config.get("_class_name")
    public = {key for key in config if not key.startswith("_")}
    same = own_class == family.name or (own_class is None and public == family.settings.keys())
    defaults = () if same else config.get("_use_default_values", ())
    given = {key: value for key, value in config.items() if key not in defaults}
    own = {key: value for key, value in given.items() if key in family.settings}
    settings = {**family.settings, **own, **changes}
    for key, values in _TRANSLATED.get(family.name, {}).items():
        settings[key] = values.get(settings[key], settings[key])
    check(family, settings)
    rest = {
        key: value
        for key, value in given.items()
        if key not in family.settings and not key.startswith("_")
    }
    return family, settings, rest


def check(family: Family, settings: Mapping[str, Any]) -> None:
    """Raise a ValueError that names a setting which is not supported."""
    for key, choices in _CHOICES.get(family.name, {}).items():
        if settings[key] not in choices:
            allowed = ", ".join(map(repr, choices))
            raise ValueError(
                f"{key}={settings[key]!r} is not supported for {family.name}: it is {allowed}"
            )
    curves = [key for key in CURVES if settings.get(key)]
    if len(curves) > 1:
        raise ValueError(f"only one of {', '.join(CURVES)} can be true, got {', '.join(curves)}")
    if settings.get("time_shift_type", "exponential") not in ("exponential", "linear"):
        raise ValueError(
            f"time_shift_type={settings['time_shift_type']!r} is not known: it is exponential or linear"
        )
    algorithm = settings.get("algorithm_type", "")
    if algorithm in ("dpmsolver", "sde-dpmsolver") and settings["final_sigmas_type"] == "zero":
        raise ValueError(
            f"final_sigmas_type='zero' does not go with algorithm_type={algorithm!r}: take 'sigma_min'"
        )
    no_third = algorithm == "sde-dpmsolver" or family.name == "EDMDPMSolverMultistepScheduler"
    if algorithm.startswith("sde") and no_third and settings["solver_order"] == 3:
        raise ValueError(
            f"solver_order=3 has no formula for algorithm_type={algorithm!r} of {family.name}, in diffusers too"
        )
    if settings.get("shift_terminal") is not None and not settings.get("use_flow_sigmas", True):
        raise ValueError("shift_terminal needs use_flow_sigmas=True")
    frame = frame_of(family, settings)
    # diffusers divides by another level there
    other = frame.kind != FLOW and frame.prediction == "flow_prediction"
    if other and family.name == "DEISMultistepScheduler":
        raise ValueError(
            "prediction_type='flow_prediction' needs use_flow_sigmas=True for DEISMultistepScheduler"
        )


def frame_of(family: Family, settings: Mapping[str, Any]) -> Frame:
    """Return the coordinates of the samples and of the model's outputs."""
    if family.frame == FLOW:
        return Frame(FLOW, "flow_prediction")
    prediction = settings.get("prediction_type", "v_prediction")
    if prediction == "original_sample" and family.name == "EulerDiscreteScheduler":
        prediction = "sample"
    kind = FLOW if settings.get("use_flow_sigmas") and family.frame == VP else family.frame
    return Frame(kind, prediction, settings.get("sigma_data", 0.5))
