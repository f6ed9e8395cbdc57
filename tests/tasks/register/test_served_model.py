"""The script that travels with a model, here as a module; test_packaging.py has MLflow load it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from tasks.errors import DataError, WeightsError
from tasks.register.files import FILES_FILE
from tasks.register.served_model import SERVE_PATHS, SERVING, ServedModel, images_of

PICTURE = Path(__file__).parents[3] / "docs" / "prefect_run.png"


def context(folder: Path) -> SimpleNamespace:
    """Return what MLflow gives of a model's folder."""
    files = folder / "artifacts"
    paths = {"spec": str(files / "spec.json"), "weights": str(files / "model.safetensors")}
    return SimpleNamespace(artifacts=paths)


def test_bytes_and_paths_are_images():
    kinds = [b"a", bytearray(b"a"), memoryview(b"a")]
    for name in ("image", "path", 0):
        assert images_of(pd.DataFrame({name: kinds})) == [b"a"] * 3
        assert images_of(pd.DataFrame({name: ["a.png", Path("b.png")], "more": 1})) == [
            Path("a.png"),
            Path("b.png"),
        ]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"picture": [b"a"]}), "The first column is 'picture': it must be image"),
        (pd.DataFrame({"image": [b"a", 3]}), "Row 1 is neither an image's bytes nor a path: int"),
    ],
)
def test_other_columns_and_values_are_told(frame, words):
    with pytest.raises(DataError, match=words):
        images_of(frame)


def test_a_server_reads_no_path_unless_it_is_allowed(monkeypatch):
    paths, contents = pd.DataFrame({"path": ["a.png"]}), pd.DataFrame({"image": [b"a"]})
    monkeypatch.delenv(SERVE_PATHS, raising=False)
    with monkeypatch.context() as mlflows:
        mlflows.setenv(SERVING, "true")
        with pytest.raises(DataError, match="Row 0 is a path, and a server reads none"):
            images_of(paths)
        assert images_of(contents) == [b"a"]
    assert images_of(paths) == [Path("a.png")]
    monkeypatch.setitem(sys.modules, "mlserver", sys)
    with pytest.raises(DataError, match=f"or set {SERVE_PATHS}=1 on the server"):
        images_of(paths)
    monkeypatch.setenv(SERVE_PATHS, "1")
    assert images_of(paths) == [Path("a.png")]


def test_a_model_in_its_folder_answers_as_mlflow_has_it_answer(tiny_models):
    folder, model = tiny_models[1].folder, ServedModel()
    model.load_context(context(folder))
    frame = pd.DataFrame({"image": [PICTURE.read_bytes()]})
    answer = model.predict(context(folder), frame)
    assert list(answer["label"]) == ["red"]
    pd.testing.assert_frame_equal(answer, mlflow.pyfunc.load_model(str(folder)).predict(frame))
    with pytest.raises(MlflowException, match="row 0: not an image") as caught:
        model.predict(context(folder), pd.DataFrame({"image": [b"text"]}))
    assert caught.value.get_http_status_code() == 400


def test_a_model_whose_files_are_not_those_listed_does_not_load(tiny_models, tmp_path):
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    (tmp_path / FILES_FILE).write_bytes((tiny_models[0].folder / FILES_FILE).read_bytes())
    model = ServedModel()
    with pytest.raises(WeightsError, match="is missing or is not the file"):
        model.load_context(context(tmp_path))
    assert not hasattr(model, "classifier")
