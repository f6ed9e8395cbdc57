"""Classify image files with a registered model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tasks.artifacts import cache_folder
from tasks.errors import DataError
from tasks.pretrained.network import restore_network
from tasks.register.classifier import LISTED, Classifier
from tasks.register.registry import fetch
from tasks.values import RegisteredModel
from tasks.words import listed


def predict(uri: str, images: list[Path], cache: Path | None = None) -> pd.DataFrame:
    """Return path and what ``Classifier.predict`` gives for every image, in the given order.

    The model is fetched into ``cache`` (null: GRAFT_CACHE or ~/.cache/graft) with its digest
    checked. Several labels of an image are joined by the model's separator. Raises ``DataError``
    that lists the images that are missing or unreadable, and ``TrackingError`` when there is no
    such model.
    """
    missing = [f"{path}{' (a folder)' * path.is_dir()}" for path in images if not path.is_file()]
    if missing:
        raise DataError(f"No such image file: {listed(missing, shown=LISTED)}.")
    frame = classifier_of(fetch(uri, cache_folder(cache))).predict(images)
    frame.insert(0, "path", [str(path) for path in images])
    return frame


def classifier_of(model: RegisteredModel) -> Classifier:
    """Build the network of a fetched version; raises ``WeightsError`` for what is none of it."""
    network = restore_network(model.architecture, len(model.classes), model.weights)
    separator = model.label_separator if model.multi_label else None
    return Classifier(network, model.classes, model.input, separator, model)
