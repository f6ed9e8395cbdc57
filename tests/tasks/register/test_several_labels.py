"""A model of several labels in MLflow's format, and how it meets models of one."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import Model
from safetensors.torch import save_file
from scipy.special import logit

from tasks.artifacts import sha256_file
from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.pretrained.tiny import GraftTiny
from tasks.register.classifier import Classifier, ModelSpec, read_spec
from tasks.register.facts import dataset_inputs
from tasks.register.packaging import save_model
from tasks.register.promote import register
from tasks.register.registry import fetch, find_version
from tasks.register.tracking import open_run
from tasks.register.warm_start import fetch_teacher

CLASSES = ("blue", "green", "red")


@pytest.fixture
def photos(strong) -> list[Path]:
    return sorted((strong.raw.root / "test").rglob("*.*"))[::7]


@pytest.fixture
def network(photos, transform) -> GraftTiny:
    """Return a network that finds each label in half of the photos."""
    torch.manual_seed(0)
    network = GraftTiny(num_classes=3).eval()
    torch.nn.init.normal_(network.fc.weight)
    middle = np.median(logit(expected(network, photos, transform)), axis=0)
    with torch.no_grad():
        network.fc.bias -= torch.from_numpy(middle)
    return network


def expected(network: GraftTiny, paths: list[Path], transform) -> np.ndarray:
    from PIL import Image

    with torch.inference_mode():
        images = [transform(Image.open(path).convert("RGB")) for path in paths]
        return torch.cat([network(image[None]).double().sigmoid() for image in images]).numpy()


def test_a_served_model_gives_each_labels_sigmoid(network, photos, strong, transform, tmp_path):
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    spec = ModelSpec(
        architecture="graft_tiny",
        classes=CLASSES,
        input=strong.model.input,
        sha256=sha256_file(tmp_path / "weights.safetensors"),
        graft_version="test",
        multi_label=True,
        label_separator=" + ",
    )
    save_model(
        tmp_path / "model",
        Model(),
        tmp_path / "weights.safetensors",
        spec,
        photos[0].read_bytes(),
    )
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    frame = served.predict(pd.DataFrame({"image": [path.read_bytes() for path in photos]}))
    oracle = expected(network, photos, transform)
    probabilities = frame[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(probabilities, oracle, atol=1e-5)
    labels = [" + ".join(np.array(CLASSES)[row > 0.5]) for row in oracle]
    assert list(frame["label"]) == labels
    assert len({label.count("+") for label in labels}) > 1  # one label and several
    assert frame["confidence"].to_numpy() == pytest.approx(
        np.maximum(oracle, 1 - oracle).prod(axis=1), abs=1e-5
    )
    assert read_spec(tmp_path / "model" / "artifacts" / "spec.json") == spec


def test_no_image_gives_no_row(network, strong):
    frame = Classifier(network, CLASSES, strong.model.input, "|").predict([])
    assert list(frame.columns) == ["label", "confidence", *(f"p_{name}" for name in CLASSES)]
    assert len(frame) == 0


def test_of_one_label_nothing_new_is_written(strong):
    spec = ModelSpec(
        architecture="graft_tiny",
        classes=CLASSES,
        input=strong.model.input,
        sha256="0" * 64,
        graft_version="test",
        label_separator=", ",
    )
    assert set(json.loads(spec.content())) == {
        "architecture",
        "classes",
        "input",
        "sha256",
        "graft_version",
    }


def registered(trained, several: bool):
    """Register ``trained`` as a model of one label or of several, without training anew."""
    model = trained.model.model_copy(update={"multi_label": several})
    with open_run(trained.config) as tracker:
        return register(
            trained.config, trained.raw, trained.prepared, model, trained.report, tracker.run_id
        )


def test_a_champion_of_the_other_kind_is_no_opponent(store, weak, strong):
    assert registered(weak, several=True).promoted
    decision = registered(strong, several=False)
    assert not decision.promoted
    assert "gives an image any number of labels, this model one label" in decision.reason
    assert decision.champion_version == 1
    version = find_version(store, "models:/colours/1")
    assert version.tags["graft.multi_label"] == "true"
    assert "graft.multi_label" not in find_version(store, "models:/colours/2").tags


def teaching(config: RunConfig, several: bool) -> RunConfig:
    data = {"kind": "manifest", "path": "x", "multi_label": several}
    strategy = {"kind": "distill", "teacher": "models:/colours@champion"}
    model = {"architecture": "resnet18", "weights": "torchvision:DEFAULT"}
    return RunConfig.model_validate({"data": data, "strategy": strategy, "model": model})


def test_a_teacher_of_the_other_kind_is_refused(store, strong, tmp_path):
    registered(strong, several=True)
    teacher = fetch_teacher(teaching(strong.config, several=True), tmp_path)
    assert teacher is not None
    assert teacher == fetch("models:/colours/1", tmp_path)
    assert teacher.multi_label
    with pytest.raises(ConfigError, match="has multi_label=true, the data the opposite"):
        fetch_teacher(teaching(strong.config, several=False), tmp_path)


def test_a_dataset_says_that_it_has_several(strong):
    changes = {"multi_label": True}
    several = strong.prepared.model_copy(
        update={
            name: getattr(strong.prepared, name).model_copy(update=changes)
            for name in ("train", "val", "test")
        }
    )
    for prepared, labels in (
        (several, {"labels": "uint8 (3,)"}),
        (strong.prepared, {"label": "int64"}),
    ):
        schema = json.loads(dataset_inputs(strong.config, prepared)[0].dataset.schema)
        assert {k: v for k, v in schema.items() if k != "image"} == labels
