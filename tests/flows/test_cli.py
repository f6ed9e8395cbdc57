"""The command line: help, output for people and for machines, one word for every failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands import as_typed

COMMANDS = ("run", "check", "predict", "evaluate", "models", "ui", "pretrain", "compare", "search")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(graft, command: str):
    result = graft(command, "--help")
    assert result.code == 0
    assert f"Example: graft {command}" in result.out
    assert "--json" in result.out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from flows.cli import main; main(['run', '--help']);"
        "print([m for m in ('torch', 'prefect', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_command_it_shows_the_commands(graft):
    result = graft()
    assert result.code == 2
    assert all(command in result.out for command in COMMANDS)


def test_run_prints_where_to_look(workspace: Path, graft, monkeypatch):
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # as uv run sets it
    result = graft("run", "good.yaml")
    assert result.code == 0
    for word in ("accuracy", "report.html", "uv run graft ui", "--model models:/small@champion"):
        assert word in result.out
    assert "promotion   not promoted: Not shown to be better" in result.out
    for room in ("download", "preprocess", "pretrained", "finetune", "evaluate", "register"):
        assert f"\n{room:<11} " in "\n" + result.err
    assert "images/s" in result.err
    assert "Traceback" not in result.err


def test_graft_is_named_as_it_can_be_typed(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_typed() == "uv run graft"
    (tmp_path / "graft").touch(mode=0o755)
    assert as_typed() == "graft"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # PATH is uv's then, not the shell's
    assert as_typed() == "uv run graft"


def test_run_as_json_is_one_object(workspace: Path, graft):
    result = graft("run", "good.yaml", "--json", "name=as-json")
    answer = json.loads(result.out)
    assert result.code == 0
    assert answer["decision"]["model"] == "small"
    folder = Path(answer["report"]["folder"])
    assert folder.parent == workspace / "mlruns" / "runs"
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "history.jsonl",
        "model.safetensors",
        "report.html",
        "report.json",
        "report.md",
        "README.md",
        "predictions.parquet",
        "confusion.png",
        "confusion.svg",
        "learning_curve.png",
        "learning_curve.svg",
    }


@pytest.mark.usefixtures("workspace", "registry_copy")
def test_predict_and_evaluate_use_the_champion(graft):
    images = [f"photos/{name}/{i}.png" for name in ("blue", "red") for i in range(3)]
    predicted = json.loads(graft("predict", *images, "--json").out)
    assert [row["path"] for row in predicted["predictions"]] == images
    assert all(row["label"] in ("blue", "red") for row in predicted["predictions"])
    assert graft("predict", images[0]).out.count("photos/blue/0.png") == 1
    model = "models:/small@champion"
    evaluated = json.loads(graft("evaluate", "good.yaml", "--model", model, "--json").out)
    listed = json.loads(graft("models", "small", "--json").out)["versions"]
    champion = next(row for row in listed if "champion" in row["aliases"])
    assert evaluated["accuracy"] == pytest.approx(champion["accuracy"])


@pytest.mark.usefixtures("unchanged")
def test_evaluate_writes_a_whole_report_where_it_is_asked_to(workspace: Path, graft, tmp_path):
    named = ("evaluate", "good.yaml", "--model", "models:/small/1", "evaluation.latency_runs=1")
    target = tmp_path / "new" / "report"
    answer = json.loads(graft(*named, "--report", str(target), "--json").out)
    assert answer["report"] == str(target)
    assert {path.name for path in target.iterdir()} >= {"report.html", "README.md", "report.json"}
    written = json.loads((target / "report.json").read_text())
    assert written["accuracy"] == answer["accuracy"]
    assert written["folder"] == str(target)
    assert written["seen"] == {"images": 0, "complete": True}  # the registry was asked
    page = (target / "report.html").read_text()
    assert "models:/small/1" in page
    assert "none of them is a file that the model learned from" in page
    before = sorted(path.read_bytes() for path in target.rglob("*") if path.is_file())
    again = graft(*named, "--report", str(target))
    assert again.code == 2
    assert (
        again.message == f"graft: {target} is there already.\nName a new folder for the report.\n"
    )
    assert sorted(path.read_bytes() for path in target.rglob("*") if path.is_file()) == before


@pytest.mark.usefixtures("unchanged")
def test_a_report_on_images_that_the_version_learned_from_says_so(workspace, graft, tmp_path):
    """Another seed carves other splits: most of its test images were training images."""
    quick = ("evaluation.latency_runs=0", "evaluation.explained_images=0", "seed=5")
    named = ("evaluate", "good.yaml", "--model", "models:/small/1", *quick)
    assert graft(*named, "--report", str(tmp_path / "report")).code == 0
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    seen = written["seen"]["images"]
    assert 0 < seen <= written["n"]
    for name in ("report.html", "README.md", "report.md"):
        text = (tmp_path / "report" / name).read_text()
        assert f"{seen} of them the model learned from or was chosen by" in text


def test_a_report_that_fails_leaves_no_folder(workspace: Path, graft, tmp_path):
    named = ("evaluate", "good.yaml", "--model", "models:/small/1")
    (tmp_path / "file").write_text("")
    result = graft(*named, "--report", str(tmp_path / "file" / "report"))
    assert result.code == 8
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_reader_that_leaves_is_no_fault(workspace: Path):
    command = f"{sys.executable} -m flows.cli models --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "141")
    assert "Traceback" not in done.stderr
