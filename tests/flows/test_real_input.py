"""The main job on real images and real weights: what the README promises, from real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

GRAFT = Path(sys.executable).with_name("graft")

Run = Callable[..., dict]


@pytest.fixture
def run(graft, repository: Path, tmp_path: Path, monkeypatch, capfd) -> Run:
    """Return ``graft run`` in this process, whose imports and Prefect server are there already.

    What it writes is in ``tmp_path``. Its accuracy is printed also when all is well.
    """
    monkeypatch.chdir(repository)  # the configs' paths are relative
    for name, value in places(tmp_path).items():
        monkeypatch.setenv(name, value)

    def call(config: str, *overrides: str) -> dict:
        result = graft(*words(config, tmp_path), *overrides)
        assert result.code == 0, result.err
        with capfd.disabled():
            return checked(config, result.out)

    return call


def places(folder: Path) -> dict[str, str]:
    """Return the settings that keep tracking and caches in ``folder``."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "GRAFT_CACHE": str(folder / "cache"),
    }


def words(config: str, folder: Path) -> tuple[str, ...]:
    return "run", f"configs/{config}", f"output.folder={folder}/runs", "--json"


def checked(config: str, answer: str) -> dict:
    """Return the report of a run that made the first champion; its accuracy is its file's."""
    told = json.loads(answer)
    report, decision = told["report"], told["decision"]
    print(f"\n{config}: test accuracy {report['accuracy']:.2%} of {report['n']} images")
    assert decision["promoted"]
    assert decision["champion_version"] is None
    frame = pd.read_parquet(report["predictions"])
    assert (frame["label"] == frame["prediction"]).mean() == pytest.approx(report["accuracy"])
    return report


def unmoved(report: dict, weights: Path) -> set[str]:
    """Return the names of the tensors that are, bit for bit, as they were pretrained."""
    before, after = load_file(weights), load_file(Path(report["folder"]) / "model.safetensors")
    return {name for name in before.keys() & after.keys() if before[name].equal(after[name])}


def test_digits(repository: Path, tmp_path: Path, capsys):
    """As a user calls it: a process of its own, with a Prefect server of its own."""
    done = subprocess.run(
        [GRAFT, *words("digits.yaml", tmp_path)],
        cwd=repository,
        env=os.environ | places(tmp_path) | {"PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        report = checked("digits.yaml", done.stdout)
    assert report["n"] == 361
    assert report["accuracy"] >= 0.97


@pytest.mark.slow
def test_hymenoptera_with_squeezenet(run, shared):
    report = run("squeezenet_hymenoptera.yaml")
    assert report["n"] == 153  # the folder named val, held out
    assert report["accuracy"] >= 0.75  # of 18 seeds the least was 77.12%; chance gives 54.25%
    # partial transfer: the first four stages, and nothing else, are reused frozen
    held = {"features.0", "features.3", "features.4", "features.5"}
    same = unmoved(report, shared / "weights" / "squeezenet1_0-imagenet.safetensors")
    assert {".".join(name.split(".")[:2]) for name in same} == held


@pytest.mark.slow
def test_cifar10_small_with_squeezenet(run, shared):
    # half of its epochs, and of the evaluation what is looked at here
    rest = (
        "evaluation.novelty=false",
        "evaluation.explained_images=0",
        "evaluation.latency_runs=0",
    )
    report = run("squeezenet_cifar10.yaml", "training.epochs=2", *rest)
    assert report["n"] == 1000
    assert report["accuracy"] >= 0.70
    # whole transfer: every tensor moved
    assert unmoved(report, shared / "weights" / "squeezenet1_0-imagenet.safetensors") == set()
