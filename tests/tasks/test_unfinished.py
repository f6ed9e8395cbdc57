"""What an unfinished run folder gives back, when it stays, and what is not gone on from."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks import unfinished
from tasks.artifacts import sha256_bytes
from tasks.errors import ConfigError, DivergedError, ResourceError, TrainingError
from tasks.finetune.progress import EpochRecord
from tasks.unfinished import FOLDER, Begun, Place, left_tidy, write_begun
from tasks.values import EvaluationReport, FineTunedModel, InputSpec

BEGUN = Begun(token="t", config="0" * 64, code="0" * 64, shown={})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a place with a trained model in it."""
    folder = tmp_path / "run"
    write_begun(folder, BEGUN)
    place = Place(folder, BEGUN, resumed=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "history.jsonl").write_text("")
    place.keep_model(model_in(folder))
    return place


def model_in(folder: Path, /, **changes: object) -> FineTunedModel:
    spec = InputSpec(
        resize=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear"
    )  # fmt: skip
    values = {
        "folder": folder,
        "weights": folder / "model.safetensors", "sha256": sha256_bytes(b"weights"),
        "architecture": "graft_tiny", "classes": ("a", "b"), "input": spec, "strategy": "full",
        "history": folder / "history.jsonl", "epochs": 1, "chosen_epoch": 1, "val_accuracy": 0.5,
        "val_loss": 0.5, "trainable_parameters": 1, "parameters": 1, "device": "cpu",
        "precision": "float32", "seconds": 1.0, "images_per_second": 1.0, "data_digest": "0" * 64,
        "backbone_sha256": None,
    }  # fmt: skip
    return FineTunedModel.model_validate(values | changes)


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (ConfigError("another device"), True),
        (ResourceError("no GPU"), True),
        (OSError("for a moment"), True),
        (KeyboardInterrupt(), True),
        (DivergedError("the loss is no number"), False),
    ],
)
def test_what_was_trained_stays_whatever_holds_the_run_up(place: Place, error, stays: bool):
    with pytest.raises(type(error)), left_tidy(place.folder):
        raise error
    assert place.folder.exists() == stays


def test_a_folder_without_an_epoch_goes(place: Place):
    (place.inner / "model.json").unlink()
    with pytest.raises(ResourceError), left_tidy(place.folder):
        raise ResourceError("no GPU")
    assert not place.folder.exists()


def test_a_folder_that_is_gone_already_hides_no_error(tmp_path: Path):
    with pytest.raises(ResourceError), left_tidy(tmp_path / "gone"):
        raise ResourceError("no GPU")


def refused(look) -> str:
    with pytest.raises(TrainingError) as caught:
        look()
    problem, advice = str(caught.value).splitlines()
    assert advice == "Run again without --resume."
    return problem


def test_a_model_is_given_back_as_it_was(place: Place):
    assert place.trained
    assert place.model() == model_in(place.folder)


@pytest.mark.parametrize("name", ["weights", "history", "folder"])
def test_files_out_of_the_folder_are_refused(place: Place, tmp_path: Path, name: str):
    """They would be removed on an error, or sent to MLflow."""
    (tmp_path / "precious").mkdir()
    place.keep_model(model_in(place.folder, **{name: tmp_path / "precious"}))
    assert refused(place.model).startswith(f"{place.inner / 'model.json'} cannot be gone on from")
    assert f"not in {place.folder}" in refused(place.model)
    place.keep_model(model_in(place.folder, **{name: place.folder / ".." / "precious"}))
    assert f"not in {place.folder}" in refused(place.model)


def test_what_cannot_be_read_is_said_in_two_lines(place: Place):
    for content in (b"{", b"[]", b"\xff"):
        (place.inner / "model.json").write_bytes(content)
        assert f"{place.inner / 'model.json'} cannot be gone on from: " in refused(place.model)
        assert "None" not in refused(place.model)
        (place.inner / "report.json").write_bytes(content)
        assert "report.json cannot be gone on from" in refused(place.report)
        (place.folder / "history.jsonl").write_bytes(content + b"\n")
        assert "history.jsonl cannot be gone on from" in refused(place.records)
        assert "None" not in refused(place.records)


