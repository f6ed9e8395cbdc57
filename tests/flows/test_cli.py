"""The command line: help, output for people and for machines, one word for every failure."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

COMMANDS = ("run", "check", "predict", "evaluate", "models", "ui", "pretrain")


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


def test_run_prints_where_to_look(workspace: Path, graft):
    result = graft("run", "good.yaml")
    assert result.code == 0
    for word in ("accuracy", "report.md", "graft ui", "--model models:/small@champion"):
        assert word in result.out
    for room in ("download", "preprocess", "pretrained", "finetune", "evaluate", "register"):
        assert f"\n{room:<11} " in "\n" + result.err
    assert "images/s" in result.err
    assert "Traceback" not in result.err


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
        "report.json",
        "predictions.parquet",
        "confusion.png",
        "confusion.svg",
        "learning_curve.png",
        "learning_curve.svg",
    }


def test_check_counts_classes_and_trains_nothing(workspace: Path, graft):
    result = graft("check", "good.yaml", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["ok"]) == (0, True)
    assert {name: sum(n.values()) for name, n in answer["classes"].items()} == {
        "blue": 20,
        "red": 20,
    }
    assert answer["backbone"]["architecture"] == "graft_tiny"


def test_check_shows_every_problem(workspace: Path, tmp_path: Path, graft):
    result = graft("check", "good.yaml", "data.path=nowhere", "model.architecture=resnet999")
    assert result.code == 3
    assert "nowhere" in result.message
    assert "resnet999" in result.out


def test_predict_and_evaluate_use_the_champion(workspace: Path, graft):
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


def test_ui_serves_mlflow_until_interrupted(workspace: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.cli", "ui", "--port", str(port), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert json.loads(process.stdout.readline())["address"] == f"http://127.0.0.1:{port}"
            _wait_for(port)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the MLflow UI did not start")


def test_a_reader_that_leaves_is_no_fault(workspace: Path):
    command = f"{sys.executable} -m flows.cli models --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "141")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 8, "Memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory"), 8, "Memory ran out"),
        (OSError(28, "No space left on device"), 8, "disk is full"),
        (KeyboardInterrupt(), 130, "SIGINT"),
        (RuntimeError("database or disk is full"), 8, "disk is full"),
    ],
)
def test_shortages_and_signals_have_their_codes(error: BaseException, code: int, words: str):
    from flows.failures import describe

    outer = RuntimeError("outer")
    outer.__cause__ = error
    failure = describe(error if code == 130 else outer)
    assert failure.exit_code == code
    assert words in failure.message
    assert len(failure.message.splitlines()) <= 2


def test_a_fault_of_ours_is_one_line_and_a_log():
    from flows.failures import describe

    try:
        {}["missing\nkey"]
    except KeyError as error:
        failure = describe(error)
    log = Path(failure.message.rpartition(" in ")[2].rstrip("."))
    assert failure.exit_code == 1
    assert len(failure.message.splitlines()) == 2
    assert "Traceback" in log.read_text()
    log.unlink()
