"""The report against scikit-learn and closed forms, and its files as a reader finds them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn import metrics as sk

from tasks.errors import EvaluationError
from tasks.evaluate.assess import Subject, assess
from tasks.evaluate.evaluate import evaluate, score_weights
from tasks.evaluate.metrics import MOST_IN_MATRIX, measure
from tasks.evaluate.plots import plot_confusion
from tasks.evaluate.score import Scores
from tasks.evaluate.scorer import open_scorer
from tasks.finetune.train import finetune
from tasks.index import read_index, write_index
from tasks.pretrained.network import build_network
from tasks.values import EvaluationReport, FineTunedModel


class Quiet:
    def step(self, progress):
        pass

    def epoch(self, record):
        pass


@pytest.fixture
def model(prepared, backbone, make_config, tmp_path) -> FineTunedModel:
    folder = tmp_path / "run"
    folder.mkdir()
    return finetune(make_config(), prepared, backbone, folder, Quiet())


def random_scores(n: int, c: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(c, 0.3), size=n).astype(np.float32)
    labels = rng.integers(0, c, size=n)
    return Scores(probabilities, labels, probabilities.argmax(axis=1), 1.0, np.zeros(n))


def test_a_matrix_of_very_many_classes_is_kept_without_its_zeros():
    c = MOST_IN_MATRIX + 1
    scores = random_scores(300, c, seed=0)
    scores = replace(scores, labels_n=np.where(np.arange(300) % 3, 7, scores.predictions_n))
    got = measure(scores, tuple(f"class{i}" for i in range(c)))
    assert got.confusion == ()
    found = np.zeros((c, c), int)
    for truth, prediction, n in got.confused:
        found[truth, prediction] = n
    wanted = sk.confusion_matrix(scores.labels_n, scores.predictions_n, labels=np.arange(c))
    assert np.array_equal(found, wanted)
    assert len(got.confused) == np.count_nonzero(wanted)


@pytest.mark.parametrize("c", [2, 5, 7])
def test_figures_agree_with_scikit_learn(c):
    scores = random_scores(300, c, seed=c)
    got = measure(scores, tuple(f"class{i}" for i in range(c)))
    y, p, q = scores.labels_n, scores.predictions_n, scores.probabilities_nc
    assert got.accuracy == pytest.approx(sk.accuracy_score(y, p))
    assert got.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(y, p))
    assert got.macro_f1 == pytest.approx(sk.f1_score(y, p, average="macro"))
    clipped = np.maximum(q.astype(np.float64), np.finfo(np.float32).tiny)
    assert got.log_loss == pytest.approx(-np.log(clipped[np.arange(300), y]).mean(), rel=1e-5)
    assert np.array_equal(got.confusion, sk.confusion_matrix(y, p))
    assert (got.top5_accuracy is None) == (c <= 5)
    if c > 5:
        top = np.argsort(-q, axis=1)[:, :5]
        assert got.top5_accuracy == pytest.approx((top == y[:, None]).any(axis=1).mean())


def test_interval_is_wilsons():
    scores = random_scores(200, 3, seed=1)
    got = measure(scores, ("a", "b", "c"))
    n, k, z = 200, scores.accuracy, 1.959963984540054
    middle = (k + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(k * (1 - k) / n + z * z / (4 * n * n))
    assert got.accuracy_low == pytest.approx(middle - half)
    assert got.accuracy_high == pytest.approx(middle + half)


def test_a_class_without_images_does_not_spoil_the_means():
    scores = Scores(
        np.eye(3, dtype=np.float32)[[0, 1, 1]],
        np.array([0, 1, 0]),
        np.array([0, 1, 1]),
        1.0,
        np.zeros(3),
    )
    got = measure(scores, ("a", "b", "absent"))
    assert got.balanced_accuracy == pytest.approx((0.5 + 1.0) / 2)
    assert got.classes[2].n == 0


def test_report_and_files(model, prepared, make_config):
    config = make_config()
    report = evaluate(config, prepared, model, model.folder)
    frame = pd.read_parquet(report.predictions)
    assert len(frame) == report.n == prepared.test.n
    assert frame["correct"].mean() == pytest.approx(report.accuracy)
    assert frame.filter(like="p_").sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert frame["path"][0] == "test/0.png"
    assert list(frame["sha256"]) == [r.sha256 for r in read_index(prepared.test.index)]
    assert json.loads(report.report.read_text())["accuracy"] == report.accuracy
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    for name in ("confusion", "learning_curve"):
        with Image.open(model.folder / f"{name}.png") as picture:
            assert min(picture.size) > 200
        ET.fromstring((model.folder / f"{name}.svg").read_text())
    text = (model.folder / "report.md").read_text()
    assert f"{report.accuracy:.2%}" in text
    assert model.sha256 in text
    card = (model.folder / "README.md").read_text()
    page = (model.folder / "report.html").read_text()
    assert f"{report.accuracy:.2%}" in card
    assert f"{report.accuracy:.2%}" in page
    assert page.startswith("<!doctype html>")


UNCHOSEN = {"calibrate": False, "latency_runs": 1, "bootstrap": 0, "explained_images": 0}


def test_where_nothing_is_chosen_by_validation_the_outputs_are_reported_as_they_are(
    model, prepared, make_config, monkeypatch
):
    monkeypatch.setattr("tasks.evaluate.metrics.MOST_IN_MATRIX", 2)
    config = make_config(evaluation=UNCHOSEN | {"novelty": False})
    report = evaluate(config, prepared, model, model.folder)
    raw, labels = score_weights(config, model, prepared.test), np.load(prepared.test.labels)
    assert report.log_loss == pytest.approx(sk.log_loss(labels, raw.probabilities_nc), rel=1e-5)
    assert (report.calibration, report.novelty, report.rejection) == (None, None, None)
    # the reference is of the images that are scored
    features = load_file(model.folder / "reference.safetensors")
    assert prepared.test.n in {len(each) for each in features.values()}
    # of more classes than a matrix has room for there is no picture of one
    assert (report.confusion, report.class_confusion) == ((), None)
    assert not list(model.folder.glob("confusion.*"))
    assert (model.folder / "learning_curve.png").exists()


def test_novelty_is_told_of_outputs_that_are_not_calibrated(model, prepared, make_config):
    config = make_config(evaluation=UNCHOSEN)
    with open_scorer(config, model) as scorer:
        scores, parts = assess(Subject(config, prepared, model, scorer, None), model.folder)
        raw = scorer.score(prepared.test)
    assert parts["novelty"] is not None
    assert "calibration" not in parts
    assert scores.probabilities_nc == pytest.approx(raw.probabilities_nc, abs=1e-6)


def test_what_is_scored_is_a_plain_forward(model, prepared, backbone, make_config):
    scores = score_weights(make_config(), model, prepared.test)
    network = build_network(backbone, 3, 0)
    network.load_state_dict(load_file(model.weights))
    network.eval()
    images = np.fromfile(prepared.test.images, dtype=np.uint8).reshape(-1, 16, 16, 3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.input.mean, model.input.std))
    with torch.no_grad():
        plain = network((x - mean) / std).softmax(dim=1).numpy()
    assert scores.probabilities_nc == pytest.approx(plain, abs=1e-5)


def test_scoring_does_not_depend_on_the_batch(model, prepared, make_config):
    one, many = (
        score_weights(
            make_config(evaluation={"batch_size": b}), model, prepared.test
        ).probabilities_nc
        for b in (1, 33)
    )
    assert one == pytest.approx(many, abs=1e-5)


def test_tampered_weights_are_not_scored(model, prepared, make_config):
    content = bytearray(model.weights.read_bytes())
    content[-1] ^= 1
    model.weights.write_bytes(bytes(content))
    with pytest.raises(EvaluationError, match="not the file that was written"):
        evaluate(make_config(), prepared, model, model.folder)


def test_class_names_are_not_markup(model, prepared, make_config, tmp_path):
    names = ("$a", "<b>|x", "c\nd")
    odd = prepared.model_copy(update={"classes": names})
    renamed = model.model_copy(update={"classes": names})
    evaluate(make_config(), odd, renamed, model.folder)
    text = (model.folder / "report.md").read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;&#124;x" in text
    plot_confusion(((1, 0), (0, 1)), ("$a", "b$_{"), tmp_path / "odd")
    assert (tmp_path / "odd.png").exists()


def test_a_path_that_is_not_utf8_is_written_escaped(model, prepared, make_config):
    records = read_index(prepared.test.index)
    odd = [records[0]._replace(path="caf\udce9.png"), *records[1:]]
    write_index(prepared.test.index, odd)
    report = evaluate(make_config(), prepared, model, model.folder)
    assert pd.read_parquet(report.predictions)["path"][0] == "caf\\udce9.png"


def test_the_same_figures_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        plot_confusion(((3, 1), (0, 2)), ("x", "y"), tmp_path / name)
    for suffix in (".png", ".svg"):
        first, second = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in "ab")
        assert first == second


def test_a_matrix_of_many_classes_is_drawn_without_their_names(tmp_path):
    # written side by side, a thousand names take half a minute and cannot be read
    for c, named in ((2, True), (51, False)):
        matrix = tuple(map(tuple, np.eye(c, dtype=int).tolist()))
        for word in ("a", "b"):
            names = tuple(f"{word}{k}" for k in range(c))
            plot_confusion(matrix, names, tmp_path / word)
        first, second = ((tmp_path / f"{word}.svg").read_bytes() for word in "ab")
        assert (first != second) is named
