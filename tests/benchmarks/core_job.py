"""The six steps' work without Prefect and MLflow: what orchestration and tracking are added to.

Run as ``python -m tests.benchmarks.core_job CONFIG OVERRIDE…``; prints one JSON object. Registering
has no counterpart without MLflow, so it counts as overhead in full.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.artifacts import cache_folder
from tasks.configfile import load_config
from tasks.download.source import download
from tasks.evaluate.evaluate import evaluate
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.preprocess.prepare import prepare
from tasks.pretrained.load import input_spec, load_pretrained


class Quiet:
    def step(self, progress: StepProgress) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        pass


def main(path: str, *overrides: str) -> dict[str, object]:
    config = load_config(Path(path), overrides)
    cache = cache_folder(config.output.cache)
    raw = download(config.data, cache)
    spec = input_spec(config.model, config.preprocess)
    prepared = prepare(config.data, config.seed, raw, spec, cache)
    backbone = load_pretrained(config, prepared.classes, None, cache)
    folder = config.output.folder
    folder.mkdir(parents=True)
    model = finetune(config, prepared, backbone, folder, Quiet())
    report = evaluate(config, prepared, model, folder)
    return {
        "accuracy": report.accuracy,
        "val_accuracy": model.val_accuracy,
        "training_seconds": model.seconds,
        "root": str(raw.root),
        "train": str(prepared.train.index),
        "val": str(prepared.val.index),
        "test": str(prepared.test.index),
        "input": spec.model_dump(mode="json"),
        "modules": sorted({"mlflow", "prefect"} & sys.modules.keys()),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
