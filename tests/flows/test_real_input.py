"""The main job on real images and real weights: what the README promises, from real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

GRAFT = Path(sys.executable).with_name("graft")


def run(repository: Path, folder: Path, config: str, *overrides: str) -> dict:
    """Run ``graft run`` as a user does, with everything it writes in ``folder``."""
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
    print(f"{config}: test accuracy {report['accuracy']:.2%} of {report['n']} images")
    assert decision["promoted"]
    assert decision["champion_version"] is None
    frame = pd.read_parquet(report["predictions"])
    assert (frame["label"] == frame["prediction"]).mean() == pytest.approx(report["accuracy"])
    return report


def frozen_tensors_stayed(report: dict, weights: Path, prefixes: tuple[str, ...]) -> bool:
    """Compare the run's weights with the pretrained ones, name by name."""
    before, after = load_file(weights), load_file(Path(report["folder"]) / "model.safetensors")
    same = {name for name in before.keys() & after.keys() if before[name].equal(after[name])}
    return same == {name for name in before if name.startswith(prefixes)}


def test_digits(repository, tmp_path):
    report = run(repository, tmp_path, "digits.yaml")
    assert report["n"] == 361
    assert report["accuracy"] >= 0.97


@pytest.mark.slow
def test_hymenoptera_with_squeezenet(repository, shared, tmp_path):
    report = run(repository, tmp_path, "squeezenet_hymenoptera.yaml")
    assert report["n"] == 153  # the folder named val, held out
    assert report["accuracy"] >= 0.88


@pytest.mark.slow
def test_cifar10_small_with_squeezenet(repository, shared, tmp_path):
    report = run(repository, tmp_path, "squeezenet_cifar10.yaml")
    assert report["n"] == 1000
    assert report["accuracy"] >= 0.75
