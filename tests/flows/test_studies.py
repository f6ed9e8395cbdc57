"""``graft rank`` and ``graft lr-find``: what they print, write, refuse and leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tasks.configfile import dump_config, load_config
from tasks.rankconfig import RankConfig
from tests.flows.recorded import Recorded, ended

CANDIDATES = [
    {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
    {"architecture": "graft_tiny", "weights": None},
]


@pytest.fixture
def rank_yaml(workspace: Path) -> str:
    """Return the name of a config that ranks two backbones on 40 photos."""
    base = load_config(
        workspace / "good.yaml",
        ["strategy.kind=full", "model.weights=graft:tiny-cifar10", "name=ranked"],
    )
    settings = {"base": yaml.safe_load(dump_config(base)), "candidates": CANDIDATES}
    (workspace / "rank.yaml").write_text(yaml.safe_dump(settings))
    return "rank.yaml"


def folders(workspace: Path, what: str) -> list[Path]:
    found = (workspace / "mlruns" / "runs").glob(f"*-{what}-*")
    return sorted(found, key=lambda folder: folder.stat().st_mtime_ns)  # names differ


def test_rank_prints_a_table_and_writes_its_files(workspace: Path, graft, rank_yaml: str):
    result = graft("rank", rank_yaml, "neighbours=3")
    assert result.code == 0, result.err
    for word in ("LogME", "H-score", "kNN", "(1)", "graft_tiny (graft:tiny-cifar10)", "rank.md"):
        assert word in result.out
    assert "Kendall" not in result.out
    folder = folders(workspace, "rank")[-1]
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "rank.json", "rank.md", "rank.png", "rank.svg"}
    again = load_config(folder / "config.yaml", [], RankConfig)
    assert again.neighbours == 3
    assert [candidate.weights for candidate in again.candidates] == ["graft:tiny-cifar10", None]


def test_verify_fine_tunes_them_all_and_keeps_none(workspace: Path, graft, rank_yaml: str):
    result = graft("rank", rank_yaml, "--verify", "--json")
    answer = json.loads(result.out)
    assert result.code == 0
    assert [0 <= row["val_accuracy"] <= 1 for row in answer["backbones"]] == [True, True]
    assert [row["score"] for row in answer["agreements"]] == ["logme", "h_score", "knn"]
    assert sorted(answer["ranks"]["logme"]) == [1, 2]
    folder = Path(answer["folder"])
    assert not list(folder.rglob("*.safetensors"))
    assert not list(folder.glob(".*"))
    assert "After fine-tuning" in (folder / "rank.md").read_text()


def test_every_candidate_is_a_task_run_and_the_table_an_artifact(
    workspace: Path, graft, rank_yaml: str, recorded: Recorded
):
    assert graft("rank", rank_yaml, "base.name=shown").code == 0
    # both loads and ranks, and the images of a local folder
    runs = recorded.task_runs("shown", ended(5))
    assert runs.count(("rank graft_tiny", "Completed")) == 2
    rows = json.loads(dict(recorded.artifacts("shown"))["backbones"].data)
    assert [set(row) >= {"backbone", "LogME (nats)", "H-score"} for row in rows] == [True, True]


# overrides, exit code, words of the message
WRONG = {
    "one candidate": (["candidates=[{weights: null}]"], 2, ["candidates", "at least 2"]),
    "unknown key": (["neighbors=3"], 2, ["neighbors", "Did you mean neighbours?"]),
    "unknown network": (
        ["candidates=[{weights: null}, {architecture: resnet999}]"],
        4,
        ["resnet999", "Did you mean"],
    ),
    "several labels": (
        ["base.data.multi_label=true", "base.data.kind=manifest"],
        2,
        ["base.data.multi_label=false"],
    ),
    "missing weights": (
        ["candidates=[{weights: null}, {architecture: graft_tiny, weights: gone.pth}]"],
        4,
        ["gone.pth"],
    ),
    "recipe that does not fit": (
        ["verify=true", "base.strategy.kind=lp_ft"],  # of one epoch
        2,
        ["training.epochs"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.usefixtures("unchanged")
def test_a_wrong_ranking_is_explained_and_leaves_nothing(
    workspace: Path, graft, rank_yaml: str, case: str
):
    overrides, code, words = WRONG[case]
    result = graft("rank", rank_yaml, *overrides)
    assert result.code == code, result.err
    assert all(word in result.message for word in words), result.message
    assert len(result.message.strip().splitlines()) <= 2
    assert "Traceback" not in result.err


def test_a_run_is_no_ranking(workspace: Path, graft):
    result = graft("rank", "good.yaml")
    assert result.code == 2
    assert "Did you mean base" in result.message


def test_lr_find_prints_what_to_set(workspace: Path, graft):
    result = graft("lr-find", "good.yaml", "training.head_learning_rate=0.1", "--json")
    answer = json.loads(result.out)
    assert result.code == 0
    assert answer["head_learning_rate"] == pytest.approx(10 * answer["valley"])
    folder = folders(workspace, "lr-find")[-1]
    assert answer["folder"] == str(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"lr_find.json", "lr_find.png", "lr_find.svg"}
    shown = graft("lr-find", "good.yaml").out
    for word in ("valley", "steep", "limit", "lr_find.png", "set         training.learning_rate="):
        assert word in shown


@pytest.mark.usefixtures("unchanged")
def test_lr_find_that_fails_leaves_nothing(workspace: Path, graft):
    # batch norm has no variance over one value a channel
    result = graft("lr-find", "good.yaml", "training.batch_size=1", "model.architecture=resnet18")
    assert result.code == 5
    assert "training.batch_size=2" in result.message
