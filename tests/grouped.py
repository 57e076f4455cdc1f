"""Group options of `smc.sample` that tests vary one at a time into the dataclasses that it takes."""

from __future__ import annotations

from edmfast import smc

_GROUPS = {
    "correction": (
        smc.Correction,
        {"correctors": "correctors", "corrector_range": "sigma_range", "waste_free": "waste_free"},
    ),
    "checkpoint": (
        smc.Checkpoint,
        {
            "checkpoint": "path",
            "checkpoint_every": "every",
            "resume_from": "resume_from",
            "overwrite": "overwrite",
        },
    ),
    "distribution": (
        smc.Distribution,
        {name: name for name in ("group", "split", "gather", "first_population")},
    ),
    "options": (
        smc.RunOptions,
        {name: name for name in ("device", "dtype", "batch_size", "genealogy", "on_degenerate")},
    ),
}


def grouped(**options):
    """Return the keyword arguments of `smc.sample` for options by the names of their fields.

    `corrector_range` and `checkpoint_every` stand for the fields `Correction.sigma_range` and `Checkpoint.every`.
    """
    arguments = dict(options)
    for argument, (kind, names) in _GROUPS.items():
        fields = {names[name]: arguments.pop(name) for name in options if name in names}
        if fields:
            arguments[argument] = kind(**fields)
    return arguments
