"""Several labels an image: every figure against scikit-learn, and the files of a report."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

from tasks.artifacts import sha256_bytes
from tasks.evaluate.evaluate import evaluate, score_weights
from tasks.evaluate.metrics import measure
from tasks.evaluate.score import Scores
from tasks.finetune.train import finetune
from tasks.index import read_index, write_index
from tasks.outputs import chosen, confidence, named, probabilities
from tasks.pretrained.network import restore_network
from tasks.values import EvaluationReport, FineTunedModel, PackedSplit, PreparedDataset

NAMES = ("a", "b", "c", "d")


class Quiet:
    def step(self, progress):
        pass

    def epoch(self, record):
        pass


def random_scores(n: int, c: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    p = rng.beta(0.5, 0.5, size=(n, c)).astype(np.float32)
    p[0, 0], p[1, 0] = 0.0, 1.0  # which no logarithm may meet
    labels = (rng.random((n, c)) < 0.3 + 0.4 * p).astype(np.int64)
    return Scores(p, labels, chosen(p, True), 1.0, np.zeros(n), multi_label=True)


@pytest.mark.parametrize("c", [2, 4])
def test_figures_agree_with_scikit_learn(c):
    scores = random_scores(300, c, seed=c)
    got = measure(scores, NAMES[:c])
    y, p, q = scores.labels_n, scores.predictions_n, scores.probabilities_nc
    assert np.array_equal(p, q > 0.5)
    assert got.accuracy == pytest.approx(sk.accuracy_score(y, p))
    assert got.mean_average_precision == pytest.approx(
        sk.average_precision_score(y, q, average="macro")
    )
    assert got.macro_f1 == pytest.approx(sk.f1_score(y, p, average="macro"))
    assert got.micro_f1 == pytest.approx(sk.f1_score(y, p, average="micro"))
    assert got.hamming_loss == pytest.approx(sk.hamming_loss(y, p))
    columns = [(y[:, k], p[:, k], q[:, k]) for k in range(c)]
    assert got.balanced_accuracy == pytest.approx(
        np.mean([sk.balanced_accuracy_score(a, b) for a, b, _ in columns])
    )
    assert got.log_loss == pytest.approx(np.mean([sk.log_loss(a, d) for a, _, d in columns]))
    assert np.array_equal(
        np.reshape(got.class_confusion, (c, 2, 2)), sk.multilabel_confusion_matrix(y, p)
    )
    for report, (a, b, d) in zip(got.classes, columns, strict=True):
        assert report.n == a.sum()
        assert report.precision == pytest.approx(sk.precision_score(a, b))
        assert report.recall == pytest.approx(sk.recall_score(a, b))
        assert report.f1 == pytest.approx(sk.f1_score(a, b))
        assert report.average_precision == pytest.approx(sk.average_precision_score(a, d))
    assert (got.top5_accuracy, got.confusion, got.multi_label) == (None, (), True)


def test_log_loss_is_torchs_where_no_probability_is_extreme():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 2, (50, 4), generator=torch.Generator().manual_seed(1))
    p = probabilities(logits, multi_label=True).float().numpy()
    scores = Scores(p, labels.numpy(), chosen(p, True), 1.0, np.zeros(50), multi_label=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    assert scores.log_loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_label_without_images_does_not_spoil_the_means():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    p = np.array([[0.9, 0.2, 0.1], [0.2, 0.6, 0.7], [0.8, 0.3, 0.1]], dtype=np.float32)
    scores = Scores(p, labels, chosen(p, True), 1.0, np.zeros(3), multi_label=True)
    got = measure(scores, ("a", "b", "absent"))
    assert got.mean_average_precision == 1.0
    assert got.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert got.balanced_accuracy == pytest.approx((1 + 0.75) / 2)
    assert (got.classes[2].n, got.classes[2].average_precision) == (0, None)
    assert got.accuracy == pytest.approx(1 / 3)
    json.dumps([report.model_dump() for report in got.classes], allow_nan=False)


def test_confidence_is_the_probability_of_the_whole_choice():
    """Over all sets of labels these probabilities sum to 1, and the choice is the likeliest."""
    p = np.random.default_rng(0).random((20, 4))
    sets = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    each = np.where(sets[None] == 1, p[:, None], 1 - p[:, None]).prod(axis=2)
    assert each.sum(axis=1) == pytest.approx(1)
    assert confidence(p, True) == pytest.approx(each.max(axis=1))
    assert np.array_equal(chosen(p, True), sets[each.argmax(axis=1)])


def test_names_are_joined_in_the_order_of_the_classes():
    assert named(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), "abc", " + ") == ["a + c", "", "b"]
    assert named(np.array([2, 0]), "abc", None) == ["c", "a"]


def relabelled(split: PackedSplit) -> PackedSplit:
    """Give each image its class, and the class after it as well where its number is even."""
    labels = np.eye(3, dtype=np.uint8)[np.load(split.labels)]
    labels[::2] |= np.roll(labels[::2], 1, axis=1)
    labels[-1] = 0
    np.save(split.labels, labels)
    records = [
        record._replace(label=tuple(map(int, np.flatnonzero(row))))
        for record, row in zip(read_index(split.index), labels, strict=True)
    ]
    write_index(split.index, records)
    changes = {"multi_label": True, "counts": tuple(map(int, labels.sum(axis=0)))}
    return split.model_copy(update={**changes, "digest": sha256_bytes(labels.tobytes())})


@pytest.fixture
def several(prepared) -> PreparedDataset:
    splits = {s.name: relabelled(s) for s in (prepared.train, prepared.val, prepared.test)}
    return prepared.model_copy(update=splits)


@pytest.fixture
def model(several, backbone, make_config, tmp_path) -> FineTunedModel:
    folder = tmp_path / "run"
    folder.mkdir()
    return finetune(make_config(), several, backbone, folder, Quiet())


def test_what_is_scored_is_each_labels_sigmoid(model, several, make_config):
    scores = score_weights(make_config(), model, several.test)
    network = restore_network(model.architecture, 3, model.weights).eval()
    images = np.fromfile(several.test.images, dtype=np.uint8).reshape(-1, 16, 16, 3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.input.mean, model.input.std))
    with torch.no_grad():
        plain = network((x - mean) / std).sigmoid().numpy()
    assert scores.probabilities_nc == pytest.approx(plain, abs=1e-5)
    assert np.array_equal(scores.labels_n, np.load(several.test.labels))
    assert model.val_accuracy == pytest.approx(
        score_weights(make_config(), model, several.val).accuracy
    )


@pytest.mark.parametrize("separator", ["|", ", "])
def test_report_and_files(separator, model, several, make_config):
    data = {"kind": "manifest", "path": "x", "multi_label": True, "label_separator": separator}
    config = make_config(data=data)
    report = evaluate(config, several, model, model.folder)
    frame = pd.read_parquet(report.predictions)
    assert len(frame) == report.n == several.test.n
    assert frame["correct"].mean() == pytest.approx(report.accuracy)
    assert np.array_equal(frame["correct"], frame["label"] == frame["prediction"])
    truth = [[name for name in cell.split(separator) if name] for cell in frame["label"]]
    onehot = np.array([[name in names for name in several.classes] for names in truth])
    assert np.array_equal(onehot, np.load(several.test.labels))
    assert report.mean_average_precision == pytest.approx(
        sk.average_precision_score(onehot, frame.filter(like="p_").to_numpy(), average="macro")
    )
    assert json.loads(report.report.read_text())["hamming_loss"] == report.hamming_loss
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    with Image.open(model.folder / "confusion.png") as picture:
        assert min(picture.size) > 200
    drawn = (model.folder / "confusion.svg").read_text()
    ET.fromstring(drawn)
    text = (model.folder / "report.md").read_text()
    for figure in (report.mean_average_precision, report.micro_f1, report.hamming_loss):
        assert f"{figure:.4f}" in text
    counts = " | ".join(map(str, report.class_confusion[0]))
    assert f"| {counts} |" in text


def test_one_label_has_none_of_this(prepared, backbone, make_config, tmp_path):
    (tmp_path / "run").mkdir()
    model = finetune(make_config(), prepared, backbone, tmp_path / "run", Quiet())
    report = evaluate(make_config(), prepared, model, model.folder)
    assert not report.multi_label
    assert report.class_confusion is report.micro_f1 is report.mean_average_precision is None
    assert np.sum(report.confusion) == report.n
    text = (model.folder / "report.md").read_text()
    assert "Mean average precision" not in text
    assert "| TN |" not in text
