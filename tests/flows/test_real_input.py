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
def run(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return ``graft run`` as a user calls it; its accuracy is printed also when all is well."""

    def call(config: str, *overrides: str) -> dict:
        report = graft_run(repository, tmp_path, config, *overrides)
        with capsys.disabled():
            print(f"\n{config}: test accuracy {report['accuracy']:.2%} of {report['n']} images")
        return report

    return call


def graft_run(repository: Path, folder: Path, config: str, *overrides: str) -> dict:
    """Run ``graft run`` with everything it writes in ``folder``."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "GRAFT_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "prefect"),
    }
    done = subprocess.run(
        [GRAFT, "run", f"configs/{config}", *overrides, f"output.folder={folder}/runs", "--json"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
    )
    print(done.stderr)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    report, decision = answer["report"], answer["decision"]
    assert decision["promoted"]
    assert decision["champion_version"] is None
    frame = pd.read_parquet(report["predictions"])
    assert (frame["label"] == frame["prediction"]).mean() == pytest.approx(report["accuracy"])
    return report


def unmoved(report: dict, weights: Path) -> set[str]:
    """Return the names of the tensors that are, bit for bit, as they were pretrained."""
    before, after = load_file(weights), load_file(Path(report["folder"]) / "model.safetensors")
    return {name for name in before.keys() & after.keys() if before[name].equal(after[name])}


def test_digits(run):
    report = run("digits.yaml")
    assert report["n"] == 361
    assert report["accuracy"] >= 0.97


@pytest.mark.slow
def test_hymenoptera_with_squeezenet(run, shared):
    report = run("squeezenet_hymenoptera.yaml")
    assert report["n"] == 153  # the folder named val, held out
    assert report["accuracy"] >= 0.88
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
