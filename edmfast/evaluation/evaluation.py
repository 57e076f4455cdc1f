"""The result of an evaluation: its tables, which print, are written as JSON and are drawn."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.file_kinds import PICTURE
from edmfast._internal.files import read_json, write_json
from edmfast.evaluation.plots import distance_figure, level_figure, likelihood_figure
from edmfast.evaluation.tables import Table, joined

KIND = "file of an evaluation"
JSON = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """The tables of an evaluation. Printing it prints them all.

    Attributes:
        distances: the distances of samples from the data, for every model, solver and number of model calls.
        levels: the diagnostics of the models at every noise level.
        likelihood: the log-densities of held-out data by every way.
        settings: the arguments and the sizes of the evaluation, by name.
        notes: what was left out, and why.

    A table that was not asked for is None.
    """

    distances: Table | None
    levels: Table | None
    likelihood: Table | None
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> dict[str, Table]:
        """The tables that there are, by name."""
        named = {"distances": self.distances, "levels": self.levels, "likelihood": self.likelihood}
        return {name: table for name, table in named.items() if table is not None}

    def __str__(self) -> str:
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([joined([*self.tables.values()]), *notes])

    def figures(self) -> dict[str, Any]:
        """Return a matplotlib figure for each table. Raises ImportError without matplotlib."""
        draw = {"distances": distance_figure, "levels": level_figure}
        draw["likelihood"] = likelihood_figure
        return {name: draw[name](table) for name, table in self.tables.items()}

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write evaluation.json and, where matplotlib is installed, a picture for each table into a folder.

        Args:
            folder: the folder, which is made where it is missing. An earlier evaluation in it is replaced.
            overwrite: also replace files of another kind that have these names.

        Returns:
            The files that were written.

        Raises:
            FileExistsError: a file of another kind, without overwrite.
            OSError: a folder that cannot be written.
        """
        place = Path(os.fspath(folder))
        place.mkdir(parents=True, exist_ok=True)
        written = [place / JSON]
        content: dict[str, Any] = {name: table.to_json() for name, table in self.tables.items()}
        content |= {"settings": self.settings, "notes": [*self.notes]}
        write_json(written[0], KIND, content, overwrite=overwrite)
        try:
            figures = self.figures()
        except ImportError:
            return written  # the numbers are complete without their pictures
        for name, figure in figures.items():
            path = check_output(place / f"{name}.png", PICTURE, overwrite=overwrite)
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=150, format="png")
            written.append(place / path.name)
        return written

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Return the evaluation in a file or folder that `save` wrote.

        Raises FileNotFoundError where there is no such file, and ValueError for any other file.
        """
        place = Path(os.fspath(path))
        place = place / JSON if place.is_dir() else place
        content = read_json(place, KIND)
        try:
            tables = {
                name: Table(table["title"], tuple(table["rows"]), tuple(table["notes"]))
                for name in ("distances", "levels", "likelihood")
                if (table := content.get(name)) is not None
            }
            settings, notes = dict(content["settings"]), tuple(content["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place} is no complete evaluation: {error!r}") from error
        return cls(
            tables.get("distances"),
            tables.get("levels"),
            tables.get("likelihood"),
            settings,
            notes,
        )
