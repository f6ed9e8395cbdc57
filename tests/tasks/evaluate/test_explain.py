"""The worst errors: which they are, their pictures, and what is written of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tasks.evaluate.error_grid import caption, save_grid
from tasks.evaluate.explain import explain, worst_errors
from tasks.evaluate.score import Scores, score
from tasks.index import read_index
from tasks.measures import ExplainedImage
from tasks.outputs import chosen
from tasks.preprocess.batches import PackedImages
from tasks.pretrained.architectures import build
from tasks.values import PreparedDataset

CPU = torch.device("cpu")


def made_of(probabilities_nc: np.ndarray, labels_n: np.ndarray, multi_label: bool) -> Scores:
    p = probabilities_nc.astype(np.float32)
    n = len(p)
    return Scores(p, labels_n, chosen(p, multi_label), 1.0, np.zeros(n), multi_label)


class Brightest(nn.Module):
    """Takes the brightest channel's mean of convolved maps for the class: red, green or blue."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.fc = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.fc.weight.copy_(8 * torch.eye(3))

    def forward(self, images_bchw: Tensor) -> Tensor:
        return self.fc(self.conv(images_bchw).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_worst_errors_are_the_most_confident_wrong_ones(count: int):
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.5, 0.5, 0.5], size=200)
    p[:20] = p[0]  # ties
    labels = rng.integers(0, 3, size=200)
    scores = made_of(p, labels, False)
    given = scores.probabilities_nc
    wrong = [i for i in range(200) if given[i].argmax() != labels[i]]
    expected = sorted(wrong, key=lambda i: (-given[i].max(), i))[:count]
    found = worst_errors(scores, count)
    assert [error.row for error in found] == expected
    assert [error.target for error in found] == [int(given[i].argmax()) for i in expected]
    assert [error.confidence for error in found] == [float(given[i].max()) for i in expected]


def test_worst_errors_of_several_labels_have_the_largest_binary_log_loss():
    rng = np.random.default_rng(1)
    p = rng.beta(0.5, 0.5, size=(100, 4))
    labels = (rng.random((100, 4)) < 0.2 + 0.6 * p).astype(np.int64)
    scores = made_of(p, labels, True)
    given = scores.probabilities_nc.astype(np.float64)
    losses = -np.log(np.where(labels == 1, given, 1 - given))
    losses[(given > 0.5) == (labels == 1)] = 0
    expected = np.argsort(-losses.max(axis=1), kind="stable")[:9]
    found = worst_errors(scores, 9)
    assert [error.row for error in found] == expected.tolist()
    for error in found:
        label = int(losses[error.row].argmax())
        assert error.target == label + (4 if labels[error.row, label] else 0)
        assert error.confidence == pytest.approx(1 - np.exp(-losses[error.row, label]))
    assert len(worst_errors(scores, 1000)) == int((~scores.correct_n).sum())


def mistaken(prepared: PreparedDataset, network: nn.Module) -> Scores:
    """Return the network's scores, and truths that make every fourth image an error."""
    scores = score(network, prepared.test, prepared.input, CPU, 16)
    labels = scores.predictions_n.copy()
    labels[::4] = (labels[::4] + 1) % 3
    return replace(scores, labels_n=labels)


def test_files_and_facts_are_those_of_the_errors(prepared: PreparedDataset, tmp_path: Path):
    classes = ("$a", "b$c$", "d_{")  # which matplotlib would take for mathematics
    prepared = prepared.model_copy(update={"classes": classes})
    torch.manual_seed(0)
    network = build("graft_tiny", 3)
    scores = mistaken(prepared, network)
    found = explain(network, "graft_tiny", scores, prepared, 5, tmp_path, "|")
    assert [one.row for one in found] == [error.row for error in worst_errors(scores, 5)]
    images_nhwc = PackedImages(prepared.test).images_nhwc
    records = read_index(prepared.test.index)
    folder = tmp_path / "explained"
    for one in found:
        assert one.path == records[one.row].path
        assert one.label == classes[scores.labels_n[one.row]]
        assert one.prediction == classes[scores.predictions_n[one.row]]
        assert one.method == "grad-cam"
        assert np.array_equal(np.array(Image.open(folder / one.image)), images_nhwc[one.row])
        assert np.array(Image.open(folder / one.overlay)).shape == (16, 16, 3)
    files = {"grid.png", *(one.image for one in found), *(one.overlay for one in found)}
    assert {path.name for path in folder.iterdir()} == files
    assert Image.open(folder / "grid.png").size[0] > 1000
    assert [one.confidence for one in found] == sorted((o.confidence for o in found), reverse=True)


