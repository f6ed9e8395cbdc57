"""Make the backbone that ships with graft: the same rooms, from random weights, exported."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow

from flows.console import ready_logs, screen
from flows.inputs import images_held, read_images
from tasks.artifacts import cache_folder, new_folder, user_folder
from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.evaluate.task import evaluate_model
from tasks.finetune.task import finetune_model
from tasks.pretrained.export import export_backbone
from tasks.pretrained.load import input_spec
from tasks.pretrained.shipped import FOLDER
from tasks.pretrained.task import load_backbone
from tasks.register.seen import seen_by_run
from tasks.use import in_use


@flow(name="pretrain", flow_run_name="{config.name}: {config.model.architecture}")
def pretrain(config: RunConfig, target: Path = FOLDER) -> Path:
    """Train ``config`` from scratch and write weights, facts and model card into ``target``.

    Nothing is registered: what ships is a file in the repository, reviewed like code. Raises
    ``ConfigError`` unless the strategy is ``scratch``, and the rooms' ``GraftError``.
    """
    ready_logs()
    if config.strategy.kind != "scratch":
        raise ConfigError(
            f"Pretraining starts from random weights, not with strategy {config.strategy.kind}.\n"
            "Set strategy.kind=scratch and model.weights=null."
        )
    with images_held():
        return _pretrained(config, target)


def _pretrained(config: RunConfig, target: Path) -> Path:
    cache = cache_folder(config.output.cache)
    spec = input_spec(config.model, config.preprocess)
    _, prepared = read_images(config, spec, cache)
    backbone = load_backbone(config, prepared.classes, None, cache)
    name = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with new_folder(user_folder(config.output.folder), name) as folder, in_use([folder]):
        shown = screen.get()
        model = finetune_model(config, prepared, backbone, folder, shown)
        seen = seen_by_run(config, prepared, model)
        report = evaluate_model(config, prepared, model, folder, seen)
        shown.scored(report)
        return export_backbone(config, prepared, model, report, target)
