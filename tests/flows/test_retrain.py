"""Retraining: idle where nothing changed, and two starts of which validation chooses one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from flows.retrain import _reason as reason
from tasks.work import Precedent

FULL = ("strategy.kind=full", "model.weights=graft:tiny-cifar10", "output.folder=again")
SPEED = ("evaluation.latency_runs=0", "evaluation.explained_images=0", "evaluation.bootstrap=50")


@pytest.fixture(scope="module")
def split_images(home: Path, images: Callable[..., Path]) -> Path:
    """Return a folder of images with declared splits: what is added changes no test image."""
    for seed, (split, n) in enumerate({"train": 12, "val": 8, "test": 10}.items(), start=50):
        images(home / "split" / split, n, seed)
    return home / "split"


@pytest.fixture
def retrain(workspace: Path, graft, split_images: Path, request) -> Iterator[Callable[..., dict]]:
    """Return ``graft retrain`` of a model of this test's own, which must end well."""
    model = request.node.name[:60].replace("[", "-").replace("]", "")
    folder = workspace / f"data-{model}"
    shutil.copytree(split_images, folder)

    def call(*arguments: str) -> dict:
        given = (f"data.path={folder}", f"promotion.model={model}", *FULL, *SPEED)
        result = graft("retrain", "good.yaml", *given, *arguments, "--json")
        assert result.code == 0, result.err
        assert "Traceback" not in result.err
        return json.loads(result.out) | {"err": result.err}

    call.model, call.folder = model, folder  # type: ignore[attr-defined]
    yield call
    shutil.rmtree(workspace / "again", ignore_errors=True)


def store() -> MlflowClient:
    from tasks.register.client import connect

    return connect(create=False)


def runs() -> list[Run]:
    client = store()
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments))


def versions(model: str) -> list[int]:
    found = store().search_model_versions(f"name='{model}'")
    return sorted(int(version.version) for version in found)


def test_help_has_an_example(graft):
    result = graft("retrain", "--help")
    assert result.code == 0
    assert "Example: graft retrain" in result.out
    assert "--json" in result.out


def test_it_trains_when_something_changed_and_only_then(retrain, images, tmp_path):
    first = retrain()
    assert first["retrain"]["reason"].startswith(f"no version of {retrain.model} says")
    assert first["retrain"]["start"] == "original"
    assert first["retrain"]["notes"] == [
        "There is no champion yet. Starting from the original weights."
    ]
    assert first["decision"]["promoted"] is True
    before = len(runs())

    # neither names nor folders nor threads are a change, and nothing is opened or trained
    for change in ((), ("name=other", "tracking.experiment=x", f"output.folder={tmp_path}")):
        idle = retrain(*change)
        assert idle["retrain"]["trained"] is False
        assert idle["retrain"]["reason"] == (
            f"data, config and code are unchanged since version 1 of {retrain.model}: nothing to do"
        )
        assert idle["retrain"]["precedent"]["version"] == 1
        assert "decision" not in idle
        assert len(idle["err"].splitlines()) == 2  # download, and why nothing is done
    moved = retrain.folder.with_name("moved-images")
    shutil.copytree(retrain.folder, moved)
    assert retrain(f"data.path={moved}")["retrain"]["trained"] is False
    assert (len(runs()), versions(retrain.model)) == (before, [1])
    assert list(tmp_path.iterdir()) == []

    images(retrain.folder / "train", 14, seed=7)
    changed = retrain("--start", "original")
    assert changed["retrain"]["reason"] == (
        f"data changed since version 1 of {retrain.model}: training"
    )
    assert changed["decision"]["version"] == 2
    assert changed["decision"]["promoted"] is False
    # a refused challenger counts as well: the same champion would refuse the same work again
    assert retrain("--start", "original")["retrain"]["precedent"]["version"] == 2
    assert versions(retrain.model) == [1, 2]

    # from the champion nothing was trained yet
    forced = retrain("--force", "--start", "champion")
    assert forced["retrain"]["reason"] == (
        f"start changed since version 2 of {retrain.model}: training"
    )
    assert forced["retrain"]["precedent"]["version"] == 2
    assert forced["retrain"]["start"] == "champion"
    tags = store().get_model_version(retrain.model, "3").tags
    champion = store().get_model_version(retrain.model, "1").tags
    assert tags["graft.backbone_sha256"] == champion["graft.sha256"]
    config = store().get_model_version(retrain.model, "2").tags["graft.work.config"]
    assert tags["graft.work.config"] == config  # the recipe's, whichever start it had


def test_what_is_forced_says_so():
    same = Precedent(version=2, changed=())
    assert reason("x", same, idle=False).endswith("since version 2 of x: training, as forced")


def test_validation_chooses_the_start_and_one_alone_is_registered(retrain):
    retrain("training.epochs=3")
    before = {run.info.run_id for run in runs()}
    # a rate at which nothing is learned: the new head of the original weights stays at chance
    result = retrain("training.learning_rate=1e-9")
    choice = result["retrain"]["choice"]
    assert result["retrain"]["reason"].startswith("config changed since version 1")
    assert result["retrain"]["start"] == choice["start"] == "champion"
    assert choice["from_champion"] > choice["from_original"]
    assert choice["n"] == 16
    assert choice["wins"] - choice["losses"] == round(choice["gain"] * choice["n"])
    assert "the start from the champion is better: accuracy" in result["err"]
    assert versions(retrain.model) == [1, 2]
    made = {run.data.tags["graft.start"]: run for run in runs() if run.info.run_id not in before}
    assert set(made) == {"original", "champion"}
    assert all(run.info.status == "FINISHED" for run in made.values())
    assert "test_accuracy" in made["champion"].data.metrics
    assert "test_accuracy" not in made["original"].data.metrics  # the test set was not opened
    assert "accuracy" in made["original"].data.tags["graft.set_aside"]
    assert result["decision"]["run_id"] == made["champion"].info.run_id
    folders = sorted(path.name for path in Path("again").iterdir())
    assert len(folders) == 2  # the first run's, and the chosen one's


def test_a_champion_of_other_classes_is_passed_over_and_that_is_said(retrain):
    retrain()
    for split in ("train", "val", "test"):
        (retrain.folder / split / "red").rename(retrain.folder / split / "crimson")
    result = retrain("--start", "champion")["retrain"]
    assert "The labels are not those of the champion" in result["notes"][0]
    assert "(only here crimson; only there red)" in result["notes"][0]
    assert result["start"] == "original"


def test_an_error_leaves_no_folder_and_no_version(retrain, monkeypatch):
    retrain("training.epochs=2")

    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("flows.retrain.choose_start", broken)
    with pytest.raises(AssertionError, match="Memory ran out"):
        retrain()
    assert versions(retrain.model) == [1]
    assert len(list(Path("again").iterdir())) == 1
    statuses = [run.info.status for run in runs()][:2]
    assert statuses == ["FAILED", "FAILED"]
