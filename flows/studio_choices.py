"""What somebody chooses in the studio, and the config that comes of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tasks.artifacts import disk_errors, folder_atomic
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.errors import ConfigError
from tasks.use import mark_used

CHUNK = 1 << 20  # bytes
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
TRANSFER = {
    "The whole network learns": "full",
    "Only the last layer learns (quickest)": "linear_probe",
    "First the last layer, then the whole network": "lp_ft",
}


class Backbone(NamedTuple):
    """A pretrained network to start from."""

    architecture: str
    weights: str | None


BACKBONES = {
    "Tiny (ships with graft, quick on a CPU, sees 32 px)": Backbone(
        "graft_tiny", "graft:tiny-cifar10"
    ),
    "MobileNet V3 (small and quick)": Backbone("mobilenet_v3_large", "torchvision:DEFAULT"),
    "ResNet-18 (a good start)": Backbone("resnet18", "torchvision:DEFAULT"),
    "EfficientNet V2 S (more accurate, slower)": Backbone(
        "efficientnet_v2_s", "torchvision:DEFAULT"
    ),
    "ViT-B/16 (wants a GPU)": Backbone("vit_b_16", "torchvision:DEFAULT"),
}
OTHER = "Another network"


class Choice(NamedTuple):
    """One run as its form was filled in."""

    data: str  # a path, or an address with its digest among ``more``
    name: str
    backbone: Backbone
    transfer: str  # a strategy's kind
    epochs: int
    more: Sequence[str]  # KEY=VALUE, as on the command line


def keep_upload(home: Path, name: str, content: BinaryIO) -> Path:
    """Copy an uploaded archive to where runs read it; the same bytes are kept once.

    Raises ``ConfigError`` for what is no zip or tar by name, ``ResourceError`` for a full disk.
    """
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending)), None)
    if ending is None:
        raise ConfigError(f"{name!r} is no archive.\nUpload a zip or tar of class folders.")
    content.seek(0)
    digest = hashlib.sha256()
    for block in iter(lambda: content.read(CHUNK), b""):
        digest.update(block)
    folder = home / "uploads" / f"{digest.hexdigest()[:16]}{ending}"
    if not folder.is_dir():
        content.seek(0)
        with folder_atomic(folder) as scratch, (scratch / f"images{ending}").open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK)
    mark_used(folder)
    return folder / f"images{ending}"


def model_name(words: str) -> str:
    """Return ``words`` as a name for run and model: letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-_")[:60] or "images"


def config_of(home: Path, choice: Choice) -> RunConfig:
    """Return the whole config of a choice, checked as ``graft run`` checks it.

    Raises ``ConfigError`` that names the key and the nearest valid one.
    """
    with disk_errors(str(home)):
        home.mkdir(parents=True, exist_ok=True)
        # JSON is YAML, and a form's words must not be read as anything else; a file of its own,
        # since two people may start at once
        with tempfile.NamedTemporaryFile("w", dir=home, prefix=".form-", suffix=".yaml") as draft:
            json.dump(_settings(choice), draft)
            draft.flush()
            return load_config(Path(draft.name), choice.more)


def _settings(choice: Choice) -> dict[str, Any]:
    architecture, weights = choice.backbone
    tiny = architecture == "graft_tiny"  # trained on small pictures, from rates that suit it
    return {
        "name": choice.name,
        "data": {"kind": "folder", "path": choice.data, "checks": {"near_duplicates": "warn"}},
        "preprocess": {"resize": 32, "crop": 32} if tiny else {},
        "model": {"architecture": architecture, "weights": weights},
        "strategy": {"kind": choice.transfer},
        "training": {
            "epochs": choice.epochs,
            "batch_size": 32,
            "augment": "flip",
            "learning_rate": 0.05 if tiny else 0.01,
        },
        "promotion": {"model": choice.name},
    }
