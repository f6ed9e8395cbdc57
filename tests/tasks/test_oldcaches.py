"""Old cache entries: by age, by size, and never what is in use or not graft's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tasks.cleanupconfig import CachesRule
from tasks.errors import ConfigError
from tasks.oldcaches import plan_caches, remove_cache
from tasks.use import in_use

DAY = 86400
PACK = "a" * 64


def make(root: Path, name: str, days: float, size: int = 1000) -> Path:
    path = root / name
    if "." in path.name and not path.name.startswith("."):  # a download is a file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    else:
        path.mkdir(parents=True)
        (path / "images.u8").write_bytes(bytes(size))
        os.utime(path / "images.u8", (time.time() - days * DAY,) * 2)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def plan(root: Path, **rule: object) -> dict[str, tuple[bool, str]]:
    items = plan_caches(CachesRule(folder=root, **rule))
    return {item.name: (item.goes, item.why) for item in items}


def test_what_was_not_used_for_long_goes_whichever_kind_it_is(tmp_path: Path):
    names = [f"{kind}/{PACK}" for kind in ("archives", "features", "models", "prepared", "raw")]
    names += [
        "builtin/digits-0f3a",
        f"downloads/{PACK}.zip",
        "downloads/timm-a.b-0123456789abcdef.safetensors",
    ]
    for name in names:
        make(tmp_path, name, 31)
    make(tmp_path, f"prepared/{'b' * 64}", 29)
    assert plan(tmp_path) == {
        **dict.fromkeys(names, (True, "not used for 30 days")),
        f"prepared/{'b' * 64}": (False, "used in the last 30 days"),
    }
    rule = CachesRule(folder=tmp_path)
    items = plan_caches(rule)
    assert {item.size - 1000 for item in items if item.name.startswith("downloads")} == {0}
    assert all(remove_cache(rule, item).removed for item in items if item.goes)
    left = [path for kind in tmp_path.iterdir() for path in kind.iterdir()]
    assert left == [tmp_path / "prepared" / ("b" * 64)]


def test_of_the_rest_the_longest_unused_goes_down_to_the_size(tmp_path: Path):
    for number in range(5):
        make(tmp_path, f"prepared/{number}{PACK[1:]}", 10 - number, 1_000_000)
    each = plan_caches(CachesRule(folder=tmp_path))[0].size
    found = plan(tmp_path, gigabytes=2.5 * each / 1e9)
    assert [goes for goes, _ in found.values()] == [True, True, True, False, False]
    assert {why for goes, why in found.values() if goes} == {
        f"unused longest, of over {2.5 * each / 1e9:g} GB"
    }
    assert not any(goes for goes, _ in plan(tmp_path, gigabytes=None).values())


def test_what_is_in_use_or_was_just_now_stays_however_little_room_there_is(tmp_path: Path):
    busy = make(tmp_path, f"prepared/{PACK}", 50)
    make(tmp_path, f"prepared/{'b' * 64}", 0.01)
    free = make(tmp_path, f"prepared/{'c' * 64}", 50)
    rule = CachesRule(folder=tmp_path, days=0, gigabytes=0)
    with in_use([busy]):
        os.utime(busy, (time.time() - 50 * DAY,) * 2)
        found = plan(tmp_path, days=0, gigabytes=0)
        assert found[f"prepared/{PACK}"] == (False, "in use")
        assert found[f"prepared/{'b' * 64}"][0] is False
        assert found[f"prepared/{'c' * 64}"][0] is True
    item = next(i for i in plan_caches(rule) if i.name.endswith("c" * 64))
    with in_use([free]):
        assert remove_cache(rule, item).why == "in use"
    assert remove_cache(rule, item).why == "used meanwhile"
    assert free.is_dir()


def test_half_written_entries_go_after_a_day(tmp_path: Path):
    old = make(tmp_path, f"prepared/.{PACK}.abcd1234", 3)
    new = make(tmp_path, f"prepared/.{PACK}.abcd1235", 3)
    (new / "images.u8").write_bytes(b"still being written")
    found = plan(tmp_path, days=365)
    assert found[f"prepared/{old.name}"] == (True, "left by a process that was killed")
    assert found[f"prepared/{new.name}"][0] is False


def test_what_graft_does_not_name_so_and_links_are_left_alone(tmp_path: Path):
    home, treasure = tmp_path / "home", tmp_path / "treasure"
    make(tmp_path, "treasure", 900)
    for name in (
        "downloads/holiday.zip",
        "models/my model",
        "raw/notes",
        "downloads/deadbeef.txt.exe ",
    ):
        make(home, name, 900)
    (home / "prepared").mkdir()
    (home / "prepared" / PACK).symlink_to(treasure)
    inside = make(home, f"prepared/{'b' * 64}", 900)
    (inside / "link").symlink_to(treasure)
    os.utime(inside, (0, 0))
    (home / "features").symlink_to(treasure)
    rule = CachesRule(folder=home, days=0, gigabytes=0)
    (item,) = plan_caches(rule)
    assert remove_cache(rule, item).removed
    assert not inside.exists()
    assert (treasure / "images.u8").is_file()
    assert (home / "downloads" / "holiday.zip").is_file()


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path):
    assert plan(tmp_path / "none") == {}
    assert plan(tmp_path) == {}
    (tmp_path / "letters").mkdir()
    with pytest.raises(ConfigError, match="is no cache of graft's"):
        plan(tmp_path)


def test_what_a_killed_monitor_left_goes_after_a_day(tmp_path: Path):
    old = [make(tmp_path, name, 2) for name in (".watch-ab_cd123", ".export-abcdefgh")]
    old.append(make(tmp_path, "models/.version-abcdefgh", 2))
    make(tmp_path, ".watch-87654321", 0.5)
    busy = make(tmp_path, ".watch-12345678", 2)
    with in_use([busy]):
        os.utime(busy, (time.time() - 2 * DAY,) * 2)
        found = plan(tmp_path)
        assert found.pop(busy.name) == (False, "in use")
    assert found.pop(".watch-87654321")[0] is False
    assert found == dict.fromkeys(
        (path.relative_to(tmp_path).as_posix() for path in old),
        (True, "left by a process that was killed"),
    )
    rule = CachesRule(folder=tmp_path)
    assert (
        sum(remove_cache(rule, item).removed for item in plan_caches(rule) if item.goes) == 3
    )  # just used
    assert {path.name for path in tmp_path.iterdir()} == {
        "models",
        busy.name,
        ".watch-87654321",
    }