def test_weights_that_are_others_or_gone_are_refused(place: Place):
    (place.folder / "model.safetensors").write_bytes(b"others")
    start = f"{place.folder / 'model.safetensors'} cannot be gone on from: "
    assert refused(place.model) == f"{start}it is not what training wrote."
    (place.folder / "model.safetensors").unlink()
    assert refused(place.model).startswith(f"{start}[Errno 2] No such file")
    assert (place.folder / FOLDER).is_dir()


def test_a_trained_model_needs_no_checkpoint_and_says_which_epoch_is_kept(place: Place, caplog):
    for name in ("checkpoint.json", "checkpoint-0.safetensors"):
        (place.inner / name).touch()
    place.keep_model(model_in(place.folder, chosen_epoch=3, epochs=4))
    assert sorted(path.name for path in place.inner.iterdir()) == ["begun.json", "model.json"]
    with caplog.at_level(logging.INFO, "tasks.unfinished"):
        assert place.model().chosen_epoch == 3
    (record,) = caplog.records
    assert record.message == "the training was over: epoch 3 is kept"
    assert (record.name, record.room) == ("tasks.unfinished", "finetune")


def test_nothing_is_given_back_where_nothing_was_kept(tmp_path: Path):
    place = Place(tmp_path, BEGUN, resumed=True)
    assert not place.trained
    assert place.model() is None
    assert place.report() is None


def report_in(folder: Path, /, **changes: object) -> EvaluationReport:
    values = {
        "folder": folder, "model_sha256": "0" * 64, "test_digest": "0" * 64, "n": 1,
        "accuracy": 1.0, "accuracy_low": 0.2, "accuracy_high": 1.0, "balanced_accuracy": 1.0,
        "macro_f1": 1.0, "log_loss": 0.1, "top5_accuracy": None, "classes": (),
        "confusion": ((1,),), "predictions": folder / "predictions.parquet",
        "report": folder / "report.json", "seconds": 1.0, "images_per_second": 1.0,
    }  # fmt: skip
    return EvaluationReport.model_validate(values | changes)


def test_a_report_is_given_back_as_it_was_unless_it_is_of_another_folder(place: Place):
    place.keep_report(report_in(place.folder))
    assert (place.inner / "report.json").is_file()
    assert place.report() == report_in(place.folder)
    place.keep_report(report_in(place.folder, folder=place.folder / "within"))
    assert refused(place.report) == (
        f"{place.inner / 'report.json'} cannot be gone on from: it is of files that are not in "
        f"{place.folder}."
    )


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="resolve() follows them no more")
def test_links_in_a_circle_are_refused(place: Place):
    (place.folder / "a").symlink_to("b")
    (place.folder / "b").symlink_to("a")
    place.keep_report(report_in(place.folder, predictions=place.folder / "a"))
    assert "report.json cannot be gone on from: " in refused(place.report)


def test_the_epochs_are_those_of_the_history(place: Place):
    records = [EpochRecord(n, 3, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0) for n in (1, 2)]
    lines = [json.dumps(asdict(record)) + "\n" for record in records]
    (place.folder / "history.jsonl").write_text("".join(lines))
    assert place.records() == records
    (place.folder / "history.jsonl").unlink()
    assert "history.jsonl cannot be gone on from" in refused(place.records)


def test_a_reason_is_of_one_line_and_not_long():
    advice = "Run again without --resume."
    for why, words in (
        ("a  b\nc..", "a b c"),
        ("X" * 300, "X" * 200),
        ("X" * 199 + ".X", "X" * 199),
    ):
        message = f"file cannot be gone on from: {words}.\n{advice}"
        assert str(unfinished._unusable(Path("file"), why)) == message
