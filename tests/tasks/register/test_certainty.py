"""Temperature and thresholds from a report to what is served, against torchvision and scipy."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from scipy.special import expit, softmax

from flows import commands
from tasks.artifacts import sha256_file
from tasks.errors import WeightsError
from tasks.evaluate.calibration import scaled
from tasks.evaluate.evaluate import score_weights
from tasks.measures import Calibration, Novelty, Rejection
from tasks.outputs import confidence
from tasks.pretrained.tiny import GraftTiny
from tasks.register.classifier import Classifier, ModelSpec, read_spec
from tasks.register.packaging import certainty, save_model
from tasks.register.predict import predict
from tasks.register.promote import register
from tasks.register.registry import fetch
from tasks.register.tracking import open_run
from tasks.values import Certainty

CLASSES = ("blue", "green", "red")
PROBABILITIES = [f"p_{name}" for name in CLASSES]
SAID = {"temperature": 2.5, "reject_below": 0.75, "novel_above": -3.0}


@pytest.fixture(scope="module")
def photos(strong) -> list[Path]:
    return sorted((strong.raw.root / "test").rglob("*.*"))[::5]


@pytest.fixture(scope="module")
def network() -> GraftTiny:
    torch.manual_seed(0)
    network = GraftTiny(num_classes=3).eval()
    torch.nn.init.normal_(network.fc.weight, std=3)
    return network


@pytest.fixture(scope="module")
def logits(network, photos, transform) -> np.ndarray:
    """Return the logits of the photos by torchvision's own transforms."""
    with torch.inference_mode():
        images = [transform(Image.open(path).convert("RGB")) for path in photos]
        return torch.cat([network(image[None]) for image in images]).double().numpy()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(network.state_dict(), file)
    return file


def description(strong, weights: Path, **changes: object) -> ModelSpec:
    return ModelSpec(
        architecture="graft_tiny",
        classes=CLASSES,
        input=strong.model.input,
        sha256=sha256_file(weights),
        graft_version="test",
        **changes,
    )


@pytest.mark.parametrize("several", [False, True])
def test_a_served_model_is_as_sure_as_its_temperature_says(
    several, strong, weights, logits, photos, tmp_path
):
    p = expit(logits / 2.5) if several else softmax(logits / 2.5, axis=1)
    sure = np.maximum(p, 1 - p).prod(axis=1) if several else p.max(axis=1)
    raw = np.logaddexp(0, logits).sum(axis=1) if several else np.logaddexp.reduce(logits, axis=1)
    least, most = float(np.median(sure)) + 1e-4, float(np.median(-raw)) + 1e-4
    said = {"temperature": 2.5, "reject_below": least, "novel_above": most}
    spec = description(strong, weights, multi_label=several, **said)
    save_model(tmp_path / "model", Model(), weights, spec, photos[0].read_bytes())
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    frame = served.predict(pd.DataFrame({"image": [path.read_bytes() for path in photos]}))
    np.testing.assert_allclose(frame[PROBABILITIES], p, atol=1e-5)
    np.testing.assert_allclose(frame["confidence"], sure, atol=1e-5)
    np.testing.assert_allclose(frame["energy"], -raw, atol=1e-4)
    assert list(frame["answered"]) == list(sure >= least)
    assert list(frame["novel"]) == list(-raw > most)
    assert frame["answered"].nunique() == frame["novel"].nunique() == 2
    columns = ["label", "confidence", "answered", "energy", "novel", *PROBABILITIES]
    outputs = served.metadata.signature.outputs
    assert list(frame.columns) == outputs.input_names() == columns
    kinds = dict(zip(columns, outputs.pandas_types(), strict=True))
    assert all(frame[name].dtype == kinds[name] for name in columns if name != "label")
    nothing = pd.DataFrame({"image": pd.Series([], dtype=object)})
    pd.testing.assert_frame_equal(served.predict(nothing), frame[:0])


@pytest.mark.parametrize(
    ("said", "added"),
    [
        ({}, []),
        ({"temperature": 3.0}, []),
        ({"reject_below": 0.0}, ["answered"]),
        ({"reject_below": 2.0}, ["answered"]),
        ({"novel_above": 0.0}, ["energy", "novel"]),
    ],
)
def test_there_is_a_column_only_with_a_threshold(said, added, strong, weights, photos, tmp_path):
    frames = []
    for name, words in (("plain.json", {}), ("spec.json", said)):
        (tmp_path / name).write_bytes(description(strong, weights, **words).content())
        frames.append(Classifier.load(tmp_path / name, weights).predict(photos[:3]))
    plain, frame = frames
    assert list(frame.columns) == ["label", "confidence", *added, *PROBABILITIES]
    if "answered" in added:
        assert list(frame["answered"]) == [said["reject_below"] == 0] * 3
    assert list(frame["label"]) == list(plain["label"])
    assert np.allclose(frame["confidence"], plain["confidence"]) == ("temperature" not in said)


