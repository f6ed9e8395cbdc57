"""The six steps' work without Prefect: what orchestration is added to.

Run as ``python -m tests.benchmarks.core_job KIND CONFIG OVERRIDE…``; prints one JSON object. KIND
``bare`` is without MLflow as well: five steps, since there is no registry; ``tracked`` writes the
run down in MLflow, registers the model and decides on promotion, as ``graft run`` does.
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


def bare(config, raw, prepared, backbone, watcher=None):
    folder = config.output.folder
    model = finetune(config, prepared, backbone, folder, watcher or Quiet())
    return model, evaluate(config, prepared, model, folder)


def tracked(config, raw, prepared, backbone):
    from tasks.register.promote import register
    from tasks.register.tracking import open_run

    with open_run(config) as tracker:
        tracker.datasets(prepared)
        tracker.backbone(backbone)
        watcher = Quiet()
        watcher.epoch = tracker.epoch
        model, report = bare(config, raw, prepared, backbone, watcher)
        tracker.finished(model, report)
        register(config, raw, prepared, model, report, tracker.run_id)
    return model, report


def main(kind: str, path: str, *overrides: str) -> dict[str, object]:
    config = load_config(Path(path), overrides)
    cache = cache_folder(config.output.cache)
    raw = download(config.data, cache)
    spec = input_spec(config.model, config.preprocess)
    prepared = prepare(config.data, config.seed, raw, spec, cache)
    backbone = load_pretrained(config, prepared.classes, None, cache)
    config.output.folder.mkdir(parents=True)
    model, report = {"bare": bare, "tracked": tracked}[kind](config, raw, prepared, backbone)
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
