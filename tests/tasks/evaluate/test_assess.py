"""Of a registered version what is served is reported, and of any model its own parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, softmax
from torch import nn

from tasks.artifacts import sha256_file
from tasks.errors import EvaluationError
from tasks.evaluate.evaluate import evaluate, score_weights
from tasks.measures import Seen
from tasks.pretrained.tiny import GraftTiny
from tasks.values import PreparedDataset, RegisteredModel

SETTINGS = {"latency_runs": 1, "bootstrap": 0, "explained_images": 0, "rejection_error": 0.5}


@pytest.fixture
def version(prepared, tmp_path) -> RegisteredModel:
    """Return a version with a temperature and thresholds that no validation would choose."""
    torch.manual_seed(0)
    network = GraftTiny(num_classes=len(prepared.classes))
    nn.init.normal_(network.fc.weight, std=0.5)
    weights = tmp_path / "model.safetensors"
    save_file(network.state_dict(), weights)
    return RegisteredModel(
        uri="models:/small/1",
        name="small",
        version=1,
        architecture="graft_tiny",
        classes=prepared.classes,
        input=prepared.input,
        weights=weights,
        sha256=sha256_file(weights),
        temperature=0.7,
    )


def several(prepared: PreparedDataset) -> PreparedDataset:
    """Return the same images with labels that come and go."""
    splits = {}
    for name in ("train", "val", "test"):
        split = getattr(prepared, name)
        labels_nk = (np.arange(split.n * 3).reshape(split.n, 3) * 7 % 5 < 2).astype(np.uint8)
        np.save(split.labels, labels_nk)
        splits[name] = split.model_copy(update={"multi_label": True})
    return prepared.model_copy(update=splits)


def folder_in(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("many", [False, True])
def test_a_version_is_reported_as_it_is_served(many, version, prepared, make_config, tmp_path):
    prepared = several(prepared) if many else prepared
    config = make_config(evaluation=SETTINGS)
    raw = score_weights(config, version, prepared.test)
    logits = np.log(raw.probabilities_nc.astype(float))
    if many:
        logits -= np.log1p(-raw.probabilities_nc.astype(float))
        p = expit(logits / 0.7)
        sure = np.maximum(p, 1 - p).prod(axis=1)
        right = ((p > 0.5) == raw.labels_n).all(axis=1)
    else:
        p = softmax(logits / 0.7, axis=1)
        sure, right = p.max(axis=1), p.argmax(axis=1) == raw.labels_n
    least, most = float(np.quantile(sure, 0.3)) + 1e-4, float(np.quantile(raw.energy_n, 0.6)) + 1e-6
    served = {"reject_below": least, "novel_above": most, "multi_label": many}
    prepared.val.images.unlink()  # nothing is chosen, so that nothing need open it
    report = evaluate(
        config, prepared, version.model_copy(update=served), folder_in(tmp_path), Seen(**SOME)
    )
    rejection, novelty = report.rejection, report.novelty
    assert (rejection.threshold, novelty.threshold) == (least, most)
    assert rejection.test_coverage == pytest.approx((sure >= least).mean())
    assert rejection.test_error == pytest.approx(1 - right[sure >= least].mean())
    assert novelty.test_flagged == pytest.approx((raw.energy_n > most).mean())
    chosen_elsewhere = (rejection.wanted_error, rejection.val_coverage, novelty.kept)
    assert chosen_elsewhere == (None, None, None)
    assert report.calibration is None
    for name in ("report.md", "report.html", "README.md"):
        text = (folder := report.folder) and (folder / name).read_text()
        assert f"{least:.4f}" in text
        assert "temperature 0.7, no answer below" in text
        assert "validation images stay below" not in text
    assert json.loads(report.report.read_text())["seen"] == SOME


SOME = {"images": 3, "complete": True}


def test_a_version_without_thresholds_has_none(version, prepared, make_config, tmp_path):
    report = evaluate(make_config(evaluation=SETTINGS), prepared, version, folder_in(tmp_path))
    assert (report.rejection, report.novelty, report.calibration) == (None, None, None)


def test_parameters_are_the_models_whatever_fusing_left(version, prepared, make_config, tmp_path):
    report = evaluate(make_config(evaluation=SETTINGS), prepared, version, folder_in(tmp_path))
    network = GraftTiny(num_classes=3)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert report.speed.parameters == sum(one.numel() for one in network.parameters())


@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
@pytest.mark.parametrize("many", [False, True])
def test_outputs_that_are_no_numbers_are_refused_in_two_lines(
    bias, many, version, prepared, make_config, tmp_path
):
    prepared = several(prepared) if many else prepared
    network = load_file(version.weights)
    network["fc.bias"][1] = bias
    save_file(network, version.weights)
    broken = version.model_copy(
        update={"sha256": sha256_file(version.weights), "multi_label": many}
    )
    with pytest.raises(EvaluationError, match="outputs are no finite numbers") as caught:
        evaluate(make_config(evaluation=SETTINGS), prepared, broken, folder_in(tmp_path))
    n = prepared.test.n
    assert str(caught.value).startswith(f"Of {n} of {n} test images")
    assert (caught.value.exit_code, str(caught.value).count("\n")) == (6, 1)
