"""What an unfinished run folder holds: when it stays, and what is not gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import sha256_bytes
from tasks.errors import ConfigError, DivergedError, ResourceError, TrainingError
from tasks.unfinished import FOLDER, Begun, Place, left_tidy, write_begun
from tasks.values import FineTunedModel, InputSpec

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


def refused(look) -> str:
    with pytest.raises(TrainingError) as caught:
        look()
    problem, advice = str(caught.value).splitlines()
    assert advice == "Run again without --resume."
    return problem


def test_a_model_is_given_back_as_it_was(place: Place):
    assert place.model() == model_in(place.folder)


@pytest.mark.parametrize("name", ["weights", "history", "folder"])
def test_files_out_of_the_folder_are_refused(place: Place, tmp_path: Path, name: str):
    """They would be removed on an error, or sent to MLflow."""
    (tmp_path / "precious").mkdir()
    place.keep_model(model_in(place.folder, **{name: tmp_path / "precious"}))
    assert f"not in {place.folder}" in refused(place.model)
    place.keep_model(model_in(place.folder, **{name: place.folder / ".." / "precious"}))
    assert f"not in {place.folder}" in refused(place.model)


def test_what_cannot_be_read_is_said_in_two_lines(place: Place):
    for content in (b"{", b"[]", b"\xff"):
        (place.inner / "model.json").write_bytes(content)
        assert "model.json cannot be gone on from" in refused(place.model)
        (place.inner / "report.json").write_bytes(content)
        assert "report.json cannot be gone on from" in refused(place.report)
        (place.folder / "history.jsonl").write_bytes(content + b"\n")
        assert "history.jsonl cannot be gone on from" in refused(place.records)


def test_weights_that_are_others_or_gone_are_refused(place: Place):
    (place.folder / "model.safetensors").write_bytes(b"others")
    assert "not what training wrote" in refused(place.model)
    (place.folder / "model.safetensors").unlink()
    assert "No such file" in refused(place.model)
    assert (place.folder / FOLDER).is_dir()