def with_square(prepared: PreparedDataset, channel: int) -> PreparedDataset:
    """Put a bright square of one channel into the lower right of the first image, else black."""
    images = np.memmap(prepared.test.images, np.uint8, "r+", shape=(prepared.test.n, 16, 16, 3))
    images[0] = 0
    images[0, 10:15, 9:14, channel] = 255
    images.flush()
    return prepared


def hottest(folder: Path, one: ExplainedImage) -> tuple[int, int]:
    picture, overlay = (
        np.array(Image.open(folder / "explained" / name)).astype(int)
        for name in (one.image, one.overlay)
    )
    change = np.abs(overlay - picture).sum(axis=2)
    return divmod(int(change.argmax()), 16)


def test_the_heat_lies_where_the_prediction_comes_from(prepared, tmp_path: Path):
    prepared = with_square(prepared, channel=1)
    network = Brightest()
    scores = mistaken(prepared, network)
    (one,) = (
        one for one in explain(network, "own", scores, prepared, 64, tmp_path, "|") if one.row == 0
    )
    assert one.prediction == prepared.classes[1]
    row, column = hottest(tmp_path, one)
    assert 10 <= row < 15
    assert 9 <= column < 14
    overlay = np.array(Image.open(tmp_path / "explained" / one.overlay))
    assert np.array_equal(overlay[0, 0], [0, 0, 0])  # what is cold shows as it is


def test_a_missed_label_is_explained_by_what_speaks_against_it(prepared, tmp_path: Path):
    class Against(Brightest):
        def forward(self, images_bchw: Tensor) -> Tensor:
            return -super().forward(images_bchw)

    prepared = with_square(prepared, channel=1)
    p = np.full((prepared.test.n, 3), 0.01)
    labels = np.zeros((prepared.test.n, 3), dtype=np.int64)
    labels[0, :2] = 1
    p[0] = (0.9, 0.02, 0.01)
    scores = made_of(p, labels, True)
    (one,) = explain(Against(), "own", scores, prepared, 4, tmp_path, "; ")
    assert (one.label, one.prediction) == ("blue; green", "blue")
    assert one.confidence == pytest.approx(0.98)
    row, column = hottest(tmp_path, one)
    assert 10 <= row < 15
    assert 9 <= column < 14


def test_a_network_without_maps_is_shown_without_heat_and_the_log_says_why(
    prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 3))
    scores = mistaken(prepared, network)
    found = explain(network, "flat", scores, prepared, 2, tmp_path, "|")
    assert [(one.overlay, one.method) for one in found] == [(None, None)] * 2
    assert "no heat maps: no layer of flat" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    names = {path.name for path in (tmp_path / "explained").iterdir()}
    assert names == {"01.png", "02.png", "grid.png"}


def test_without_an_error_nothing_is_written(prepared, tmp_path: Path):
    scores = mistaken(prepared, Brightest())
    right = replace(scores, labels_n=scores.predictions_n)
    assert explain(Brightest(), "own", right, prepared, 8, tmp_path / "run", "|") == ()
    assert not (tmp_path / "run").exists()


def fact(**changes: object) -> ExplainedImage:
    facts = {
        "path": "a/b.png", "label": "cat", "prediction": "dog", "confidence": 0.987, "row": 3,
        "image": "01.png", "overlay": None, "method": None,
    }  # fmt: skip
    return ExplainedImage.model_validate(facts | changes)


def test_captions_are_short_and_plain():
    assert caption(fact()) == "cat taken for dog, 99%\na/b.png"
    long = caption(fact(path="x" * 100 + "/end.png", label="$" * 3, prediction=""))
    assert long == r"\$\$\$ taken for no label, 99%" + "\n…" + "x" * 35 + "/end.png"


@pytest.mark.parametrize("n", [1, 4, 6])
def test_the_grid_holds_every_picture(n: int, tmp_path: Path):
    colours = [np.full((12, 12, 3), (255, 40 * i, 7), dtype=np.uint8) for i in range(n)]
    save_grid(tmp_path / "grid.png", [fact()] * n, colours, [None] * n)
    pixels = np.array(Image.open(tmp_path / "grid.png").convert("RGB")).reshape(-1, 3)
    assert all((pixels == (255, 40 * i, 7)).all(axis=1).any() for i in range(n))
