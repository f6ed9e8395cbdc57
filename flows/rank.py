"""Backbones ranked for a data set as one Prefect flow: a task run each, and files to look at."""

from __future__ import annotations

import logging
import tempfile
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.console import ready_logs, screen
from flows.inputs import images_held, read_images
from tasks.artifacts import cache_folder, new_folder, user_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.evaluate.ranking import RankedBackbone, Ranking, agreements, in_order
from tasks.evaluate.ranking_report import ranking_markdown, ranking_table, write_ranking
from tasks.evaluate.task import rank_backbone
from tasks.finetune.phases import plan_phases
from tasks.finetune.task import finetune_model
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.public import public_config
from tasks.rankconfig import RankConfig
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.retry import with_retries
from tasks.use import in_use
from tasks.values import Backbone, InputSpec, PreparedDataset, RegisteredModel

log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A backbone with the images as it wants them."""

    config: RunConfig  # of its fine-tuning
    prepared: PreparedDataset
    backbone: Backbone


@flow(name="rank", flow_run_name="{config.base.name}", validate_parameters=True)
def rank(config: RankConfig) -> Ranking:
    """Score every candidate on the training images, and fine-tune them all if that is asked for.

    Leaves a folder with rank.json, rank.md and a plot, or nothing on an error; no model is kept and
    the test images are not opened. Raises the rooms' ``GraftError``.
    """
    ready_logs()
    with images_held():
        ranking = _ranked(config)
    _publish(ranking)
    return ranking


def _ranked(config: RankConfig) -> Ranking:
    candidates = _candidates(config)
    rows = [_scored(config, candidate) for candidate in candidates]
    name = f"{config.base.name}-rank-{datetime.now():%Y%m%d-%H%M%S}"
    with new_folder(user_folder(config.base.output.folder), name) as folder, in_use([folder]):
        if config.verify:
            rows = _fine_tuned(candidates, rows, folder)
        ranking = Ranking(
            name=config.base.name,
            folder=folder,
            classes=len(candidates[0].prepared.classes),
            neighbours=config.neighbours,
            backbones=in_order(rows),
            agreements=agreements(rows),
        )
        write_atomic(folder / "config.yaml", dump_config(_public(config)).encode())
        write_ranking(ranking)
    return ranking


def _candidates(config: RankConfig) -> list[Candidate]:
    """Fetch data and weights, pack the images once for every input, and check that all fits."""
    cache = cache_folder(config.base.output.cache)
    runs = [config.run_of(model) for model in config.candidates]
    registered = [with_retries(fetch_named, run, cache) for run in runs]
    specs = [_spec(run, model) for run, model in zip(runs, registered, strict=True)]
    packs = {spec: read_images(config.base, spec, cache)[1] for spec in dict.fromkeys(specs)}
    found = [
        Candidate(run, packs[spec], load_backbone(run, packs[spec].classes, model, cache))
        for run, spec, model in zip(runs, specs, registered, strict=True)
    ]
    if config.verify:  # a recipe that does not fit one of them is refused before any work
        for run, _, backbone in found:
            plan_phases(run.strategy, backbone, run.training.epochs)
    return found


def _spec(run: RunConfig, registered: RegisteredModel | None) -> InputSpec:
    return input_spec(run.model, run.preprocess, registered)


def _scored(config: RankConfig, candidate: Candidate) -> RankedBackbone:
    run = public_config(candidate.config)  # its names are shown; files are the backbone's
    return rank_backbone(
        run, candidate.prepared, candidate.backbone, config.images, config.neighbours
    )


def _fine_tuned(
    candidates: list[Candidate], rows: list[RankedBackbone], folder: Path
) -> list[RankedBackbone]:
    """Fine-tune every candidate by the base recipe; of its files nothing is kept."""
    found = []
    for candidate, row in zip(candidates, rows, strict=True):
        log.info("fine-tuning %s to check its scores", row.label)
        run = candidate.config
        teacher = with_retries(fetch_teacher, run, cache_folder(run.output.cache))
        with tempfile.TemporaryDirectory(dir=folder, prefix=".verify-") as scratch:
            model = finetune_model(*candidate, Path(scratch), screen.get(), teacher)
        found.append(row.model_copy(update={"val_accuracy": model.val_accuracy}))
    return found


def _public(config: RankConfig) -> RankConfig:
    models = [public_config(config.run_of(model)).model for model in config.candidates]
    return config.model_copy(
        update={"base": public_config(config.base), "candidates": tuple(models)}
    )


def _publish(ranking: Ranking) -> None:
    """Put the report and the table into the Prefect UI, as far as that is there."""
    head, *rows = ranking_table(ranking)
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    try:
        create_markdown_artifact(ranking_markdown(ranking), key="ranking", description=ranking.name)
        create_table_artifact(cells, key="backbones", description=ranking.name)
    except Exception as error:  # whatever it is, the ranking is done
        log.warning("the ranking is not in the Prefect UI: %s", error)
