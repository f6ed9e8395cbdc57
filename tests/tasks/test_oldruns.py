"""Old run folders: which go, and that nothing else is ever touched."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tasks.cleanupconfig import RunsRule
from tasks.errors import ConfigError
from tasks.oldruns import plan_runs, remove_run
from tasks.use import in_use

DAY = 86400


def make(root: Path, name: str, days: float, weights: str = "") -> Path:
    folder = root / name
    (folder / "explained").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "explained" / "a.png").write_bytes(b"12345")
    if weights:
        (folder / "report.json").write_text(json.dumps({"model_sha256": weights}))
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with five runs of 1 to 50 days, and some more things."""
    root = tmp_path / "runs"
    for number, days in enumerate((1, 20, 30, 40, 50)):
        make(root, f"digits-2026010{number}-120000", days, str(number) * 64)
    return root


def gone(items) -> list[str]:
    return [item.name for item in items if item.goes]


def why(items) -> list[str]:
    return [item.why for item in items]


def nobody() -> dict[str, str]:
    return {}


def test_the_newest_the_young_and_the_needed_stay(runs: Path):
    rule = RunsRule(folder=runs, keep=1, days=25)
    items = plan_runs(rule, {"3" * 64: "digits/2 came from it (alias champion)"})
    assert why(items) == [
        "among the newest 1",
        "younger than 25 days",
        "older than 25 days",
        "digits/2 came from it (alias champion)",
        "older than 25 days",
    ]
    size = len("name: x\n") + 5 + len(json.dumps({"model_sha256": "2" * 64}))
    assert items[2].size - (runs / "digits-20260102-120000" / "explained").stat().st_size == size
    removed = [remove_run(rule, nobody, item) for item in items if item.goes]
    assert all(item.removed for item in removed)
    left = {path.name for path in runs.iterdir()}
    assert left == {f"digits-2026010{n}-120000" for n in (0, 1, 3)}


def test_a_run_that_was_broken_off_takes_no_finished_ones_place(runs: Path):
    for name, days in (("young-20260101-000000", 0.5), ("old-20260101-000000", 8.0)):
        folder = make(runs, name, days)
        (folder / ".unfinished").mkdir()
        (folder / ".unfinished" / "begun.json").write_text("{}")
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (time.time() - days * DAY,) * 2)
    rule = RunsRule(folder=runs, keep=1, days=25)
    told = {item.name: (item.goes, item.why) for item in plan_runs(rule, {})}
    assert told["young-20260101-000000"] == (False, "broken off, and younger than 7 days")
    assert told["old-20260101-000000"] == (True, "broken off and older than 7 days")
    assert told["digits-20260100-120000"] == (False, "among the newest 1")
    with in_use([runs / "young-20260101-000000"]):
        busy = next(item for item in plan_runs(rule, {}) if item.name.startswith("young"))
    assert busy.why == "in use"


def test_a_change_deep_inside_makes_a_folder_young(runs: Path):
    (runs / "digits-20260104-120000" / "explained" / "a.png").write_bytes(b"new")
    items = plan_runs(RunsRule(folder=runs, keep=0, days=25), {})
    assert "digits-20260104-120000" not in gone(items)


def test_a_run_in_progress_stays_whatever_its_age(runs: Path):
    rule = RunsRule(folder=runs, keep=0, days=0)
    busy = runs / "digits-20260103-120000"
    planned = {item.name: item for item in plan_runs(rule, {})}
    with in_use([busy]):
        os.utime(busy, (time.time() - 60 * DAY,) * 2)
        items = {item.name: item for item in plan_runs(rule, {})}
        assert items[busy.name].why == "in use"
        kept = remove_run(rule, nobody, planned[busy.name])
        assert (kept.removed, kept.why) == (False, "in use")
    assert busy.is_dir()


def test_what_is_used_or_needed_after_the_plan_stays(runs: Path):
    rule = RunsRule(folder=runs, keep=0, days=5)
    used, needed, lost, *_ = [item for item in plan_runs(rule, {}) if item.goes]
    (runs / used.name / "explained" / "b.png").write_bytes(b"new")
    assert remove_run(rule, nobody, used).why == "used meanwhile"
    sha256 = json.loads((runs / needed.name / "report.json").read_text())["model_sha256"]
    kept = remove_run(rule, lambda: {sha256: "digits/2 came from it"}, needed)
    assert kept.why == "digits/2 came from it, by now"
    (runs / lost.name).rename(runs / "elsewhere")
    assert remove_run(rule, nobody, lost).why == "gone meanwhile"
    assert {path.name for path in runs.iterdir()} >= {used.name, needed.name, "elsewhere"}


def test_links_and_other_folders_are_left_alone(runs: Path, tmp_path: Path):
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "config.yaml").write_text("precious")
    (runs / "digits-20250101-000000").symlink_to(treasure)
    inside = runs / "digits-20260104-120000" / "link"
    inside.symlink_to(treasure)
    make(runs, "my notes", 900)
    make(runs, "comparison/cells/one-20200101-000000", 900)
    (runs / "empty-20200101-000000").mkdir()
    items = plan_runs(RunsRule(folder=runs, keep=0, days=0), {})
    assert len(items) == 5
    for item in items:
        assert remove_run(RunsRule(folder=runs), nobody, item).removed
    left = {path.name for path in runs.iterdir()}
    assert left == {"digits-20250101-000000", "my notes", "comparison", "empty-20200101-000000"}
    assert (treasure / "config.yaml").read_text() == "precious"


@pytest.mark.parametrize("mark", ["drift.json", "reevaluation.json"])
def test_a_machine_that_only_monitors_is_cleaned(tmp_path: Path, mark: str):
    for number in (1, 2):
        folder = make(tmp_path / "runs", f"watch-monitor-2026010{number}-120000", 40 + number)
        (folder / "config.yaml").rename(folder / mark)
    rule = RunsRule(folder=tmp_path / "runs", keep=1, days=0)
    removed = [remove_run(rule, nobody, item) for item in plan_runs(rule, {}) if item.goes]
    assert [item.removed for item in removed] == [True]


def test_a_folder_that_is_not_grafts_is_refused(tmp_path: Path):
    rule = RunsRule(folder=tmp_path / "home", keep=0, days=0)
    assert plan_runs(rule, {}) == []
    (tmp_path / "home").mkdir()
    assert plan_runs(rule, {}) == []
    (tmp_path / "home" / "letters").mkdir()
    with pytest.raises(ConfigError, match="holds no run folder of graft's"):
        plan_runs(rule, {})
