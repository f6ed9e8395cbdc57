"""``graft monitor`` and ``graft reevaluate``: one check now, as a deployment does by schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.answer import Answer, Cells, Rows
from flows.arguments import Json, Overrides
from flows.console import shown
from flows.printing import answer
from flows.server import start_server, using
from tasks.configfile import load_config
from tasks.errors import EvaluationError
from tasks.monitorconfig import MonitorConfig, ReevaluateConfig

if TYPE_CHECKING:
    from tasks.monitorvalues import DriftReport, ReevaluationReport, WatchReport

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, see the example.")]
FailOnAlert = Annotated[
    bool, typer.Option("--fail-on-alert", help="End with exit code 6 where there is an alert.")
]


def register(app: typer.Typer) -> None:
    """Add both commands to ``app``."""
    app.command("monitor", epilog="Example: graft monitor configs/monitor_folder.yaml")(monitor)
    app.command("reevaluate", epilog="Example: graft reevaluate configs/reevaluate_folder.yaml")(
        reevaluate
    )


def monitor(
    config: Config,
    overrides: Overrides = None,
    fail_on_alert: FailOnAlert = False,
    as_json: Json = False,
) -> None:
    """Test whether new images look like those that a registered model was measured on."""
    answer(as_json, lambda: _monitor(config, overrides or (), fail_on_alert))


def reevaluate(
    config: Config,
    overrides: Overrides = None,
    fail_on_alert: FailOnAlert = False,
    as_json: Json = False,
) -> None:
    """Score a registered model on new labelled images, and compare with its registration."""
    answer(as_json, lambda: _reevaluate(config, overrides or (), fail_on_alert))


def _monitor(path: Path, overrides: Sequence[str], fail_on_alert: bool) -> Answer:
    config = load_config(path, overrides, MonitorConfig)
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown():
        from flows import monitor as module

        with using(server):
            # calling the flow gives what its final state holds
            report = cast("DriftReport", module.monitor(config))
    from tasks.evaluate.drift_report import test_table

    head, *rows = test_table(report.tests)
    table = Cells(*head)
    for row in rows:
        table.add(*row)
    facts: Rows = [
        ("images", f"{report.n:,} of {report.found:,}, reference {report.reference_n:,}"),
    ]
    return _answer(report, facts, "drift.md", table, fail_on_alert)


def _reevaluate(path: Path, overrides: Sequence[str], fail_on_alert: bool) -> Answer:
    config = load_config(path, overrides, ReevaluateConfig)
    server = start_server()
    with shown():
        from flows import reevaluate as module

        with using(server):
            report = cast("ReevaluationReport", module.reevaluate(config))
    from tasks.evaluate.watch_report import percent, points

    low, high = percent(report.accuracy_low), percent(report.accuracy_high)
    seen = "not known" if report.seen is None else f"{report.seen:,}, left out"
    facts: Rows = [
        ("accuracy", f"{percent(report.accuracy)} of {report.n:,} images ({low} to {high})"),
        (
            "before",
            f"{percent(report.registered_accuracy)} of {report.registered_n:,} test images",
        ),
        (
            "difference",
            f"{points(report.difference)} points ({points(report.difference_low)} to "
            f"{points(report.difference_high)}), margin {100 * report.margin:g}",
        ),
        ("detectable", f"a loss of {100 * report.detectable:.1f} points, in 80% of cases"),
        ("learned", f"{seen}: images that the model has learned from"),
    ]
    return _answer(report, facts, "reevaluation.md", None, fail_on_alert)


def _answer(
    report: WatchReport, facts: Rows, page: str, table: Cells | None, fail_on_alert: bool
) -> Answer:
    from tasks.evaluate.watch_report import alarms_words

    facts = [
        ("ALERT" if report.alert else "no alert", report.reason),
        ("model", report.model),
        *facts,
        ("alarms", alarms_words(report)),
        ("report", str(report.folder / page)),
    ]
    problem = None
    if report.alert and fail_on_alert:
        problem = EvaluationError(f"{report.reason}\nSee {report.folder / page}.")
    return Answer(report.model_dump(mode="json"), facts, table, problem)
