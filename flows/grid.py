"""The work of each cell of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.cells import Finished, Work
from flows.engines import fitted
from flows.found import KEY, Found, content_digest
from tasks.artifacts import cache_folder
from tasks.compareconfig import Cell, CompareConfig, Place
from tasks.errors import TrainingError
from tasks.values import RegisteredModel


class TeacherError(TrainingError):
    """A cell cannot be run, since the one that it learns from failed."""


class Grid:
    """Makes the work of each cell; what they share is found once."""

    def __init__(self, config: CompareConfig, folder: Path, parent_run: str) -> None:
        self._config = config
        self._folder = folder
        self._parent_run = parent_run
        self._found = Found(cache_folder(config.base.output.cache))
        self._keys: dict[Place, str] = {}
        cells = config.cells()
        self._teachers = {cell.teacher for cell in cells}

    def work(self, cell: Cell, finished: Mapping[Place, Finished]) -> Work:
        """Return all that ``cell`` needs; its teacher, if it is a cell, must be in ``finished``.

        Raises what getting its images, backbone or teacher raises.
        """
        config = fitted(cell.config, self._config.runner, self._config.parallel)
        prepared, backbone = self._found.inputs(cell.config)
        teacher = self._teacher(cell, finished)
        lesson = "" if cell.teacher is None else self._keys[cell.teacher]
        lesson = lesson or (teacher.sha256 if teacher is not None else "")
        digest = content_digest(config, prepared, backbone, lesson)
        key = f"{cell.place.name}-{digest[:KEY]}"
        self._keys[cell.place] = key
        return Work(
            title=cell.place.title,
            key=key,
            config=config,
            prepared=prepared,
            backbone=backbone,
            teacher=teacher,
            parent_folder=self._folder,
            parent_run=self._parent_run,
            keep_weights=self._config.keep_weights or cell.place in self._teachers,
        )

    def _teacher(self, cell: Cell, finished: Mapping[Place, Finished]) -> RegisteredModel | None:
        if cell.teacher is None:
            return self._found.teacher(cell.config)
        if cell.teacher not in finished:
            raise TeacherError(f"Its teacher, {cell.teacher.title}, failed.\nSee that one's error.")
        separator = cell.config.data.label_separator
        return _as_teacher(cell.teacher, finished[cell.teacher], separator)


def _as_teacher(place: Place, finished: Finished, separator: str) -> RegisteredModel:
    model = finished.model
    return RegisteredModel(
        uri=f"cell:{place.backbone}/{place.strategy}",
        name=place.name,
        version=1,
        architecture=model.architecture,
        classes=model.classes,
        input=model.input,
        weights=model.weights,
        sha256=model.sha256,
        multi_label=model.multi_label,
        label_separator=separator,
    )
