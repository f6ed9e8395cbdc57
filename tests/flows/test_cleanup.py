"""``graft cleanup`` on a real registry, real run folders and a real cache."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

CONFIG = str(Path(__file__).parents[2] / "configs" / "cleanup.yaml")
EVERYTHING = ("runs.keep=0", "runs.days=0", "caches.days=0", "versions.keep=1", "versions.days=0")


@pytest.fixture
def scene(registry_copy: MlflowClient, workspace: Path, tmp_path: Path, once_more) -> Path:
    """Return a folder with runs and a cache that may be cleaned; the first run's is champion's."""
    for name in ("mlruns/runs", "cache/prepared"):
        shutil.copytree(workspace / name, tmp_path / name)
    old = next((tmp_path / "mlruns" / "runs").glob("small-*"))
    shutil.copytree(old, old.with_name("other-20200101-000000"))
    report = old.with_name("other-20200101-000000") / "report.json"
    report.write_text(json.dumps({"model_sha256": "0" * 64}))
    for entry in (tmp_path / "cache" / "prepared").iterdir():
        os.utime(entry, (time.time() - 86400,) * 2)
    for _ in range(2):
        once_more(registry_copy)
    registry_copy.delete_registered_model_alias("small", "challenger")
    return tmp_path


def places(scene: Path) -> tuple[str, ...]:
    return (f"runs.folder={scene}/mlruns/runs", f"caches.folder={scene}/cache")


def test_help_has_an_example(graft):
    result = graft("cleanup", "--help")
    assert result.code == 0
    assert "Example: graft cleanup" in result.out
    assert "--apply" in result.out


def test_it_shows_first_and_removes_only_if_told_to(graft, scene: Path, registry_copy):
    before = {path for path in scene.rglob("*") if path.name != "mlflow.db"}
    versions = {int(v.version) for v in registry_copy.search_model_versions("name='small'")}
    newest, doomed = max(versions), min(versions - {1})  # numbers are not given again
    shown = graft("cleanup", CONFIG, *EVERYTHING, *places(scene))
    assert shown.code == 0, shown.err
    assert "nothing is removed without --apply" in shown.out
    for words in (
        f"small/{doomed}",
        "other-20200101-000000",
        "alias champion",
        "among the newest 1",
    ):
        assert words in shown.out
    assert {path for path in scene.rglob("*") if path.name != "mlflow.db"} >= before

    result = graft("cleanup", CONFIG, *EVERYTHING, *places(scene), "--apply", "--json")
    assert result.code == 0, result.err
    done = json.loads(result.out)
    removed = {item["name"] for item in done["items"] if item["removed"]}
    assert {int(v.version) for v in registry_copy.search_model_versions("name='small'")} == {
        1,  # champion
        newest,
    }
    assert "other-20200101-000000" in removed
    assert not (scene / "mlruns" / "runs" / "other-20200101-000000").exists()
    assert list((scene / "cache" / "prepared").iterdir()) == []
    stays = {item["name"]: item["why"] for item in done["items"] if not item["goes"]}
    assert "came from it (alias champion)" in " ".join(stays.values())
    assert all((scene / "mlruns" / "runs" / name).is_dir() for name in stays if "small-" in name)
    again = json.loads(graft("cleanup", CONFIG, *EVERYTHING, *places(scene), "--json").out)
    assert not any(item["goes"] for item in again["items"])


@pytest.mark.usefixtures("scene")
def test_a_folder_that_is_not_grafts_ends_with_two_and_removes_nothing(graft, scene: Path):
    (scene / "letters" / "old").mkdir(parents=True)
    for part in ("runs.folder", "caches.folder"):
        given = (*EVERYTHING, *places(scene), f"{part}={scene}/letters", "--apply")
        result = graft("cleanup", CONFIG, *given)
        assert result.code == 2
        assert "of graft's" in result.message
        assert (scene / "letters" / "old").is_dir()
        assert (scene / "mlruns" / "runs" / "other-20200101-000000").is_dir()


def test_without_a_registry_nothing_goes(graft, scene: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{scene}/none.db")
    result = graft("cleanup", CONFIG, *EVERYTHING, *places(scene), "versions=null", "--apply")
    assert result.code == 7
    assert (scene / "mlruns" / "runs" / "other-20200101-000000").is_dir()
