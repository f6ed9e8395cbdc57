"""Four trainings from files on disk to weights, as a program: what a test runs in two processes."""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from tasks.config import RunConfig
from tasks.download.source import download
from tasks.finetune.progress import Nobody
from tasks.finetune.train import finetune
from tasks.preprocess.prepare import prepare
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.values import FineTunedModel

SHIPPED = {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"}
PLAIN = {"epochs": 1, "batch_size": 16, "threads": 1, "precision": "float32"}
AUGMENTED = {"augment": "crop_flip", "policy": "trivial_augment", "random_erasing": 0.3}
CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "partial": {
        "strategy": {"kind": "partial", "frozen_stages": 2},
        "training": {"epochs": 2, "feature_cache": "auto"},
    },
    "augmented": {"training": {**AUGMENTED, "mixup": 0.4, "optimizer": "adamw"}},
    "shards": {"data": {"kind": "shards"}, "training": {"augment": "flip"}},
}
FREE = {"kind": "folder", "checks": {"near_duplicates": "off"}}


def config_of(case: dict[str, Any], folders: dict[str, str]) -> RunConfig:
    """Return the config of a case."""
    data = FREE | case.get("data", {})
    data["path"] = folders[data["kind"]]
    return RunConfig.model_validate(
        {
            "name": "again",
            "data": data,
            "preprocess": {"resize": 32, "crop": 32},
            "model": SHIPPED,
            "strategy": case.get("strategy", {"kind": "full"}),
            "training": PLAIN | case.get("training", {}),
            "output": {"cache": folders["cache"]},
        }
    )


def trained(case: dict[str, Any], folders: dict[str, str], folder: Path) -> FineTunedModel:
    """Download, preprocess, load and fine-tune."""
    config, cache = config_of(case, folders), Path(folders["cache"])
    raw = download(config.data, cache)
    spec = input_spec(config.model, config.preprocess, None)
    prepared = prepare(config.data, config.seed, raw, spec, cache)
    backbone = load_pretrained(config, prepared.classes, None, cache)
    folder.mkdir(parents=True)
    return finetune(config, prepared, backbone, folder, Nobody())


def shift(seconds: float) -> None:
    """Let this process's wall clock be wrong; the system's stays."""
    true = time.time
    time.time = lambda: true() + seconds

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(time.time(), tz)

    datetime.datetime = Shifted


if __name__ == "__main__":
    shift(-20 * 365 * 86400.0)
    given = json.loads(sys.argv[1])
    last_first = reversed(CASES.items())
    models = {name: trained(case, given, Path(name)) for name, case in last_first}
    print(json.dumps({name: model.sha256 for name, model in models.items()}))
