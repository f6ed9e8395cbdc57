from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image
from safetensors.torch import load_file, save_file

from tasks.artifacts import sha256_file
from tasks.errors import TrackingError
from tasks.pretrained.tiny import GraftTiny
from tasks.register.classifier import ModelSpec
from tasks.register.files import list_files
from tasks.register.learned import LEARNED_FILE, learned_images
from tasks.register.packaging import (
    KEPT_REFERENCE,
    _forget,
    example_image,
    log_model,
    needed_modules,
    save_model,
)

CLASSES = ("blue", "green", "red")
PROBABILITIES = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="session")
def packaged(strong, tmp_path_factory) -> Path:
    """An MLflow model on disk, with no store around it."""
    model = strong.model
    spec = ModelSpec(
        architecture=model.architecture,
        classes=model.classes,
        input=model.input,
        sha256=model.sha256,
        graft_version="test",
    )
    folder = tmp_path_factory.mktemp("packaged") / "model"
    save_model(folder, Model(), model.weights, spec, example_image(strong.prepared.val))
    return folder


@pytest.fixture(scope="session")
def pyfunc(packaged):
    return mlflow.pyfunc.load_model(str(packaged))


@pytest.fixture(scope="session")
def photos(strong) -> list[Path]:
    """Return 90 files, PNG and JPEG, of many sizes."""
    return sorted((strong.raw.root / "test").rglob("*.*"))


def oracle(strong, transform, paths: list[Path]) -> np.ndarray:
    """Preprocess by torchvision's own transforms and run the network, an image at a time."""
    network = GraftTiny(num_classes=3)
    network.load_state_dict(load_file(strong.model.weights))
    network.eval()
    with torch.inference_mode():
        images = (transform(Image.open(path).convert("RGB")) for path in paths)
        return torch.stack([network(i[None]).softmax(dim=1)[0] for i in images]).numpy()


@pytest.mark.parametrize("n", [1, 3, 70])
def test_any_batch_size_gives_the_networks_own_probabilities(pyfunc, strong, transform, photos, n):
    frame = pyfunc.predict(pd.DataFrame({"image": [path.read_bytes() for path in photos[:n]]}))
    expected = oracle(strong, transform, photos[:n])
    np.testing.assert_allclose(frame[PROBABILITIES].to_numpy(), expected, atol=1e-5)
    assert list(frame.columns) == ["label", "confidence", *PROBABILITIES]
    assert list(frame["label"]) == [CLASSES[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(frame["confidence"], expected.max(axis=1), atol=1e-5)


def test_every_form_of_input_gives_the_same(pyfunc, photos):
    paths = photos[:3]
    contents = [path.read_bytes() for path in paths]
    names = [str(path) for path in paths]
    expected = pyfunc.predict(pd.DataFrame({"image": contents}))
    for same in (contents, names, paths, pd.DataFrame({"path": names}), {"image": contents}):
        pd.testing.assert_frame_equal(pyfunc.predict(same), expected)
    for one in (contents[0], names[0]):
        pd.testing.assert_frame_equal(pyfunc.predict(one), expected[:1])


def test_no_image_gives_no_row(pyfunc):
    frame = pyfunc.predict(pd.DataFrame({"image": pd.Series([], dtype=object)}))
    assert frame.shape == (0, 5)


def test_the_input_example_is_an_image_and_matches_the_signature(pyfunc, strong):
    example = pyfunc.input_example
    assert len(pyfunc.predict(example)) == 1
    schema = pyfunc.metadata.signature
    assert schema.inputs.to_dict() == [{"type": "binary", "required": True}]
    assert schema.outputs.input_names() == ["label", "confidence", *PROBABILITIES]


def test_bad_rows_are_all_named(pyfunc, photos):
    good = photos[0].read_bytes()
    frame = pd.DataFrame({"image": [good, b"text", good, good[:40], b""]})
    with pytest.raises(MlflowException) as caught:
        pyfunc.predict(frame)
    assert "3 of 5 images cannot be read: row 1: not an image; row 3: " in str(caught.value)
    assert "row 4: zero bytes" in str(caught.value)
    assert caught.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"picture": [b"x"]}), "'picture': it must be image"),
        (pd.DataFrame({"image": [None]}), "Row 0 is neither"),
        (pd.DataFrame({"image": [b"x", ["y"]]}), "Row 1 is neither"),
        (pd.DataFrame({"path": ["/no/such/file.png"]}), "no such file"),
    ],
)
def test_what_is_no_image_is_told(pyfunc, frame, words):
    with pytest.raises(MlflowException, match=words):
        pyfunc.predict(frame)


@pytest.mark.parametrize("server", ["mlflow", "mlserver"])
def test_a_server_reads_no_paths_unless_told_to(pyfunc, photos, monkeypatch, server):
    if server == "mlflow":
        monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    else:
        monkeypatch.setitem(sys.modules, "mlserver", sys)
    with pytest.raises(MlflowException, match="a server reads none"):
        pyfunc.predict([str(photos[0])])
    assert len(pyfunc.predict([photos[0].read_bytes()])) == 1
    monkeypatch.setenv("GRAFT_SERVE_PATHS", "1")
    assert len(pyfunc.predict([str(photos[0])])) == 1


