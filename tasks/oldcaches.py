"""Which entries of the cache go: those unused for long, and more of them down to a size.

All of it can be made or fetched again. What is not named as graft names things is left alone.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path

from tasks.artifacts import cache_folder
from tasks.cleanupconfig import CachesRule
from tasks.errors import ConfigError
from tasks.leftovers import DAY, Item, days_since, is_free, last_use, look_at, moment, remove

SHA = r"[0-9a-f]{64}"
KINDS = {  # folder: how its entries are named
    "archives": SHA,
    "builtin": r"(digits|cifar10)-[0-9a-f]+",
    "downloads": r"([0-9a-f]{8,64}|timm-.+-[0-9a-f]{16})(\.[A-Za-z0-9]+)*",
    "features": SHA,
    "models": SHA,
    "prepared": SHA,
    "raw": SHA,
}
SCRATCH = r"\.({})\.[A-Za-z0-9_]{{8}}"  # what is being written, or was when its process was killed
LOOSE = {  # folder: other scratch, of graft monitor, export, shards, and of checking a version
    ".": r"\.(watch|export|shards)-[a-z0-9_]{8}",
    "models": r"\.version-[a-z0-9_]{8}",
}
HOUR = 3600.0  # s; what was used since never goes, however little room there is


def plan_caches(rule: CachesRule) -> list[Item]:
    """Return every entry of the cache, the longest unused first, and whether it goes.

    Raises ``ConfigError`` for a folder that holds something, but no cache of graft's.
    """
    root = cache_folder(rule.folder)
    items = sorted((_entry(path, root, rule) for path in _entries(root)), key=_age)
    if rule.gigabytes is None:
        return items
    left = sum(item.size or 0 for item in items if not item.goes)
    for number, item in enumerate(items):
        if left <= rule.gigabytes * 1e9:
            break
        if not item.goes and item.why != "in use" and _idle(item) and _is_whole(item.name):
            items[number] = item.model_copy(
                update={"goes": True, "why": f"unused longest, of over {rule.gigabytes:g} GB"}
            )
            if not is_free(root / item.name):
                items[number] = item.kept("in use")
                continue
            left -= item.size or 0
    return items


def _age(item: Item) -> float:
    return item.last_use.timestamp()


def _idle(item: Item) -> bool:
    return time.time() - item.last_use.timestamp() > HOUR


def _is_whole(name: str) -> bool:
    return not Path(name).name.startswith(".")


def _entries(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    kinds = [kind for kind in KINDS if (root / kind).is_dir() and not (root / kind).is_symlink()]
    loose = [
        path
        for kind, pattern in LOOSE.items()
        if kind in (".", *kinds)
        for path in (root / kind).iterdir()
        if re.fullmatch(pattern, path.name) and not path.is_symlink()
    ]
    if not kinds and not loose and any(root.iterdir()):
        raise ConfigError(
            f"{root} is no cache of graft's: it has none of {', '.join(KINDS)}.\n"
            "Set caches.folder to where output.cache or GRAFT_CACHE is."
        )
    return loose + [
        path
        for kind in kinds
        for path in (root / kind).iterdir()
        if _is_ours(kind, path.name) and not path.is_symlink()
    ]


def _is_ours(kind: str, name: str) -> bool:
    pattern = KINDS[kind]
    return bool(re.fullmatch(pattern, name) or re.fullmatch(SCRATCH.format(pattern), name))


def _entry(path: Path, root: Path, rule: CachesRule) -> Item:
    whole = _is_whole(path.name)
    item = Item(
        kind="cache",
        name=path.relative_to(root).as_posix(),
        size=look_at(path).size,
        last_use=_last_use(path),
        goes=True,
        why=f"not used for {rule.days:g} days" if whole else "left by a process that was killed",
    )
    age = days_since(item.last_use)
    if not whole and age < 1:
        return item.kept("being written, or left half a day ago")
    if whole and (age < rule.days or not _idle(item)):
        return item.kept(f"used in the last {max(rule.days, HOUR / DAY):.3g} days")
    return item if is_free(path) else item.kept("in use")


def _last_use(path: Path) -> datetime:
    """Return an entry's own time, which each use sets; of what is being written that of all in it.

    Raises ``FileNotFoundError``.
    """
    return moment(path.lstat().st_mtime) if _is_whole(path.name) else last_use(path)


def remove_cache(rule: CachesRule, item: Item) -> Item:
    """Remove the entry of ``item`` unless it was used meanwhile; raises ``ResourceError``."""
    return remove(cache_folder(rule.folder) / item.name, item, _last_use)
