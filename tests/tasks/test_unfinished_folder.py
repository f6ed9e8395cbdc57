"""What the folder of an unfinished run notes, how far it has come, and what is swept from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.unfinished import (
    BEGUN as BEGUN_FILE,
)
from tasks.unfinished import (
    CHECKPOINT,
    FOLDER,
    LOCK,
    MODEL,
    REPORT,
    Begun,
    Place,
    can_go_on,
    is_unfinished,
    remove_rest,
    sweep,
    write_begun,
)
from tasks.values import InputSpec, RegisteredModel
from tasks.work import Work

BEGUN = Begun(token="t", config="0" * 64, code="0" * 64, shown={})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "run"
    write_begun(folder, BEGUN)
    (folder / "model.safetensors").touch()
    (folder / FOLDER / MODEL).touch()
    return Place(folder, BEGUN, resumed=True)


WORK = Work(data="1" * 64, config="2" * 64, code="3" * 64)


def test_what_an_older_graft_has_left_is_found_by_its_names():
    names = (".unfinished", "begun.json", "model.json", "report.json", "lock", "checkpoint")
    assert names == (FOLDER, BEGUN_FILE, MODEL, REPORT, LOCK, CHECKPOINT)
    assert Place(Path("run"), BEGUN, True).metrics == Path("run/.unfinished/metrics.jsonl")
    assert BEGUN.since == 0  # it did not note since when: others are newer


def version(name: str) -> RegisteredModel:
    spec = InputSpec(resize=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
    return RegisteredModel(
        uri=f"models:/{name}/7", name=name, version=7, architecture="graft_tiny",
        classes=("a", "b"), input=spec, weights=Path("w"), sha256="0" * 64,
    )  # fmt: skip


def written(folder: Path) -> Begun:
    return Begun.model_validate_json((folder / ".unfinished" / "begun.json").read_bytes())


def test_what_a_run_comes_from_is_noted_once_and_held_to(place: Place):
    assert (BEGUN.work, BEGUN.weights, BEGUN.teacher) == (None, None, None)
    place.agree(WORK, version("start"), None)
    noted = BEGUN.model_copy(update={"work": WORK, "weights": "models:/start/7"})
    assert place.begun == written(place.folder) == noted
    place.agree(WORK, None, version("teacher"))  # the same work: what was noted stays
    assert place.begun == written(place.folder) == noted
    other = WORK.model_copy(update={"asked": "both", "champion": "4" * 64})
    place.agree(other, None, None)  # of what a retraining tries, nothing decides the weights


@pytest.mark.parametrize(
    ("part", "named"), [("data", "images"), ("config", "config or weights"), ("code", "code")]
)
def test_a_run_of_other_work_is_not_gone_on_from(place: Place, part: str, named: str):
    place.agree(WORK, None, version("teacher"))
    assert place.begun.teacher == "models:/teacher/7"
    with pytest.raises(ConfigError) as caught:
        place.agree(WORK.model_copy(update={part: "9" * 64}), None, None)
    assert str(caught.value) == (
        f"{place.folder} was begun with other {named} than there are now.\n"
        "Put them back as they were, or run without --resume."
    )
    assert place.begun.work == WORK


def test_a_run_is_unfinished_until_it_says_otherwise(place: Place, caplog):
    assert is_unfinished(place.folder)
    assert can_go_on(place.folder)
    place.finish()
    assert not is_unfinished(place.folder)
    assert not can_go_on(place.folder)  # its model is there, and it is done
    place.finish()
    (record,) = caplog.records
    start = "the run is done, but its folder still says that it is not: [Errno 2] No such file"
    assert record.message.startswith(start)


@pytest.mark.parametrize(
    ("name", "far"),
    [("checkpoint.json", True), ("model.json", True), ("report.json", False), (None, False)],
)
def test_a_run_goes_on_from_a_checkpoint_or_a_model(tmp_path: Path, name, far: bool):
    write_begun(tmp_path, BEGUN)
    if name is not None:
        (tmp_path / ".unfinished" / name).touch()
    assert can_go_on(tmp_path) == far


def test_what_was_half_written_is_swept_and_nothing_else(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    run = tmp_path / "run"
    write_begun(run, BEGUN)
    (run / "model.safetensors").touch()
    (run / "explained").mkdir()
    for half in (run / ".page.x1", run / FOLDER / ".model.json.x2", run / "explained" / ".a.x3"):
        half.touch()
    (run / ".explained.x4" / "inner").mkdir(parents=True)
    (run / ".explained.x4" / "inner" / ".b.x5").touch()  # goes with the folder that it is in
    (run / ".to").symlink_to(elsewhere)
    (run / ".nowhere").symlink_to("nothing")
    sweep(run)
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*")) == [
        ".unfinished",
        ".unfinished/begun.json",
        "explained",
        "model.safetensors",
    ]
    assert (elsewhere / "kept").exists()


def test_the_rest_goes_and_what_cannot_is_said(place: Place, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        remove_rest(place.folder)
    assert f"{place.inner} could not be removed" in caplog.text
    caplog.clear()
    remove_rest(place.folder)
    remove_rest(place.folder)  # gone already: no error, nothing to say
    assert caplog.text == ""
    assert sorted(path.name for path in place.folder.iterdir()) == ["model.safetensors"]
