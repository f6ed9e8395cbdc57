"""Old run folders, cache entries and versions: what would go, and, if asked to, its removal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import get_args

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.console import ready_logs
from flows.inputs import say
from flows.outcome import note_failure
from tasks.cleanupconfig import CleanupConfig
from tasks.errors import GraftError
from tasks.evaluate.tables import markdown_cells
from tasks.leftovers import CleanupResult, Item, Kind
from tasks.oldcaches import plan_caches, remove_cache
from tasks.oldruns import plan_runs, remove_run
from tasks.oldstudio import plan_studio, remove_of_studio
from tasks.register.oldversions import needed_runs, plan_versions, remove_version
from tasks.retry import with_retries

Remove = Callable[[Item], Item]

log = logging.getLogger(__name__)


@flow(name="cleanup", validate_parameters=True, on_failure=[note_failure])
def cleanup(config: CleanupConfig, apply: bool = False) -> CleanupResult:
    """Say what ``config`` lets go of, and why the rest stays; remove it only if ``apply`` is set.

    All is planned before anything is removed, and each thing is looked at once more right before.
    One that cannot be removed stops no other. Raises ``ConfigError`` for a folder that is not
    graft's and ``TrackingError`` when the registry cannot be read, with nothing removed; and the
    first error of a removal, at the end.
    """
    ready_logs()
    faults: list[GraftError] = []
    items = []
    for item, remove in _plan(config):
        items.append(_removed(item, remove, faults) if apply and item.goes else item)
    ordered = sorted(items, key=lambda item: not item.goes)
    result = CleanupResult(applied=apply, items=tuple(ordered))
    _tell(result)
    if faults:
        raise faults[0]
    return result


def _plan(config: CleanupConfig) -> list[tuple[Item, Remove]]:
    """Return what there is, and how each is removed."""
    versions, runs, studio, caches = config.versions, config.runs, config.studio, config.caches
    planned: list[tuple[Item, Remove]] = []
    needed = {} if runs is None and studio is None else with_retries(needed_runs)
    if versions is not None:
        found = with_retries(plan_versions, versions)
        planned += [(item, partial(remove_version, versions)) for item in found]
    if runs is not None:
        found = plan_runs(runs, needed)
        planned += [(item, partial(remove_run, runs, needed_runs)) for item in found]
    if studio is not None:
        found = plan_studio(studio, needed)
        planned += [(item, partial(remove_of_studio, studio, needed_runs)) for item in found]
    if caches is not None:
        planned += [(item, partial(remove_cache, caches)) for item in plan_caches(caches)]
    return planned


def _removed(item: Item, remove: Remove, faults: list[GraftError]) -> Item:
    try:
        return with_retries(remove, item)
    except GraftError as error:
        log.warning("%s %s stays: %s", item.kind, item.name, error)
        faults.append(error)
        return item.kept("it could not be removed")


def _tell(result: CleanupResult) -> None:
    for kind in get_args(Kind):
        goes, stays = result.count(kind, True), result.count(kind, False)
        done = "removed" if result.applied else "would go"
        if goes + stays:
            say("cleanup", f"{kind}s: {goes:,} {done}", f"{stays:,} stay")
    rows = markdown_cells(item.model_dump(mode="json") for item in result.items)
    try:
        create_table_artifact(rows, key="cleanup", description="What goes, and why the rest stays.")
    except Exception as error:  # whatever it is, what is done is done
        log.warning("the table is not in the Prefect UI: %s", error)
