"""Find the weights file that a configuration names, on this machine or elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torchvision.models import WeightsEnum

from tasks.artifacts import sha256_file
from tasks.config import ModelConfig
from tasks.download.fetch import fetch
from tasks.download.https import fetch_https
from tasks.errors import WeightsError
from tasks.pretrained.architectures import check_name
from tasks.pretrained.presets import TORCHVISION, torchvision_weights
from tasks.pretrained.shipped import SCHEME, shipped_weights
from tasks.pretrained.timm_networks import TIMM
from tasks.pretrained.timm_weights import timm_weights
from tasks.values import RegisteredModel

REGISTRY = "models:/"
TIMEOUT = 60.0  # seconds of silence after which a download is given up


def locate(model: ModelConfig, registered: RegisteredModel | None, cache: Path) -> Path | None:
    """Return the path of the weights file, or None when the configuration names no weights.

    ``registered`` is what the flow fetched for a ``models:/`` address. Downloads go to
    ``cache/downloads``. Raises ``WeightsError`` when the file is missing, has another digest or is
    of another architecture; ``TransientWeightsError`` for a network fault that may pass.
    """
    check_name(model.architecture)
    source = model.weights
    if source is None:
        return None
    if source.startswith(REGISTRY):
        return _checked(_registered_weights(model, registered), model.sha256)
    if source.startswith(SCHEME):
        return _checked(shipped_weights(source, model.architecture), model.sha256)
    if source.startswith(TORCHVISION):
        weights = torchvision_weights(source, model.architecture)
        return _checked(published_weights(weights, cache), model.sha256)
    if source.startswith(TIMM):
        return _checked(timm_weights(model.architecture, source, cache), model.sha256)
    return fetch(source, model.sha256, cache, TIMEOUT, WeightsError)


def published_weights(weights: WeightsEnum, cache: Path) -> Path:
    """Return the file of torchvision's weights, from torch's own cache if there, else downloaded.

    torchvision publishes the first eight hex digits of the SHA-256 in the file's name, and they
    are checked as ``torch.hub`` does with ``check_hash``. Raises as ``locate``.
    """
    url: str = weights.url
    named = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    if named is None:
        raise WeightsError(
            f"{url} has no digest in its name.\n"
            "Download it, and set model.weights to the file and model.sha256 to its digest."
        )
    at_hand = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if at_hand.is_file() and sha256_file(at_hand).startswith(named[1]):
        return at_hand
    return fetch_https(url, named[1], cache, TIMEOUT, WeightsError)


def _registered_weights(model: ModelConfig, registered: RegisteredModel | None) -> Path:
    if registered is None:
        raise WeightsError(f"{model.weights} was not fetched from the model registry.")
    if registered.architecture != model.architecture:
        raise WeightsError(
            f"{registered.uri} is a {registered.architecture}, not a {model.architecture}.\n"
            f"Set model.architecture={registered.architecture}."
        )
    return registered.weights


def _checked(path: Path, sha256: str | None) -> Path:
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise WeightsError(f"{path} has sha256 {found}, not {sha256}.\nCheck model.sha256.")
    return path
