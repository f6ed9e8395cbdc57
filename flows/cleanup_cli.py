"""``graft cleanup``: what is old and not needed, shown, and with --apply removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.answer import Answer, Cells, Rows
from flows.arguments import Json, Overrides
from flows.console import shown
from flows.printing import answer
from flows.server import start_server, using
from tasks.cleanupconfig import CleanupConfig
from tasks.configfile import load_config

if TYPE_CHECKING:
    from tasks.leftovers import CleanupResult


def cleanup(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file such as configs/cleanup.yaml.")
    ],
    overrides: Overrides = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove it; without, it is shown alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which run folders, caches and versions are old and not needed, or remove them."""
    answer(as_json, lambda: _cleanup(config, overrides or (), apply))


def _cleanup(path: Path, overrides: Sequence[str], apply: bool) -> Answer:
    """Run the flow ``cleanup`` in this process; raises ``GraftError``."""
    config = load_config(path, overrides, CleanupConfig)
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown():
        from flows import cleanup as module

        with using(server):
            result = module.cleanup(config, apply)
    return _cleaned(result)


def _cleaned(result: CleanupResult) -> Answer:
    table = Cells("what", "name", "size", "age", "goes", "why")
    now = datetime.now(UTC)
    for item in result.items:
        days = max(0.0, (now - item.last_use).total_seconds() / 86400)
        size = "" if item.size is None else f"{item.size / 1e6:,.1f} MB"
        goes = ("removed" if item.removed else "goes") if item.goes else ""
        table.add(item.kind, item.name, size, f"{days:,.1f} d", goes, item.why)
    count = sum(item.goes for item in result.items)
    done = "removed" if result.applied else "would go"
    facts: Rows = [(done, f"{count:,} of {len(result.items):,}, {result.size / 1e6:,.1f} MB")]
    if not result.applied and count:
        facts.append(("apply", "nothing is removed without --apply"))
    return Answer(result.model_dump(mode="json"), facts, table)
