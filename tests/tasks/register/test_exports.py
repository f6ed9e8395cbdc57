"""Exports of a really registered version: let out, refused, kept with MLflow, damaged."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.artifacts import sha256_file
from tasks.config import RunConfig
from tasks.errors import ConfigError, EvaluationError, TrackingError
from tasks.evaluate.evaluate import score_weights
from tasks.evaluate.exported import ExportSpec, open_exported
from tasks.evaluate.score import score
from tasks.register.exports import ExportReport, export_version
from tasks.register.promote import register
from tasks.register.registry import fetch
from tasks.register.tracking import open_run


@pytest.fixture
def model(store, strong):
    """Register ``strong`` and fetch it."""
    with open_run(strong.config) as tracker:
        register(
            strong.config,
            strong.raw,
            strong.prepared,
            strong.model,
            strong.report,
            tracker.run_id,
        )
    return fetch("models:/colours/1", strong.config.output.cache)


def asking(config: RunConfig, **promotion: object) -> RunConfig:
    """Return ``config`` with a margin that 90 images can show, and little measured."""
    settings = {"model": "colours", "margin": 0.1} | promotion
    return config.model_copy(
        update={
            "promotion": type(config.promotion)(**settings),
            "evaluation": config.evaluation.model_copy(
                update={"novelty": False, "calibrate": False, "latency_runs": 2, "bootstrap": 0}
            ),
        }
    )


def left_over(config: RunConfig, folder: Path) -> list[str]:
    """Return what a refusal must not leave: folders for the output, scratch in the cache."""
    cache = Path(str(config.output.cache))
    return [path.name for path in (*folder.glob("*out*"), *cache.glob(".*"))]


def test_what_passes_is_whole_described_and_kept_with_the_run(store, strong, model, tmp_path):
    config = asking(strong.config, floors={"accuracy": 0.5}, limits={"size_mib": 50})
    target = tmp_path / "out"
    report = export_version(config, strong.prepared, model, "onnx", target, register=True)
    names = ["export.json", "model.onnx", "spec.json"]
    assert sorted(path.name for path in target.iterdir()) == names
    assert ExportReport.model_validate_json((target / "export.json").read_bytes()) == report
    assert left_over(config, tmp_path) == ["out"]

    spec = ExportSpec.model_validate_json((target / "spec.json").read_bytes())
    assert spec == report.spec
    assert (spec.source, spec.source_sha256) == ("models:/colours/1", model.sha256)
    assert (spec.classes, spec.input, spec.temperature) == (
        model.classes,
        model.input,
        model.temperature,
    )
    assert spec.sha256 == sha256_file(target / "model.onnx")
    assert spec.agreement < 1e-4

    assert report.accuracy == report.source_accuracy == strong.report.accuracy
    assert (report.n, report.wins, report.losses) == (strong.report.n, 0, 0)
    assert report.difference_low <= 0 <= report.difference_high
    assert report.p_value < report.level == 0.025
    assert report.reasons[0].startswith("Not worse than version 1 by 10.00% or more: ")
    assert report.checks[0].startswith("accuracy is ")
    assert report.figures["size_mib"] == report.size_mib == report.speed.size_mib

    version = store.get_model_version("colours", "1")
    assert version.tags["graft.export.onnx"] == spec.sha256
    kept = store.list_artifacts(version.run_id, "exports/onnx")
    assert sorted(Path(file.path).name for file in kept) == names

    again, runtime = open_exported(target)
    assert again == spec
    found = score(runtime, strong.prepared.test, model.input, torch.device("cpu"), 7)
    wanted = score_weights(strong.config, model, strong.prepared.test)
    assert np.array_equal(found.predictions_n, wanted.predictions_n)

    content = bytearray((target / "model.onnx").read_bytes())
    content[-100] ^= 1
    (target / "model.onnx").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"model\.onnx is missing or is not the file"):
        open_exported(target)
    (target / "spec.json").write_text("{}")
    with pytest.raises(EvaluationError, match="describes no exported model"):
        open_exported(target)


def test_a_refusal_says_every_reason_and_leaves_nothing(store, strong, model, tmp_path):
    config = asking(
        strong.config,
        margin=0.001,  # 90 images can show no loss as small as that
        floors={"accuracy": 1.5, "recall[red]": 0.01},
        limits={"size_mib": 1e-6},
        minimum_test_images=91,
    )
    with pytest.raises(EvaluationError) as caught:
        export_version(
            config, strong.prepared, model, "torch_export", tmp_path / "a" / "out", register=True
        )
    reasons, way_out = str(caught.value).splitlines()
    for words in (
        "torch_export of models:/colours/1 is refused: ",
        "fewer than promotion.minimum_test_images=91",
        "accuracy is ",
        "below its floor of 1.5",
        "above its limit of 1e-06",
        "Not shown not to be worse than version 1 by 0.10% or more",
    ):
        assert words in reasons
    assert "recall[red]" not in reasons
    assert "champion" not in reasons
    assert "promotion.margin" in way_out
    assert left_over(config, tmp_path) == []
    assert not (tmp_path / "a").exists()
    version = store.get_model_version("colours", "1")
    assert not [tag for tag in version.tags if tag.startswith("graft.export.")]
    assert not store.list_artifacts(version.run_id, "exports")


def test_images_that_the_version_learned_from_let_nothing_out(strong, model, tmp_path):
    seen = strong.prepared.model_copy(update={"test": strong.prepared.train})
    with pytest.raises(EvaluationError, match="learned from 150 of the 150 test images"):
        export_version(asking(strong.config), seen, model, "torch_export", tmp_path / "out")
    assert left_over(strong.config, tmp_path) == []


def broken_by_eight_bits(weights: Path, target: Path) -> Path:
    """Give one of the last maps a huge offset that the head ignores.

    In float32 nothing changes; in 8 bits with one scale for all maps the others become 0.
    """
    state = load_file(weights)
    last = max(name for name in state if name.endswith(".bn2.bias"))
    state[last][0] = 1e4
    state["fc.weight"][:, 0] = 0
    save_file(state, target)
    return target


def test_a_file_that_quantisation_broke_is_refused(strong, model, tmp_path):
    weights = broken_by_eight_bits(model.weights, tmp_path / "broken.safetensors")
    broken = model.model_copy(update={"weights": weights, "sha256": sha256_file(weights)})
    config = asking(strong.config)
    before = score_weights(config, broken, strong.prepared.test).accuracy
    assert before > 0.7  # the float network is as good as ever
    with pytest.raises(EvaluationError) as caught:
        export_version(config, strong.prepared, broken, "int8", tmp_path / "out")
    assert "int8 of models:/colours/1 is refused: Not shown not to be worse" in str(caught.value)
    assert left_over(config, tmp_path) == []


def test_int8_that_passes_states_what_it_lost(strong, model, tmp_path):
    config = asking(strong.config)
    report = export_version(config, strong.prepared, model, "int8", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "export.json",
        "model.onnx",
        "spec.json",
    ]
    gain = (report.wins - report.losses) / report.n
    assert written["difference"] == pytest.approx(report.accuracy - report.source_accuracy)
    assert report.difference == pytest.approx(gain)
    assert report.size_mib < 0.5 * report.float_size_mib
    assert report.float_speed.size_mib == report.float_size_mib
    assert report.spec.agreement > 0


def test_a_version_of_no_run_is_not_kept_with_one(
    store, strong, model, publish, tiny_models, tmp_path
):
    number = publish(store, "alone", tiny_models[0])
    alone = model.model_copy(update={"name": "alone", "uri": f"models:/alone/{number}"})
    with pytest.raises(TrackingError, match="without --register"):
        export_version(
            asking(strong.config),
            strong.prepared,
            alone,
            "torch_export",
            tmp_path / "out",
            register=True,
        )
    assert left_over(strong.config, tmp_path) == []


def test_an_export_that_is_not_both_here_and_with_the_run_is_nowhere(
    store, strong, model, tmp_path
):
    def export(target: Path) -> None:
        config = asking(strong.config)
        export_version(config, strong.prepared, model, "torch_export", target, register=True)

    theirs = tmp_path / "out"
    theirs.mkdir()
    (theirs / "model.pt2").write_text("another process's")  # made after the command looked
    with pytest.raises(ConfigError, match="was made by another process meanwhile") as caught:
        export(theirs)
    assert len(str(caught.value).splitlines()) == 2
    assert [path.name for path in theirs.iterdir()] == ["model.pt2"]

    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON model_version_tags "
            "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )
    database.close()
    with pytest.raises(TrackingError, match="refused by the test"):
        export(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    version = store.get_model_version("colours", "1")
    assert not [tag for tag in version.tags if tag.startswith("graft.export.")]
    assert not store.list_artifacts(version.run_id, "exports")
