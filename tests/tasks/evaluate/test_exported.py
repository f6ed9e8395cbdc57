"""Exported files against the network they came from: real exporters, real runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.artifacts import sha256_file
from tasks.errors import ConfigError, EvaluationError
from tasks.evaluate.calibration import scaled
from tasks.evaluate.evaluate import score_weights
from tasks.evaluate.export_program import export_program
from tasks.evaluate.export_scores import score_export
from tasks.evaluate.exported import open_file, write_file
from tasks.evaluate.quantise import CALIBRATION_IMAGES, calibration_batches
from tasks.pretrained.architectures import build
from tasks.pretrained.network import restore_network
from tasks.values import InputSpec, RegisteredModel


def registered(
    folder: Path, architecture: str, classes: tuple[str, ...], spec: InputSpec, seed: int = 0
) -> RegisteredModel:
    """Write random weights, batch norm's statistics included, as a version's would be."""
    torch.manual_seed(seed)
    network = build(architecture, len(classes), spec.crop)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.2, 0.5)
            nn.init.normal_(module.running_mean, std=0.2)
    weights = folder / f"{architecture.replace(':', '_')}-{seed}.safetensors"
    save_file(network.state_dict(), weights)
    return RegisteredModel(
        uri="models:/small/1",
        name="small",
        version=1,
        architecture=architecture,
        classes=classes,
        input=spec,
        weights=weights,
        sha256=sha256_file(weights),
        temperature=0.7,
    )


@pytest.mark.parametrize(
    ("architecture", "kind", "crop"),
    [
        ("graft_tiny", "onnx", 32),
        ("squeezenet1_0", "onnx", 64),
        ("mobilenet_v3_small", "torch_export", 64),
        ("timm:test_vit", "onnx", 160),
    ],
)
def test_a_file_says_what_the_network_says_of_any_number_of_images(
    architecture, kind, crop, prepared, tmp_path
):
    spec = prepared.input.model_copy(update={"crop": crop, "resize": crop})
    model = registered(tmp_path, architecture, prepared.classes, spec)
    written = write_file(model, kind, tmp_path, prepared.val, seed=0)
    assert [path.name for path in tmp_path.glob("model.*")] == [written.path.name]
    runtime = open_file(kind, written.path)
    network = restore_network(architecture, len(prepared.classes), model.weights)
    for b in (1, 2, 7):
        images_bchw = torch.randn(b, 3, crop, crop).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            wanted_bk, got_bk = network(images_bchw), runtime(images_bchw)
        size = float(wanted_bk.abs().max())
        assert size > 1e-4  # else any file would agree
        assert got_bk.numpy() == pytest.approx(wanted_bk.numpy(), abs=1e-4 * max(size, 0.1))


@pytest.fixture
def tiny(prepared, tmp_path) -> RegisteredModel:
    return registered(tmp_path, "graft_tiny", prepared.classes, prepared.input)


def test_int8_takes_its_ranges_from_validation(tiny, prepared, tmp_path):
    onnx = pytest.importorskip("onnx")
    written = write_file(tiny, "int8", tmp_path, prepared.val, seed=3)
    assert written.path.stat().st_size < 0.5 * written.from_float.stat().st_size
    graph = onnx.load(written.path).graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    (first,) = (node for node in graph.node if "images_bchw" in node.input)
    assert first.op_type == "QuantizeLinear"
    seen = np.concatenate(list(calibration_batches(prepared.val, tiny.input, 3)))
    assert len(seen) == prepared.val.n
    span = max(seen.max(), 0) - min(seen.min(), 0)  # 0 must be among the 256 values
    assert float(values[first.input[1]]) == pytest.approx(span / 255, rel=1e-5)
    assert {values[name].dtype for name in values if name.endswith("weight_quantized")} == {
        np.dtype(np.int8)
    }


def test_calibration_images_are_drawn_by_the_seed(prepared):
    split, spec = prepared.train, prepared.input

    def drawn(seed):
        return np.concatenate(list(calibration_batches(split, spec, seed)))

    assert len(drawn(0)) == min(split.n, CALIBRATION_IMAGES)
    assert np.array_equal(drawn(0), drawn(0))
    assert not np.array_equal(drawn(0), drawn(1))


@pytest.mark.parametrize("several", [False, True])
def test_a_file_is_scored_like_its_source(several, tiny, prepared, make_config, tmp_path):
    test = prepared.test
    if several:
        labels_nk = (np.arange(test.n * 3).reshape(test.n, 3) * 7 % 5 < 2).astype(np.uint8)
        np.save(test.labels, labels_nk)
        test = test.model_copy(update={"multi_label": True})
    data = prepared.model_copy(
        update={"test": test, "train": prepared.train.model_copy(update={"multi_label": several})}
    )
    model = tiny.model_copy(update={"multi_label": several})
    config = make_config(evaluation={"novelty": False, "calibrate": False, "latency_runs": 2})
    written = write_file(model, "torch_export", tmp_path, prepared.val, seed=0)
    assert torch.export.load(written.path).example_inputs is None
    found = score_export(config, data, model, "torch_export", written)
    wanted = scaled(score_weights(config, model, test), 0.7)
    assert found.scores.multi_label == several
    assert found.scores.probabilities_nc == pytest.approx(wanted.probabilities_nc, abs=1e-6)
    assert found.agreement < 1e-6
    assert found.report.accuracy == wanted.accuracy
    assert found.report.model_sha256 == sha256_file(written.path)
    speed = found.report.speed
    assert speed.size_mib == written.path.stat().st_size / 2**20
    assert (speed.parameters, speed.gflops) == (
        found.source_speed.parameters,
        found.source_speed.gflops,
    )


def test_a_file_of_other_weights_does_not_agree(tiny, prepared, make_config, tmp_path):
    other = registered(tmp_path, "graft_tiny", prepared.classes, prepared.input, seed=1)
    written = write_file(other, "torch_export", tmp_path, prepared.val, seed=0)
    config = make_config(evaluation={"novelty": False, "calibrate": False, "latency_runs": 0})
    with pytest.raises(EvaluationError, match="torch_export of models:/small/1 differs") as caught:
        score_export(config, prepared, tiny, "torch_export", written)
    assert "Nothing is written" in str(caught.value)


class Undecided(nn.Module):
    """Does one thing or another, as its input's values say: no fixed program does that."""

    def forward(self, images_bchw):
        return images_bchw.mean((2, 3)) * (2 if images_bchw.sum() > 0 else 3)


def test_what_cannot_be_exported_is_named_in_two_lines(prepared):
    with pytest.raises(EvaluationError) as caught:
        export_program(Undecided(), prepared.input, "undecided_net")
    first, second = str(caught.value).splitlines()
    assert first.startswith("undecided_net cannot be exported: ")
    assert len(first) > len("undecided_net cannot be exported: ")
    assert second.startswith("Try another")


def test_what_is_no_exported_file_is_an_error_of_two_lines(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EvaluationError, match="cannot be exported"):
        open_file("onnx", tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_said(package, tiny, prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match="uv sync --extra export"):
        write_file(tiny, "onnx", tmp_path, prepared.val, seed=0)