def test_damaged_weights_do_not_load(packaged, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(packaged, copy)
    weights = copy / "artifacts" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(Exception, match="missing or damaged"):
        mlflow.pyfunc.load_model(str(copy))


@pytest.mark.parametrize(
    "name", ["artifacts/spec.json", "code/tasks/outputs.py", "code/numpy_.py", "requirements.txt"]
)
def test_mlflow_loads_no_model_whose_description_or_code_is_another(packaged, tmp_path, name):
    shutil.copytree(packaged, tmp_path / "model")
    file = tmp_path / "model" / name
    list_files(tmp_path / "model")
    file.write_bytes((file.read_bytes() if file.exists() else b"") + b"\n")
    if name == "requirements.txt":  # which MLflow has a tool to change
        mlflow.pyfunc.load_model(str(tmp_path / "model"))
        return
    with pytest.raises(Exception, match=f"{name} is missing or is not the file"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_only_what_serving_needs_travels(packaged, repository):
    script = repository / "tasks" / "register" / "served_model.py"
    needed = {str(path.relative_to(repository)) for path in needed_modules(script)}
    code = packaged / "code"
    travelled = {str(path.relative_to(code)) for path in code.rglob("*.py")}
    assert travelled == needed
    assert "tasks/preprocess/views.py" in travelled
    rooms = ("download", "evaluate", "register/promote", "register/tracking")
    assert not [name for name in travelled if name.startswith(tuple(f"tasks/{r}" for r in rooms))]
    assert not list(code.rglob("task.py"))


def test_requirements_are_pinned_and_public(packaged):
    lines = (packaged / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in lines} >= {"mlflow", "torch", "torchvision"}
    assert all("==" in line and "+" not in line for line in lines)


@pytest.fixture
def run_id(store, tmp_path) -> str:
    experiment = store.create_experiment("packaging", (tmp_path / "files").as_uri())
    return store.create_run(experiment).info.run_id


def test_what_it_learned_from_and_the_reference_are_stored_where_they_are_known(
    store, run_id, strong
):
    bare = strong.report.model_copy(update={"reference": None})
    kept: list[set[str]] = []
    for report, learned in ((bare, None), (strong.report, learned_images(strong.prepared))):
        val = strong.prepared.val
        logged = log_model(store, run_id, strong.model, report, val, ", ", learned)
        place = Path(
            store.get_logged_model(logged.model_id).artifact_location.removeprefix("file://")
        )
        kept.append({name for name in (LEARNED_FILE, KEPT_REFERENCE) if (place / name).exists()})
        assert (place / "artifacts" / "model.safetensors").is_file()
        assert (logged.learned_digest is None) == (learned is None)
    assert kept == [set(), {LEARNED_FILE, KEPT_REFERENCE}]


def test_a_model_that_cannot_be_stored_leaves_none_behind(store, run_id, strong, tmp_path):
    model = strong.model.model_copy(update={"weights": tmp_path / "gone.safetensors"})
    with pytest.raises(TrackingError, match="MLflow failed while storing the model"):
        log_model(store, run_id, model, strong.report, strong.prepared.val, ", ")
    experiment = store.get_run(run_id).info.experiment_id
    assert list(store.search_logged_models([experiment])) == []


def test_a_model_that_cannot_be_taken_away_hides_no_earlier_fault(store, caplog):
    with caplog.at_level(logging.WARNING):
        _forget(store, "m-none")  # does not raise
    assert "the logged model m-none is left behind: " in caplog.text


ALONE = """
import sys
root = {root!r}
sys.path = [entry for entry in sys.path if not entry.startswith(root) or "site-packages" in entry]

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flows", "prefect"):
            raise ImportError(name + " is not on this path")

sys.meta_path.insert(0, Refuse())
try:
    import tasks
except ImportError:
    pass
else:
    raise SystemExit("the repository is on the path: " + tasks.__file__)

import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model({model!r})
import tasks
assert tasks.__file__.startswith({model!r}), tasks.__file__
found = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "tasks"]
assert all(file.startswith({model!r}) for file in found), found
assert not {{"flows", "prefect"}} & set(sys.modules)
image = open({photo!r}, "rb").read()
print(model.predict(pandas.DataFrame({{"image": [image]}})).to_json(orient="records"))
"""


@pytest.fixture(scope="session")
def packaged_timm(strong, tmp_path_factory) -> Path:
    """A model whose network is one of timm's, with random weights, and that knows its doubts."""
    folder = tmp_path_factory.mktemp("timm")
    weights = folder / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), weights)
    spec = ModelSpec(
        architecture="timm:test_resnet",
        classes=CLASSES,
        input=strong.model.input,
        sha256=sha256_file(weights),
        graft_version="test",
        temperature=2.0,
        reject_below=0.5,
        novel_above=-1.0,
    )
    save_model(folder / "model", Model(), weights, spec, example_image(strong.prepared.val))
    return folder / "model"


def test_timm_is_required_where_the_network_is_one_of_its_alone(packaged, packaged_timm):
    lines = (packaged_timm / "requirements.txt").read_text().split()
    assert f"timm=={timm.__version__}" in lines
    lines.remove(f"timm=={timm.__version__}")
    assert lines == (packaged / "requirements.txt").read_text().split()


@pytest.mark.parametrize("which", ["packaged", "packaged_timm"])
def test_it_loads_where_neither_this_repository_nor_prefect_is(
    which, request, photos, repository, tmp_path
):
    packaged = request.getfixturevalue(which)
    code = ALONE.format(root=str(repository), model=str(packaged), photo=str(photos[0]))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = mlflow.pyfunc.load_model(str(packaged)).predict([photos[0]])
    there = pd.read_json(io.StringIO(done.stdout), orient="records")
    assert list(there["label"]) == list(here["label"])
    assert list(there.columns) == list(here.columns)
    assert ("novel" in here) == (which == "packaged_timm")
    pd.testing.assert_frame_equal(there, here, check_dtype=False, atol=1e-5)
