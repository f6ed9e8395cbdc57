"""Which run folders go: the old ones that no version with an alias came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.artifacts import user_folder
from tasks.cleanupconfig import RunsRule
from tasks.errors import ConfigError
from tasks.leftovers import Item, days_since, is_free, last_use, look_at, moment, remove
from tasks.studiojob import is_job, process_of, runs_of
from tasks.unfinished import BEGUN, FOLDER, is_unfinished
from tasks.use import is_held

STUDIES = ("cells", "trials")  # folders of a comparison and a search
NAME = re.compile(r".+-\d{8}-\d{6}(-\d+)?")  # NAME-TIME, as every flow names its folder
MARKS = (
    "config.yaml",
    "history.jsonl",
    "report.json",
    "lr_find.json",
    "rank.json",
    "drift.json",
    "reevaluation.json",
    f"{FOLDER}/{BEGUN}",
)
UNFINISHED = 7.0  # days that a run which was broken off can be resumed


def plan_runs(rule: RunsRule, needed: Mapping[str, str]) -> list[Item]:
    """Return every run folder, newest first, and whether it goes.

    ``needed`` says by the digest of their weights which versions keep their folder, in words. Other
    folders, such as comparisons and searches, are not looked at. A job of the studio counts as the
    runs in it. A run that was broken off takes no place among the newest, and has an age of its
    own: its checkpoint is several times as large as a model.
    Raises ``ConfigError`` for a folder that holds something, but no run of graft's.
    """
    found = {path: look_at(path) for path in _runs(rule)}
    newest = sorted(found, key=lambda path: found[path].changed, reverse=True)
    items = []
    place = 0
    for path in newest:
        tree, broken = found[path], is_unfinished(path)
        item = Item(
            kind="run",
            name=path.name,
            size=tree.size,
            last_use=moment(tree.changed),
            goes=True,
            why=_too_old(UNFINISHED if broken else rule.days, broken),
        )
        why = _pending(path, item, needed) if broken else _reason(rule, path, place, item, needed)
        items.append(item if why is None else item.kept(why))
        place += not broken
    return items


def _too_old(days: float, broken: bool) -> str:
    return f"{'broken off and ' if broken else ''}older than {days:g} days"


def _pending(path: Path, item: Item, needed: Mapping[str, str]) -> str | None:
    """Return why the folder of a run that is not finished stays, if it does."""
    if is_held(path):
        return "in use"
    if days_since(item.last_use) < UNFINISHED:
        return f"broken off, and younger than {UNFINISHED:g} days"
    return _needed(path, needed)


def _runs(rule: RunsRule) -> list[Path]:
    root = user_folder(rule.folder)
    if not root.is_dir():
        return []
    there = [path for path in root.iterdir() if not path.name.startswith(".")]
    runs = [path for path in there if _is_run(path)]
    if there and not runs and not any((path / name).is_dir() for path in there for name in STUDIES):
        raise ConfigError(
            f"{root} holds no run folder of graft's.\n"
            "Set runs.folder to where output.folder is, or studio.folder to the studio's."
        )
    return runs


def _is_run(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir() or not NAME.fullmatch(path.name):
        return False
    return any((path / mark).is_file() for mark in MARKS)


def _reason(
    rule: RunsRule, path: Path, place: int, item: Item, needed: Mapping[str, str]
) -> str | None:
    """Return why a folder stays, if it does."""
    if place < rule.keep:
        return f"among the newest {rule.keep}"
    if days_since(item.last_use) < rule.days:
        return f"younger than {rule.days:g} days"
    version = _needed(path, needed)
    if version is not None:
        return version
    return None if is_free(path) and not _goes_on(path) else "in use"


def _goes_on(path: Path) -> bool:
    """Say whether a job of the studio still runs; its runs' locks lie a level deeper."""
    if not is_job(path):
        return False
    return process_of(path) is not None or any(is_held(run) for run in runs_of(path))


def _needed(path: Path, needed: Mapping[str, str]) -> str | None:
    """Return which version came from a folder, in words, if one that needs it did."""
    runs = [path, *runs_of(path)] if is_job(path) else [path]
    return next((needed[sha256] for sha256 in map(_weights, runs) if sha256 in needed), None)


def _weights(path: Path) -> str:
    """Return the digest of the weights that a run ended with, or "" where it did not end."""
    try:
        return str(json.loads((path / "report.json").read_bytes())["model_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remove_run(rule: RunsRule, needed: Callable[[], Mapping[str, str]], item: Item) -> Item:
    """Remove the folder of ``item`` unless it was used, or came to be needed, meanwhile.

    Raises ``ResourceError``, and what asking who needs folders does.
    """
    path = user_folder(rule.folder) / item.name
    if not _is_run(path):
        return item.kept("gone meanwhile")
    if _goes_on(path):
        return item.kept("in use")
    version = _needed(path, needed())
    return remove(path, item, last_use) if version is None else item.kept(f"{version}, by now")
