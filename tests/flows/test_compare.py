"""A grid of real, tiny runs: whole tables, nested runs, and going on after a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from tests.flows.recorded import Recorded

GRID = {
    "name": "grid",
    "base": {
        "data": {"kind": "folder", "path": "photos"},
        "preprocess": {"resize": 32, "crop": 32},
        "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
        "training": {"epochs": 1, "batch_size": 8, "threads": 1, "learning_rate": 0.01},
    },
    "datasets": {"photos": {}},
    "backbones": {"tiny": {}},
    "strategies": {"full": {}, "ema": {"strategy.kind": "ema"}},
    "seeds": [0, 1],
}


@pytest.fixture
def write(workspace: Path) -> Iterator[Callable[..., str]]:
    """Return a function that writes a grid with changes and returns its file's name."""

    def write(name: str, **changes: object) -> str:
        file = workspace / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**GRID, "name": name, **changes}, sort_keys=False))
        return file.name

    return write


@pytest.fixture(scope="module")
def compared(home: Path) -> dict:
    """Return the answer of one comparison, which several tests look at."""
    from flows.compare_answer import compare

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("GRAFT_CACHE", str(home / "cache"))
        (home / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
        answer = compare(home / "grid.yaml", [])
    assert answer.problem is None
    return answer.data


def children(parent: str) -> list:
    from tasks.register.client import connect

    client = connect()
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


def accuracies(comparison: dict) -> dict[tuple[str, int], tuple[float, float]]:
    return {
        (o["strategy"], o["seed"]): (o["figures"]["val_accuracy"], o["figures"]["test_accuracy"])
        for o in comparison["outcomes"]
    }


@pytest.mark.usefixtures("workspace")
def test_the_table_is_whole_and_agrees_with_the_cells(compared: dict):
    folder = Path(compared["folder"])
    cells = pd.read_csv(folder / "cells.csv")
    assert len(cells) == 4
    assert cells.error.isna().all()
    for row in compared["rows"]:
        own = cells[cells.strategy == row["strategy"]]
        assert row["val"]["n"] == 2
        assert row["test"]["mean"] == pytest.approx(own.test_accuracy.mean())
        assert row["test"]["std"] == pytest.approx(own.test_accuracy.std(ddof=1))
        assert row["trainable_parameters"] == own.trainable_parameters.max() > 0
    assert compared["supported"] == "full"  # two seeds show no more
    assert {path.name for path in folder.iterdir()} == {
        "cells.csv",
        "cells.parquet",
        "comparison.json",
        "comparison.md",
        "comparison.png",
        "comparison.svg",
    }


@pytest.mark.usefixtures("workspace")
def test_a_seed_changes_the_validation_split_and_never_the_test(compared: dict):
    reports = {
        path.parent.name: json.loads(path.read_text())
        for path in Path(compared["folder"]).parent.glob("cells/*/report.json")
    }
    assert len(reports) == 4
    models = [
        json.loads(p.read_text())["model"]
        for p in Path(compared["folder"]).parent.glob("cells/*/cell.json")
    ]
    assert len({model["data_digest"] for model in models}) == 2
    assert not any(Path(model["weights"]).exists() for model in models)


@pytest.mark.usefixtures("workspace")
def test_each_cell_is_a_run_nested_in_one(compared: dict):
    from tasks.register.client import connect

    client = connect()
    parent = client.get_run(compared["run_id"])
    assert parent.info.status == "FINISHED"
    assert "photos/tiny/full/val_accuracy_mean" in parent.data.metrics
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names >= {"comparison.md", "comparison.png", "comparison.yaml", "cells.csv"}
    runs = children(parent.info.run_id)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    expected = accuracies(compared)
    for run in runs:
        place = (run.data.params["strategy.kind"], int(run.data.params["seed"]))
        metrics = run.data.metrics
        found = (metrics["chosen_val_accuracy"], metrics["test_accuracy"])
        assert found == pytest.approx(expected.pop(place))
        assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 1
    assert not expected
    assert all(version.name != "grid" for version in client.search_model_versions())


@pytest.mark.usefixtures("workspace")
def test_each_cell_is_a_task_run_and_the_report_an_artifact(compared: dict, recorded: Recorded):
    wanted = {
        (f"photos · tiny · {s} · seed {n}", "Completed") for s in ("full", "ema") for n in (0, 1)
    }
    assert wanted <= set(recorded.task_runs("grid", lambda runs: wanted <= set(runs)))
    artifacts = [(key, str(made.data)) for key, made in recorded.artifacts("grid")]
    assert any(key == "comparison" and "The table supports" in data for key, data in artifacts)
    assert any(key == "strategies" and "ema" in data for key, data in artifacts)


@pytest.mark.usefixtures("workspace")
def test_a_second_start_runs_what_is_new_alone(compared: dict, graft):
    from flows.search_storage import locked

    with locked(Path(compared["folder"]).parent / ".lock"):
        pass  # as a search of the same name does
    again = graft("compare", "grid.yaml", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["run_id"] == compared["run_id"]
    assert accuracies(json.loads(again.out)) == accuracies(compared)
    assert "4 of 4 cells were there already" in again.err
    more = graft("compare", "grid.yaml", "seeds=[0,1,2]")
    assert more.code == 0, more.err
    assert [line.split()[1] for line in more.err.splitlines() if " · seed " in line] == [
        "5/6",
        "6/6",
    ]
    assert "to full (t p, Wilcoxon p)" in more.out
    assert len(children(compared["run_id"])) == 6


@pytest.mark.usefixtures("workspace")
def test_processes_give_the_same_table(compared: dict, graft, write):
    result = graft("compare", write("processes"), "parallel=2", "--json")
    assert result.code == 0, result.err
    assert accuracies(json.loads(result.out)) == accuracies(compared)
    assert [run.info.status for run in children(json.loads(result.out)["run_id"])] == [
        "FINISHED"
    ] * 4
    assert "prefect" not in result.err.lower()


def test_a_cell_that_fails_stops_no_other(workspace: Path, graft, write):
    learn = {"kind": "distill", "teacher": "cell:full"}
    config = write(
        "odd",
        seeds=[0],
        strategies={
            "pupil": {"strategy": learn},
            "orphan": {"strategy": learn | {"teacher": "cell:bad"}},
            "bad": {"strategy": {"kind": "partial", "frozen_stages": 99}},
            "full": {},
        },
    )
    result = graft("compare", config, "--json")
    comparison = json.loads(result.out)
    assert (result.code, comparison["error"]["exit_code"]) == (2, 2), result.message
    failed = {o["strategy"]: o["failure"] for o in comparison["outcomes"] if o["failure"]}
    assert set(failed) == {"bad", "orphan"}
    assert "99" in failed["bad"]["message"]
    assert "photos · tiny · bad · seed 0" in failed["orphan"]["message"]
    assert comparison["supported"] == "full"
    folder = Path(comparison["folder"])
    assert "photos · tiny · bad · seed 0" in (folder / "comparison.md").read_text()
    kept = [path.parent.name for path in folder.parent.glob("cells/*/model.safetensors")]
    assert [name.split("-")[2] for name in kept] == ["full"]  # the teacher alone
    assert (
        "2 of 4 cells failed; photos · tiny · bad · seed 0: strategy.frozen_stages"
        in result.message
    )


def test_one_at_a_time_works_on_a_comparison(workspace: Path, graft, write):
    import fcntl

    config = write("twice")
    folder = workspace / "mlruns" / "runs" / "twice"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = graft("compare", config)
    assert result.code == 2
    assert "running already" in result.message


def test_a_name_that_is_damaged_is_replaced_and_that_is_said(tmp_path: Path, caplog):
    from flows.compare import NAME, _alone

    names = set()
    for content in (None, b"", b"\xff\xfe", b"\0" * 32, b"a name"):
        if content is not None:
            (tmp_path / NAME).write_bytes(content)
        with _alone(tmp_path) as name, caplog.at_level("WARNING", "flows"):
            names.add(name)
        assert (f"{tmp_path / NAME} is damaged" in caplog.text) == bool(content)
        caplog.clear()
        with _alone(tmp_path) as again:
            assert again == name
    assert len(names) == 5


@pytest.mark.usefixtures("workspace")
def test_a_history_that_is_damaged_is_not_replayed_in_part(compared: dict, tmp_path: Path, caplog):
    from flows.cells import Finished, _replayed

    told: list = []
    tracker = SimpleNamespace(epoch=told.append)
    path = next(Path(compared["folder"]).parent.glob("cells/*/cell.json"))
    finished = Finished.model_validate_json(path.read_bytes())
    assert _replayed(finished, tracker)
    assert [record.epoch for record in told] == [1]
    model = finished.model.model_copy(update={"history": tmp_path / "history.jsonl"})
    damaged = finished.model_copy(update={"model": model})
    for content in (None, b"\xff", b"{", b"{}"):
        if content is not None:
            model.history.write_bytes(finished.model.history.read_bytes() + content)
        with caplog.at_level("WARNING", "flows"):
            assert not _replayed(damaged, tracker)
        assert f"{model.history} cannot be read" in caplog.text
        caplog.clear()
    assert len(told) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_killed_goes_on(
    workspace: Path, compared: dict, graft, prefect_url: str, number: int
):
    cells = Path(compared["folder"]).parent / "cells"
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/cell.json")}
    slow = {"full": {}, "slow": {"training.epochs": 50 + number}}
    (workspace / "slow.yaml").write_text(
        yaml.safe_dump({**GRID, "strategies": slow, "seeds": [0]}, sort_keys=False)
    )
    command = [sys.executable, "-m", "flows.cli", "compare", "slow.yaml", "parallel=2"]
    environment = os.environ | {"PREFECT_API_URL": prefect_url}  # a server of its own takes 7 s
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        wait_for(cells, "slow")
        started.send_signal(number)
        started.communicate(timeout=60)
    assert started.returncode in (128 + number, -number)
    result = graft("compare", "slow.yaml", "--json")
    assert result.code == 0, result.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    runs = children(json.loads(result.out)["run_id"])
    whole = [run.data.tags["graft.cell"] for run in runs if run.info.status == "FINISHED"]
    assert sorted(name.split("-")[2] for name in whole) == ["full", "slow"]
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}


def wait_for(cells: Path, strategy: str) -> None:
    """Return when a cell of ``strategy`` has trained an epoch, and is not whole."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for folder in cells.glob(f"*-{strategy}-*"):
            if (folder / "history.jsonl").exists() and not (folder / "cell.json").exists():
                return
        time.sleep(0.02)
    raise AssertionError(f"no cell of {strategy} began in {cells}")
