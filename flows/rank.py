"""Backbones ranked for a data set as one Prefect flow: a task run each, and files to look at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish_study
from flows.candidates import Candidate, Trial, fine_tune, score
from flows.console import ready_logs
from flows.engines import Engine, each_done, fitted, open_engine
from flows.inputs import images_held, read_images, say
from tasks.artifacts import cache_folder, new_folder, user_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.evaluate.ranking import RankedBackbone, Ranking, agreements, in_order
from tasks.evaluate.ranking_report import ranking_markdown, ranking_table, write_ranking
from tasks.finetune.phases import plan_phases
from tasks.pretrained.load import input_spec
from tasks.pretrained.task import load_backbone
from tasks.public import public_config
from tasks.rankconfig import RankConfig
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.retry import with_retries
from tasks.use import in_use
from tasks.values import InputSpec, RegisteredModel


@task(
    task_run_name="rank {work.backbone.architecture}",
    timeout_seconds=24 * 3600,
    cache_policy=NO_CACHE,
)
def score_candidate(work: Candidate, do: Callable[[Candidate], RankedBackbone]) -> RankedBackbone:
    """Score a candidate, here or wherever ``do`` does."""
    return do(work)


@task(
    task_run_name="finetune {work.candidate.backbone.architecture}",
    timeout_seconds=30 * 24 * 3600,
    cache_policy=NO_CACHE,
)
def try_candidate(work: Trial, do: Callable[[Trial], float]) -> float:
    """Fine-tune a candidate, here or wherever ``do`` does."""
    return do(work)


@flow(name="rank", flow_run_name="{config.base.name}", validate_parameters=True)
def rank(config: RankConfig) -> Ranking:
    """Score every candidate on the training images, and fine-tune them all if that is asked for.

    Leaves a folder with rank.json, rank.md and a plot, or nothing on an error; no model is kept and
    the test images are not opened. Raises the rooms' ``GraftError``.
    """
    ready_logs()
    with images_held():
        ranking = _ranked(config)
    publish_study(
        "ranking",
        ranking.name,
        partial(ranking_markdown, ranking),
        "backbones",
        ranking_table(ranking),
    )
    return ranking


def _ranked(config: RankConfig) -> Ranking:
    candidates = _candidates(config)
    output = user_folder(config.base.output.folder)
    shared = (output, cache_folder(config.base.output.cache))
    name = f"{config.base.name}-rank-{datetime.now():%Y%m%d-%H%M%S}"
    with (
        open_engine(config.runner, config.parallel, shared, tracked=False) as engine,
        new_folder(output, name) as folder,
        in_use([folder]),
    ):
        rows = _scored(engine, config, candidates)
        if config.verify:
            rows = _fine_tuned(engine, config, candidates, rows, folder)
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
        Candidate(
            config=fitted(run, config.runner, config.parallel),
            prepared=packs[spec],
            backbone=load_backbone(run, packs[spec].classes, model, cache),
            images=config.images,
            neighbours=config.neighbours,
        )
        for run, spec, model in zip(runs, specs, registered, strict=True)
    ]
    if config.verify:  # a recipe that does not fit one of them is refused before any work
        for run, one in zip(runs, found, strict=True):
            plan_phases(run.strategy, one.backbone, run.training.epochs)
    return found


def _spec(run: RunConfig, registered: RegisteredModel | None) -> InputSpec:
    return input_spec(run.model, run.preprocess, registered)


def _scored(
    engine: Engine, config: RankConfig, candidates: Sequence[Candidate]
) -> list[RankedBackbone]:
    rows: dict[int, RankedBackbone] = {}
    for place, row in each_done(engine, score_candidate, score, candidates, config.parallel):
        words = f"LogME {row.logme:.4f}, H-score {row.h_score:.4f}, kNN {100 * row.knn:.2f}%"
        say("evaluate", f"{row.label}: {words}, {row.seconds:.1f} s")
        rows[place] = row
    return [rows[place] for place in sorted(rows)]


def _fine_tuned(
    engine: Engine,
    config: RankConfig,
    candidates: Sequence[Candidate],
    rows: Sequence[RankedBackbone],
    folder: Path,
) -> list[RankedBackbone]:
    """Fine-tune every candidate by the base recipe, to check its scores."""
    cache = cache_folder(config.base.output.cache)
    found = list(rows)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".verify-") as scratch:
        trials = [
            Trial(
                candidate=one,
                teacher=with_retries(fetch_teacher, one.config, cache),
                folder=Path(scratch) / str(place),
            )
            for place, one in enumerate(candidates)
        ]
        for place, accuracy in each_done(engine, try_candidate, fine_tune, trials, config.parallel):
            say("finetune", f"{rows[place].label}: val accuracy {accuracy:.2%}")
            found[place] = rows[place].model_copy(update={"val_accuracy": accuracy})
    return found


def _public(config: RankConfig) -> RankConfig:
    models = [public_config(config.run_of(model)).model for model in config.candidates]
    return config.model_copy(
        update={"base": public_config(config.base), "candidates": tuple(models)}
    )
