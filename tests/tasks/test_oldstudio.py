"""The studio's folder: jobs whose weights and locks lie a level deeper, and uploads."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tasks.cleanupconfig import RunsRule, StudioRule
from tasks.errors import ConfigError
from tasks.oldruns import plan_runs, remove_run
from tasks.oldstudio import plan_studio, remove_of_studio
from tasks.studiojob import note_process
from tasks.use import in_use, lock_file

DAY = 86400
ENDED = 2**22 + 1  # above the greatest process number of Linux
SHAS = {number: str(number) * 64 for number in (1, 2, 3)}


def age(folder: Path, days: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)


def job(home: Path, number: int, days: float, upload: str, process: int = ENDED) -> Path:
    folder = home / "jobs" / f"photos-2026010{number}-120000"
    run = folder / "runs" / f"photos-2026010{number}-120001"
    run.mkdir(parents=True)
    path = home / "uploads" / upload / "images.zip"
    (folder / "config.yaml").write_text(f"data:\n  path: {path}\n")
    (run / "report.json").write_text(json.dumps({"model_sha256": SHAS[number]}))
    note_process(folder, process)
    age(folder, days)
    return folder


def upload(home: Path, name: str, days: float) -> str:
    folder = home / "uploads" / name
    folder.mkdir(parents=True)
    (folder / "images.zip").write_bytes(b"zip")
    age(folder, days)
    return name


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a studio with three jobs of as many uploads, all old."""
    for number in (1, 2, 3):
        name = upload(tmp_path, f"{number}" * 16 + ".zip", 90)
        job(tmp_path, number, 40 + number, name)
    return tmp_path


def nobody() -> dict[str, str]:
    return {}


def why(items) -> dict[str, str]:
    return {item.name: "goes" if item.goes else item.why for item in items}


def test_a_job_counts_by_the_runs_in_it(home: Path):
    rule = RunsRule(folder=home / "jobs", keep=0, days=0)
    needed = {SHAS[2]: "photos/2 came from it (alias champion)"}
    items = plan_runs(rule, needed)
    assert why(items) == {
        "photos-20260101-120000": "goes",
        "photos-20260102-120000": "photos/2 came from it (alias champion)",
        "photos-20260103-120000": "goes",
    }
    first = next(item for item in items if item.name == "photos-20260101-120000")
    kept = remove_run(rule, lambda: {SHAS[1]: "photos/1 came from it"}, first)
    assert kept.why == "photos/1 came from it, by now"
    assert remove_run(rule, nobody, first).removed


def test_a_job_that_runs_stays_whatever_the_rule(home: Path):
    rule = RunsRule(folder=home / "jobs", keep=0, days=0)
    planned = {item.name: item for item in plan_runs(rule, {})}
    folder = home / "jobs" / "photos-20260103-120000"
    note_process(folder, os.getpid())
    age(folder, 44)
    assert why(plan_runs(rule, {}))[folder.name] == "in use"
    assert remove_run(rule, nobody, planned[folder.name]).why == "in use"
    other = home / "jobs" / "photos-20260102-120000"
    (run,) = (other / "runs").iterdir()
    with in_use([run]):  # as another machine that shares the folder may have it
        age(other, 42)
        assert why(plan_runs(rule, {}))[other.name] == "in use"
    lock_file(run).touch()  # what a killed process leaves
    age(other, 42)
    assert why(plan_runs(rule, {}))[other.name] == "goes"
    assert folder.is_dir()
    assert other.is_dir()


def test_uploads_go_that_no_job_names_which_stays(home: Path):
    spare = upload(home, "a" * 16, 50)
    young = upload(home, "b" * 16 + ".tar.gz", 2)
    killed = upload(home, f".{'c' * 16}.zip.abcd_123", 50)
    other = upload(home, "letters", 90)
    rule = StudioRule(folder=home, keep=1, days=30)
    items = plan_studio(rule, {SHAS[2]: "photos/2 came from it"})
    told = why(items)
    assert told.keys() == {f"photos-2026010{n}-120000" for n in (1, 2, 3)} | {
        *(str(n) * 16 + ".zip" for n in (1, 2, 3)),
        spare,
        young,
        killed,
    }
    assert told[f"{'1' * 16}.zip"] == "the images of photos-20260101-120000"  # the newest
    assert told[f"{'2' * 16}.zip"] == "the images of photos-20260102-120000"
    assert told[young] == "younger than 30 days"
    going = [item for item in items if item.goes]
    assert {item.kind for item in going} == {"job", "upload"}
    assert all(remove_of_studio(rule, nobody, item).removed for item in going)
    left = {path.name for path in (home / "uploads").iterdir()}
    assert left == {f"{'1' * 16}.zip", f"{'2' * 16}.zip", young, other}
    assert len(list((home / "jobs").iterdir())) == 2


def test_an_upload_stays_that_a_job_names_by_now(home: Path):
    spare = upload(home, "a" * 16, 50)
    rule = StudioRule(folder=home, keep=3, days=30)
    (item,) = [item for item in plan_studio(rule, {}) if item.goes]
    (home / "jobs" / "photos-20260101-120000" / "config.yaml").write_text(f"path: x/{spare}/y\n")
    assert not remove_of_studio(rule, nobody, item).removed
    assert (home / "uploads" / spare).is_dir()
    hasty = StudioRule(folder=home, keep=0, days=0)
    fresh = upload(home, "d" * 16, 0)
    assert not next(i for i in plan_studio(hasty, {}) if i.name == fresh).goes


def test_no_studio_is_nothing_to_do_and_its_folder_is_no_folder_of_runs(home: Path):
    assert plan_studio(StudioRule(folder=home / "none"), {}) == []
    with pytest.raises(ConfigError, match="holds no run folder"):
        plan_runs(RunsRule(folder=home), {})