@pytest.mark.parametrize("said", [{}, *({name: value} for name, value in SAID.items()), SAID])
def test_a_description_says_what_there_is_and_is_read_back(said, strong, weights, tmp_path):
    spec = description(strong, weights, **said)
    written = json.loads(spec.content())
    assert {name: written[name] for name in written.keys() & SAID.keys()} == said
    (tmp_path / "spec.json").write_bytes(spec.content())
    assert read_spec(tmp_path / "spec.json") == spec


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": -1}, {"reject_below": "x"}])
def test_a_wrong_temperature_is_no_description(wrong, strong, weights, tmp_path):
    right = json.loads(description(strong, weights).content())
    (tmp_path / "spec.json").write_text(json.dumps(right | wrong))
    with pytest.raises(WeightsError, match="no model description"):
        read_spec(tmp_path / "spec.json")


@pytest.mark.parametrize("temperature", [float("inf"), float("nan")])
def test_no_temperature_is_infinite(temperature):
    with pytest.raises(ValidationError):
        Certainty(temperature=temperature)


CALIBRATION = Calibration(
    temperature=2.5, val_log_loss_before=1, val_log_loss=1, val_ece_before=0, val_ece=0
)
REJECTION = Rejection(
    wanted_error=0.1, threshold=0.75, val_coverage=1, val_error=0, test_coverage=1, test_error=0
)
NOVELTY = Novelty(threshold=-3.0, kept=0.95, test_flagged=0, noise_flagged=1, noise_auroc=1)
PARTS = {"calibration": CALIBRATION, "rejection": REJECTION, "novelty": NOVELTY}
NOTHING = dict.fromkeys(PARTS)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, Certainty()),
        ({"calibration": CALIBRATION}, Certainty(temperature=2.5)),
        ({"rejection": REJECTION}, Certainty(reject_below=0.75)),
        ({"novelty": NOVELTY}, Certainty(novel_above=-3.0)),
        (PARTS, Certainty(**SAID)),
    ],
)
def test_what_the_report_chose_is_served(parts, expected, strong):
    assert certainty(strong.report.model_copy(update=NOTHING | parts)) == expected


def registered(trained, parts: dict[str, object]) -> str:
    """Register ``trained`` as if its report had the given parts; return the version's URI."""
    report = trained.report.model_copy(update=NOTHING | parts)
    with open_run(trained.config) as tracker:
        return register(
            trained.config, trained.raw, trained.prepared, trained.model, report, tracker.run_id
        ).uri


def test_a_version_predicts_as_its_evaluation_scored(
    store: MlflowClient, strong, tmp_path, monkeypatch, capsys
):
    paths = [strong.raw.root / row for row in pd.read_parquet(strong.report.predictions)["path"]]
    scores = score_weights(strong.config, strong.model, strong.prepared.test)
    after = scaled(scores, 2.5)
    sure = confidence(after.probabilities_nc, False)
    least, most = float(np.median(sure)) + 1e-5, float(np.median(scores.energy_n)) + 1e-5
    parts = {
        "calibration": CALIBRATION,
        "rejection": REJECTION.model_copy(update={"threshold": least}),
        "novelty": NOVELTY.model_copy(update={"threshold": most}),
    }
    uri = registered(strong, parts)
    model = fetch(uri, tmp_path / "cache")
    assert (model.temperature, model.reject_below, model.novel_above) == (2.5, least, most)
    frame = predict(uri, paths, tmp_path / "cache")
    np.testing.assert_allclose(frame[PROBABILITIES], after.probabilities_nc, atol=1e-5)
    assert list(frame["answered"]) == list(sure >= least)
    assert list(frame["novel"]) == list(scores.energy_n > most)
    again = scaled(score_weights(strong.config, model, strong.prepared.test), model.temperature)
    np.testing.assert_allclose(again.probabilities_nc, after.probabilities_nc, atol=1e-6)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    check_words(commands.predict(paths, uri), frame, capsys)


def check_words(answer, frame: pd.DataFrame, capsys) -> None:
    """What a person and a machine are shown agrees with ``frame``."""
    answer.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "label", "confidence", "remark"]
    for line, answered, novel in zip(lines[1:], frame["answered"], frame["novel"], strict=False):
        assert ("too unsure for an answer" in line) != answered
        assert ("unlike the training images" in line) == novel
    rows = json.loads(json.dumps(answer.data["predictions"]))
    assert [row["answered"] for row in rows] == list(frame["answered"])
    assert all(type(row["novel"]) is bool for row in rows)


def test_a_version_without_any_of_it_says_no_word_of_it(
    store: MlflowClient, strong, photos, tmp_path, monkeypatch, capsys
):
    """So is every version that an earlier graft registered."""
    uri = registered(strong, {})
    model = fetch(uri, tmp_path / "cache")
    assert (model.temperature, model.reject_below, model.novel_above) == (1, None, None)
    file = mlflow.artifacts.download_artifacts(f"{uri}/artifacts/spec.json", dst_path=str(tmp_path))
    assert not json.loads(Path(file).read_text()).keys() & SAID.keys()
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    commands.predict(photos[:2], uri).show()
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["image", "label", "confidence"]
    assert len(shown.splitlines()) == 4
