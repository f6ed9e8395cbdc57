"""What goes of the studio's folder: old jobs as run folders do, and uploads that no job names."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from pathlib import Path

from tasks.artifacts import user_folder
from tasks.cleanupconfig import RunsRule, StudioRule
from tasks.leftovers import DAY, Item, days_since, is_free, last_use, look_at, remove
from tasks.oldcaches import HOUR, SCRATCH
from tasks.oldruns import plan_runs, remove_run

UPLOAD = r"[0-9a-f]{16}(\.[a-z0-9]+)*"  # digest and ending, as the studio names them


def plan_studio(rule: StudioRule, needed: Mapping[str, str]) -> list[Item]:
    """Return every job and every upload of the studio, and whether it goes.

    ``needed`` as for ``plan_runs``. Raises ``ConfigError`` for a folder of jobs that holds none.
    """
    jobs = [item.model_copy(update={"kind": "job"}) for item in plan_runs(_jobs(rule), needed)]
    going = {item.name for item in jobs if item.goes}
    return jobs + [_upload(path, rule, going) for path in _uploads(rule)]


def remove_of_studio(rule: StudioRule, needed: Callable[[], Mapping[str, str]], item: Item) -> Item:
    """Remove a job or an upload unless it was used, or came to be needed, meanwhile.

    Raises as ``remove_run``.
    """
    if item.kind == "job":
        return remove_run(_jobs(rule), needed, item)
    job = _named_by(rule, item.name, going=())
    if job is not None:
        return item.kept(f"the images of {job}")
    return remove(user_folder(rule.folder) / "uploads" / item.name, item, last_use)


def _jobs(rule: StudioRule) -> RunsRule:
    return RunsRule(folder=rule.folder / "jobs", keep=rule.keep, days=rule.days)


def _uploads(rule: StudioRule) -> list[Path]:
    root = user_folder(rule.folder) / "uploads"
    if not root.is_dir():
        return []
    ours = re.compile(f"{UPLOAD}|{SCRATCH.format(UPLOAD)}")
    return [p for p in sorted(root.iterdir()) if ours.fullmatch(p.name) and not p.is_symlink()]


def _upload(path: Path, rule: StudioRule, going: Container[str]) -> Item:
    tree = look_at(path)
    whole = not path.name.startswith(".")
    days = max(rule.days, HOUR / DAY) if whole else 1.0  # what is uploaded may be about to be used
    item = Item(
        kind="upload",
        name=path.name,
        size=tree.size,
        last_use=last_use(path),
        goes=True,
        why="no job names it" if whole else "left by a process that was killed",
    )
    if days_since(item.last_use) < days:
        return item.kept(f"younger than {days:.3g} days")
    job = _named_by(rule, path.name, going)
    if job is not None:
        return item.kept(f"the images of {job}")
    return item if is_free(path) else item.kept("in use")


def _named_by(rule: StudioRule, upload: str, going: Container[str]) -> str | None:
    """Return a job, but for those that go, whose config has the name of ``upload`` in it."""
    for config in sorted((user_folder(rule.folder) / "jobs").glob("*/config.yaml")):
        job = config.parent.name
        if job in going:
            continue
        with suppress(FileNotFoundError):  # removed meanwhile
            if upload in config.read_text(errors="replace"):
                return job
    return None
