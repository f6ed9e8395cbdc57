"""``graft retrain``: the main job where data, config or code have changed; else nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.answer import Answer, Rows
from flows.arguments import Config, Json, Overrides
from flows.commands import ran
from flows.console import shown
from flows.printing import answer
from flows.server import start_server, using
from tasks.configfile import load_config

if TYPE_CHECKING:
    from tasks.values import EvaluationReport
    from tasks.work import RetrainResult

Starts = Literal["original", "champion", "both"]


def retrain(
    config: Config,
    overrides: Overrides = None,
    start: Annotated[
        Starts, typer.Option(help="Whose weights: the config's, the champion's, or the better.")
    ] = "both",
    force: Annotated[bool, typer.Option("--force", help="Train if nothing changed, too.")] = False,
    as_json: Json = False,
) -> None:
    """Train again if data, config or code changed since a registered version; else do nothing."""
    answer(as_json, lambda: _retrain(config, overrides or (), start, force))


def _retrain(path: Path, overrides: Sequence[str], start: Starts, force: bool) -> Answer:
    """Run the flow ``retrain`` in this process; raises ``GraftError``."""
    config = load_config(path, overrides)
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown() as screen:
        from flows import retrain as module

        with using(server):
            result = module.retrain(config, start, force)
    return _retrained(result, screen.report)


def _retrained(result: RetrainResult, report: EvaluationReport | None) -> Answer:
    facts: Rows = [("retrain", result.reason), *(("note", note) for note in result.notes)]
    data: dict[str, Any] = {"retrain": result.model_dump(mode="json")}
    if result.decision is None:
        return Answer(data, facts)
    if result.choice is not None:
        from tasks.register.starts import choice_words

        facts.append(("start", choice_words(result.choice)))
    came = ran(result.decision, report)
    return Answer(data | came.data, facts + came.facts)
