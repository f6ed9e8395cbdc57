"""What ``graft rank`` and ``graft lr-find`` do and print; heavy imports wait in the functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.answer import Answer, Cells, Rows
from flows.console import shown
from flows.server import start_server, using
from tasks.artifacts import cache_folder, new_folder, user_folder
from tasks.configfile import load_config
from tasks.rankconfig import RankConfig

if TYPE_CHECKING:
    from tasks.config import RunConfig
    from tasks.evaluate.ranking import Ranking
    from tasks.finetune.lr_find import LrFinding
    from tasks.values import Backbone, PreparedDataset, RegisteredModel


def rank(path: Path, overrides: Sequence[str], verify: bool) -> Answer:
    """Run the flow ``rank`` in this process; raises ``GraftError``."""
    given = [*overrides, "verify=true"] if verify else overrides
    config = load_config(path, given, RankConfig)
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown():
        from flows import rank as module

        with using(server):
            ranking = module.rank(config)
    return _ranked(ranking)


def _ranked(ranking: Ranking) -> Answer:
    from tasks.evaluate.ranking_report import agreement_table, ranking_table

    head, *rows = ranking_table(ranking)
    table = Cells(*head)
    for row in rows:
        table.add(*row)
    _, *agreements = agreement_table(ranking)
    facts: Rows = [("highest", f"{ranking.backbones[0].label}, by LogME")]
    facts += [
        ("agreement", f"{score} with fine-tuning: Kendall's tau {tau}, Spearman's rho {rho}")
        for score, tau, rho in agreements
    ]
    facts += [
        ("report", str(ranking.folder / "rank.md")),
        ("plot", str(ranking.folder / "rank.png")),
    ]
    places = {score: ranking.ranks(score) for score in ("logme", "h_score", "knn")}
    return Answer(ranking.model_dump(mode="json") | {"ranks": places}, facts, table)


def lr_find(path: Path, overrides: Sequence[str]) -> Answer:
    """Try learning rates for the run of a config; leaves a folder with the losses and a plot.

    No flow: it is over in seconds, or with the epochs before a strategy's last phase, and there is
    nothing to schedule. Raises ``GraftError``.
    """
    config = load_config(path, overrides)
    with shown():
        from tasks.finetune.lr_find import find_learning_rate

        prepared, backbone, teacher = _inputs(config)
        name = f"{config.name}-lr-find-{datetime.now():%Y%m%d-%H%M%S}"
        with new_folder(user_folder(config.output.folder), name) as folder:
            finding = find_learning_rate(config, prepared, backbone, folder, teacher)
    return _found(finding, folder)


def _inputs(config: RunConfig) -> tuple[PreparedDataset, Backbone, RegisteredModel | None]:
    from tasks.download.source import download
    from tasks.preprocess.prepare import prepare
    from tasks.pretrained.load import input_spec, load_pretrained
    from tasks.register.warm_start import fetch_named, fetch_teacher

    cache = cache_folder(config.output.cache)
    registered, teacher = fetch_named(config, cache), fetch_teacher(config, cache)
    spec = input_spec(config.model, config.preprocess, registered)
    raw = download(config.data, cache)
    prepared = prepare(config.data, config.seed, raw, spec, cache)
    return prepared, load_pretrained(config, prepared.classes, registered, cache), teacher


def _found(finding: LrFinding, folder: Path) -> Answer:
    setting = f"training.learning_rate={finding.valley:.2g}"
    if finding.head_learning_rate is not None:
        setting += f" training.head_learning_rate={finding.head_learning_rate:.2g}"
    end = "none, up to 10"
    if finding.stopped_at is not None:
        end = f"loss out of hand at {finding.stopped_at:.2g}"
    facts = [
        ("valley", f"{finding.valley:.2g}  (half way down the longest fall of the loss)"),
        ("steep", f"{finding.steep:.2g}  (where the loss falls fastest)"),
        ("limit", end),
        ("set", setting),
        ("plot", str(folder / "lr_find.png")),
        ("losses", str(folder / "lr_find.json")),
    ]
    return Answer(finding.model_dump(mode="json") | {"folder": str(folder)}, facts)
