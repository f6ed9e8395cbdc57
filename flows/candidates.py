"""One candidate of a ranking: scored, or fine-tuned; this file imports without Prefect."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.console import screen
from tasks.config import RunConfig
from tasks.evaluate.ranking import RankedBackbone, score_backbone
from tasks.finetune.train import finetune
from tasks.public import public_config
from tasks.values import Backbone, PreparedDataset, RegisteredModel, Value


class Candidate(Value):
    """A backbone with the images as it wants them, and how it is scored."""

    config: RunConfig  # of its fine-tuning
    prepared: PreparedDataset
    backbone: Backbone
    images: int | None
    neighbours: int


class Trial(Value):
    """A candidate that is fine-tuned in a folder of its own."""

    candidate: Candidate
    teacher: RegisteredModel | None
    folder: Path


def score(candidate: Candidate) -> RankedBackbone:
    """Score a backbone by its features of the training images; raises as ``score_backbone``."""
    config = public_config(candidate.config)  # its names are shown; files are the backbone's
    return score_backbone(
        config, candidate.prepared, candidate.backbone, candidate.images, candidate.neighbours
    )


def fine_tune(trial: Trial) -> float:
    """Return a candidate's validation accuracy after fine-tuning; of its files nothing is kept."""
    shutil.rmtree(trial.folder, ignore_errors=True)  # of a process that was killed
    trial.folder.mkdir(parents=True)
    config, prepared, backbone = (
        trial.candidate.config,
        trial.candidate.prepared,
        trial.candidate.backbone,
    )
    try:
        model = finetune(config, prepared, backbone, trial.folder, screen.get(), trial.teacher)
    finally:
        shutil.rmtree(trial.folder, ignore_errors=True)
    return model.val_accuracy
