"""What the runs of a grid or a search share: images, backbones and teachers, each found once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from flows.inputs import read_images
from tasks.artifacts import sha256_parts
from tasks.config import RunConfig
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.register.facts import graft_version
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.retry import with_retries
from tasks.values import Backbone, PreparedDataset, RegisteredModel

KEY = 16  # hex digits of a run's digest in its folder's name
# what does not change a run's figures, or does by content that has a digest of its own
NOT_IN_KEY: dict[str, Any] = {
    "name": True,
    "data": True,
    "model": True,
    "tracking": True,
    "promotion": True,
    "output": True,
    "training": {"threads"},
}


class Found:
    """Finds the inputs of runs; what was found once, errors too, is not looked for again."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._found: dict[Hashable, Any] = {}

    def inputs(self, config: RunConfig) -> tuple[PreparedDataset, Backbone]:
        """Return a run's images and backbone; raises what getting them raises."""
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

    def teacher(self, config: RunConfig) -> RegisteredModel | None:
        """Return the registered model that a run learns from, if it does; raises as ``inputs``."""
        fetched: RegisteredModel | None = self._once(
            ("teacher", config.strategy.teacher),
            lambda: with_retries(fetch_teacher, config, self._cache),
        )
        return fetched

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


def content_digest(
    config: RunConfig, prepared: PreparedDataset, backbone: Backbone, lesson: str
) -> str:
    """Return the digest of all that decides a run's figures; ``lesson`` stands for its teacher."""
    settings = config.model_dump_json(exclude=NOT_IN_KEY)
    network = (backbone.architecture, backbone.sha256 or "", str(backbone.keep_head))
    return sha256_parts(graft_version(), settings, prepared.digest, *network, lesson)
