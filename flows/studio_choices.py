"""What somebody chooses in the studio, and the config that comes of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tasks.artifacts import folder_atomic, write_atomic
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.errors import ConfigError

CHUNK = 1 << 20  # bytes
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

    data: Path
    name: str
    backbone: Backbone
    transfer: str  # a strategy's kind
    epochs: int
    more: Sequence[str]  # KEY=VALUE, as on the command line


def keep_upload(home: Path, name: str, content: BinaryIO) -> Path:
    """Copy an uploaded archive to where runs read it; the same bytes are kept once.

    Raises ``ConfigError`` for what is no zip or tar by name, ``ResourceError`` for a full disk.
    """
    ending = "".join(Path(name).suffixes[-2:]) if ".tar." in name else Path(name).suffix
    if ending.lower() not in (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"):
        raise ConfigError(f"{name!r} is no archive.\nUpload a zip or tar of class folders.")
    digest = hashlib.sha256()
    for block in iter(lambda: content.read(CHUNK), b""):
        digest.update(block)
    content.seek(0)
    folder = home / "uploads" / digest.hexdigest()[:16]
    if not folder.is_dir():
        with folder_atomic(folder) as scratch, (scratch / f"images{ending}").open("wb") as file:
            for block in iter(lambda: content.read(CHUNK), b""):
                file.write(block)
    return folder / f"images{ending}"


def model_name(words: str) -> str:
    """Return ``words`` as a name for run and model: letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-_")[:60] or "images"


def config_of(home: Path, choice: Choice) -> RunConfig:
    """Return the whole config of a choice, checked as ``graft run`` checks it.

    Raises ``ConfigError`` that names the key and the nearest valid one.
    """
    draft = home / "draft.yaml"
    # JSON is YAML, and a form's words must not be read as anything else
    write_atomic(draft, json.dumps(_settings(choice)).encode())
    return load_config(draft, choice.more)


def _settings(choice: Choice) -> dict[str, Any]:
    architecture, weights = choice.backbone
    tiny = architecture == "graft_tiny"  # trained on small pictures, from rates that suit it
    return {
        "name": choice.name,
        "data": {"kind": "folder", "path": str(choice.data), "checks": {"near_duplicates": "warn"}},
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
