"""The main job on shards: trained from a stream, and every room behind it as with a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

SPEED = ("evaluation.latency_runs=0", "evaluation.explained_images=0", "evaluation.bootstrap=50")


@pytest.fixture
def given(workspace: Path, tmp_path: Path, graft) -> Iterator[tuple[str, ...]]:
    """Return what is said to a command for the good photos as shards of at most ten."""
    target = str(tmp_path / "shards")
    assert graft("shards", "good.yaml", "--output", target, "--images-a-shard", "10").code == 0
    data = ("data.kind=shards", f"data.path={target}")
    yield ("good.yaml", *data, "promotion.model=streamed", "output.folder=streamed", *SPEED)
    shutil.rmtree(workspace / "streamed", ignore_errors=True)


def test_a_run_on_shards_is_one_like_any_other(given, workspace: Path, tmp_path: Path, graft):
    from tasks.register.client import connect

    result = graft("run", *given, "training.epochs=6", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["report"]["n"], found["report"]["accuracy"]) == (8, 1.0)  # as of the folder
    assert found["report"]["seen"] == {"images": 0, "complete": True}
    card = next((workspace / "streamed").glob("*/README.md")).read_text()
    assert "images 28 for training, 4 for validation" in card
    assert "Near copies of training images were not looked for." in card
    assert _sources(connect(create=False), found["decision"]["run_id"]) == [
        str(tmp_path / "shards")
    ]

    # nothing changed: the index says so, and no shard is read
    for path in (tmp_path / "shards").glob("*.tar"):
        path.unlink()
    again = graft("retrain", *given, "training.epochs=6", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["retrain"]["trained"] is False
    scored = graft("evaluate", *given, "--model", found["decision"]["uri"], "--json")
    assert json.loads(scored.out)["accuracy"] == 1.0

    # of a folder with the same images, split by another seed, it learned from some test images
    named = ("evaluate", "good.yaml", *SPEED, "seed=5", "--model", found["decision"]["uri"])
    assert graft(*named, "--report", str(tmp_path / "report")).code == 0
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert 0 < written["seen"]["images"] <= written["n"]


def _sources(client: MlflowClient, run_id: str) -> list[str]:
    inputs = client.get_run(run_id).inputs.dataset_inputs
    assert len(inputs) == 3
    assert {each.dataset.source_type for each in inputs} == {"local"}
    return list({json.loads(each.dataset.source)["uri"] for each in inputs})


def test_backbones_are_ranked_by_some_images_of_a_stream(given, workspace: Path, graft, tmp_path):
    import yaml

    base = yaml.safe_load(Path("good.yaml").read_text())
    base["data"] |= {"kind": "shards", "path": given[2].partition("=")[2]}
    tiny = {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"}
    base |= {"model": tiny, "strategy": {"kind": "full"}}
    study = {"base": base, "candidates": [tiny, tiny | {"weights": None}], "images": 20}
    (tmp_path / "rank.yaml").write_text(json.dumps(study))
    result = graft("rank", str(tmp_path / "rank.yaml"), "--json")
    assert result.code == 0, result.err
    assert [row["images"] for row in json.loads(result.out)["backbones"]] == [20, 20]
    refused = graft("rank", str(tmp_path / "rank.yaml"), "images=null")
    assert refused.code == 2
    assert "images=10000" in refused.message
