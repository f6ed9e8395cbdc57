"""What the cells of a comparison share: images, backbones and teachers, each found once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch

from flows.cells import Finished, Work
from flows.inputs import read_images
from tasks.artifacts import cache_folder, sha256_parts
from tasks.compareconfig import Cell, CompareConfig, Place
from tasks.config import RunConfig
from tasks.errors import TrainingError
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.register.facts import graft_version
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.retry import with_retries
from tasks.values import Backbone, PreparedDataset, RegisteredModel

KEY = 16  # hex digits of a cell's digest in its folder's name
# what does not change a cell's figures, or does by content that has a digest of its own
NOT_IN_KEY: dict[str, Any] = {
    "name": True,
    "data": True,
    "model": True,
    "tracking": True,
    "promotion": True,
    "output": True,
    "training": {"threads"},
}


class TeacherError(TrainingError):
    """A cell cannot be run, since the one that it learns from failed."""


class Grid:
    """Makes the work of each cell; what was found once, errors too, is not looked for again."""

    def __init__(self, config: CompareConfig, folder: Path, parent_run: str) -> None:
        self._config = config
        self._folder = folder
        self._parent_run = parent_run
        self._cache = cache_folder(config.base.output.cache)
        self._found: dict[Hashable, Any] = {}
        self._keys: dict[Place, str] = {}
        cells = config.cells()
        self._teachers = {cell.teacher for cell in cells}

    def work(self, cell: Cell, finished: Mapping[Place, Finished]) -> Work:
        """Return all that ``cell`` needs; its teacher, if it is a cell, must be in ``finished``.

        Raises what getting its images, backbone or teacher raises.
        """
        config = _with_threads(cell.config, self._config.parallel)
        prepared, backbone = self._inputs(cell.config)
        teacher = self._teacher(cell, finished)
        lesson = "" if cell.teacher is None else self._keys[cell.teacher]
        lesson = lesson or (teacher.sha256 if teacher is not None else "")
        key = f"{cell.place.name}-{_digest(config, prepared, backbone, lesson)[:KEY]}"
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

    def _inputs(self, config: RunConfig) -> tuple[PreparedDataset, Backbone]:
        model, preprocess = config.model, config.preprocess
        registered = self._once(
            ("model", model.weights), lambda: with_retries(fetch_named, config, self._cache)
        )
        spec = input_spec(model, preprocess, registered)
        _, prepared = self._once(
            ("images", config.data, config.seed, spec),
            lambda: read_images(config, spec, self._cache),
        )
        backbone = self._once(
            ("backbone", model, preprocess, prepared.classes),
            lambda: load_backbone(config, prepared.classes, registered, self._cache),
        )
        return prepared, backbone

    def _teacher(self, cell: Cell, finished: Mapping[Place, Finished]) -> RegisteredModel | None:
        if cell.teacher is None:
            fetched: RegisteredModel | None = self._once(
                ("teacher", cell.config.strategy.teacher),
                lambda: with_retries(fetch_teacher, cell.config, self._cache),
            )
            return fetched
        if cell.teacher not in finished:
            raise TeacherError(f"Its teacher, {cell.teacher.title}, failed.\nSee that one's error.")
        return _as_teacher(cell.teacher, finished[cell.teacher])

    def _once(self, key: Hashable, find: Callable[[], Any]) -> Any:  # noqa: ANN401 - as find
        if key not in self._found:
            try:
                self._found[key] = find()
            except Exception as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, Exception):
            raise found
        return found


def _with_threads(config: RunConfig, parallel: int) -> RunConfig:
    """Divide the CPU between cells that run at once; what the user sets stays."""
    if parallel == 1 or config.training.threads is not None:
        return config
    threads = max(1, torch.get_num_threads() // parallel)
    training = config.training.model_copy(update={"threads": threads})
    return config.model_copy(update={"training": training})


def _digest(config: RunConfig, prepared: PreparedDataset, backbone: Backbone, lesson: str) -> str:
    settings = config.model_dump_json(exclude=NOT_IN_KEY)
    network = (backbone.architecture, backbone.sha256 or "", str(backbone.keep_head))
    return sha256_parts(graft_version(), settings, prepared.digest, *network, lesson)


def _as_teacher(place: Place, finished: Finished) -> RegisteredModel:
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
    )
