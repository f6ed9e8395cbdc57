"""The same weights twice, and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tasks.artifacts import sha256_file
from tasks.finetune import feature_worth
from tasks.finetune.course import open_course
from tasks.finetune.machine import this_machine
from tasks.finetune.progress import Nobody
from tasks.finetune.repeatable import in_fixed_order, repeatability
from tests.tasks.finetune.repeat import CASES, trained
from tests.tasks.shard_folders import CLASSES, picture, shard_folder

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Return where the images are, 72 in class folders and 123 in shards."""
    for number in range(72):
        path = tmp_path / "photos" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, number % 3))
    shards = shard_folder(tmp_path / "shards", (20, 20, 20), val=30, test=33)
    return {"folder": str(tmp_path / "photos"), "shards": shards.path}


def test_two_processes_come_to_the_same_weights(folders, tmp_path):
    """Of another hash seed, working folder, cache, date and history."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = {kind: os.path.relpath(path, elsewhere) for kind, path in folders.items()}
    command = [sys.executable, "-m", "tests.tasks.finetune.repeat"]
    done = subprocess.run(
        [*command, json.dumps(given | {"cache": "cache"})],
        cwd=elsewhere,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(REPOSITORY), "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    other = json.loads(done.stdout)
    here = {"cache": str(tmp_path / "cache")} | folders
    for name, case in CASES.items():
        model = trained(case, here, tmp_path / "runs" / name)
        assert model.sha256 == sha256_file(model.weights) == other[name], name
        assert model.repeatable is not None
        assert model.repeatable.exact
    assert len(set(other.values())) == len(CASES)
    assert list((tmp_path / "cache" / "features").glob("?" * 64))  # so partial was on features
