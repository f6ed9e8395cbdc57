"""The six rooms one after another without Prefect, each one's end marked for the watcher.

scale.py runs ``python -m tests.benchmarks.scale_job CONFIG OVERRIDE…``; it prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tasks.memory import share_one_arena
from tests.benchmarks.scale_watch import MARKS


def mark(stage: str) -> None:
    """Say that ``stage``, which began when the one before ended, is over."""
    with Path(os.environ[MARKS]).open("a") as file:
        file.write(json.dumps({"stage": stage, "end": time.monotonic()}) + "\n")


def main(path: str, *overrides: str) -> dict[str, object]:
    """Carry the run out: what ``graft run`` does, but for Prefect."""
    from tasks.artifacts import cache_folder
    from tasks.configfile import load_config
    from tasks.download.source import download
    from tasks.evaluate.evaluate import evaluate
    from tasks.finetune.train import finetune
    from tasks.preprocess.prepare import prepare
    from tasks.pretrained.load import input_spec, load_pretrained
    from tasks.register.promote import register
    from tasks.register.tracking import open_run

    config = load_config(Path(path), overrides)
    cache, folder = cache_folder(config.output.cache), config.output.folder
    with open_run(config) as tracker:
        mark("start")
        raw = download(config.data, cache)
        mark("download")
        spec = input_spec(config.model, config.preprocess)
        prepared = prepare(config.data, config.seed, raw, spec, cache)
        mark("preprocess")
        tracker.datasets(prepared)
        backbone = load_pretrained(config, prepared.classes, None, cache)
        tracker.backbone(backbone)
        folder.mkdir(parents=True)
        mark("pretrained")
        model = finetune(config, prepared, backbone, folder, tracker)
        mark("finetune")
        report = evaluate(config, prepared, model, folder)
        mark("evaluate")
        tracker.finished(model, report)
        register(config, raw, prepared, model, report, tracker.run_id)
        mark("register")
    return {
        "accuracy": report.accuracy,
        "images": prepared.train.n,
        "images_per_second": model.images_per_second,
        "page_bytes": (folder / "report.html").stat().st_size,
        "folder_bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
    }


if __name__ == "__main__":
    share_one_arena()  # as the command graft does
    print(json.dumps(main(*sys.argv[1:])))
