"""Searches of real, tiny runs: by validation alone, repeatable, shared, and safe from SIGKILL."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
import yaml
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from prefect.futures import PrefectFuture

from flows.engines import Here
from tasks.errors import ResourceError
from tasks.register.client import connect

SEARCH = {
    "name": "searched",
    "base": {
        "data": {"kind": "folder", "path": "photos"},
        "preprocess": {"resize": 32, "crop": 32},
        "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
        "training": {"epochs": 2, "batch_size": 8, "threads": 1, "learning_rate": 0.01},
    },
    "space": {
        "training.learning_rate": {"low": 0.0001, "high": 1.0, "log": True},
        "training.batch_size": {"choices": [4, 8]},
        "strategy.kind": {"choices": ["full", "partial"]},  # partial needs more than is set
    },
    "metric": "val_loss",
    "sampler": "random",
    "pruner": "none",
    "trials": 5,
}
OPENED: list[str] = []  # every file of packed images that this process has opened


def _note(event: str, arguments: tuple) -> None:
    if event == "open" and str(arguments[0]).endswith(".u8"):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note)
NOT_HERE = "mps" if torch.cuda.is_available() else "cuda"
FACTS = ["number", "state", "val_accuracy", "val_loss", "epochs", "error"]


@pytest.fixture
def write(workspace: Path) -> Callable[..., str]:
    """Return a function that writes a search with changes and returns its file's name."""

    def write(name: str, **changes: object) -> str:
        file = workspace / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**SEARCH, "name": name, **changes}, sort_keys=False))
        return file.name

    return write


@pytest.fixture(scope="module")
def searched(home: Path) -> dict:
    """Return the answer of one search, which several tests look at, and opens no test image."""
    from flows.search_answer import search

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("GRAFT_CACHE", str(home / "cache"))
        (home / "searched.yaml").write_text(yaml.safe_dump(SEARCH, sort_keys=False))
        del OPENED[:]
        answer = search(home / "searched.yaml", [], False)
        opened = {Path(path).name for path in OPENED}
    assert {"train.u8", "val.u8"} <= opened
    assert "test.u8" not in opened
    assert answer.problem is None
    return answer.data


def read_trials(folder: str | Path) -> pd.DataFrame:
    return pd.read_csv(Path(folder) / "trials.csv")


def plain_study(folder: str | Path, name: str) -> optuna.Study:
    path = str(Path(folder) / "study.journal")
    storage = JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
    return optuna.load_study(study_name=name, storage=storage)


def children(parent: str) -> list:
    from tasks.register.client import connect

    client = connect()
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


@pytest.mark.usefixtures("workspace")
def test_plain_optuna_reads_the_same_best(searched: dict):
    study = plain_study(searched["folder"], "searched")
    assert study.best_trial.number == searched["best"]
    whole = {t["number"]: t["val_loss"] for t in searched["trials"] if t["state"] == "complete"}
    assert min(whole, key=whole.get) == searched["best"]
    assert {t.number: t.value for t in study.trials if t.state.name == "COMPLETE"} == whole
    assert all(len(t.intermediate_values) == 2 for t in study.trials if t.number in whole)
    assert searched["trials"][0]["point"] == {
        "training.learning_rate": 0.01,
        "training.batch_size": 8,
        "strategy.kind": "full",
    }


@pytest.mark.usefixtures("workspace")
def test_a_point_that_is_no_run_is_a_failed_trial(searched: dict):
    for trial in searched["trials"]:
        wrong = trial["point"]["strategy.kind"] == "partial"
        assert trial["state"] == ("failed" if wrong else "complete")
        assert ("frozen_stages" in (trial["reason"] or "")) == wrong
    states = {trial["state"] for trial in searched["trials"]}
    assert states == {"complete", "failed"}
    text = (Path(searched["folder"]) / "search.md").read_text()
    assert "It is no valid run" in text
    assert "the best of" in text


@pytest.mark.usefixtures("workspace")
def test_a_folder_and_nested_runs_are_left(searched: dict):
    from tasks.register.client import connect

    folder = Path(searched["folder"])
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *("best.yaml", "search.md", "search.json", "search.png", "search.svg"),
        *("study.journal", "trials", "trials.csv"),
    }
    assert not list(folder.rglob("*.safetensors"))
    client = connect()
    parent = client.get_run(searched["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["sampler"] == "random"
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names >= {"search.md", "search.png", "search.yaml", "best.yaml", "trials.csv"}
    whole = {t["number"]: t for t in searched["trials"] if t["state"] == "complete"}
    runs = children(parent.info.run_id)
    assert {int(run.data.tags["graft.trial"]) for run in runs} == set(whole)
    for run in runs:
        trial = whole[int(run.data.tags["graft.trial"])]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["chosen_val_loss"] == pytest.approx(trial["val_loss"])
        assert float(run.data.params["training.learning_rate"]) == pytest.approx(
            trial["point"]["training.learning_rate"]
        )
        assert len(client.get_metric_history(run.info.run_id, "val_loss")) == 2
        assert not any(name.startswith("test_") for name in run.data.metrics)


@pytest.mark.usefixtures("workspace")
def test_a_second_start_trains_nothing_and_another_does_the_same(searched: dict, graft, write):
    again = graft("search", "searched.yaml", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["trials"] == searched["trials"]
    other = graft("search", write("repeated"))
    assert other.code == 0, other.err
    first, second = (
        read_trials(Path(searched["folder"]).parent / name) for name in ("searched", "repeated")
    )
    columns = [*FACTS, *SEARCH["space"]]
    pd.testing.assert_frame_equal(first[columns], second[columns], check_exact=True)
    assert f"trial {searched['best']}, val_loss" in other.out
    refused = graft("search", "searched.yaml", "base.training.epochs=3")
    assert refused.code == 2
    assert "study searched is of another config" in refused.message


@pytest.fixture
def of_search(workspace: Path) -> Iterator[str]:
    """Name a model that is there for one test: a second champion would stop others' predict."""
    yield "of-search"
    connect().delete_registered_model("of-search")


@pytest.mark.usefixtures("searched", "of_search")
def test_the_best_config_is_run_when_asked_for_and_a_secret_is_told_nowhere(
    workspace: Path, graft, write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tasks.configfile import load_config

    secret = "planted-9c1f"
    monkeypatch.setenv("GRAFT_SECRET_SEARCH_FILE", secret)
    config = write("run", storage=f"sqlite:///{tmp_path}/${{secret:search-file}}.db")
    result = graft(
        "search", config, "trials=1", "base.promotion.model=of-search", "--run", "--json"
    )
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data["run"]["decision"]["promoted"] is True
    assert "test.u8" in {Path(path).name for path in OPENED}
    assert data["run"]["decision"]["model"] == "of-search"
    assert load_config(Path(data["best_config"])).training.learning_rate == 0.01
    database = f"sqlite:///{tmp_path}/{secret}.db"
    assert len(optuna.load_study(study_name="run", storage=database).trials) == 1
    assert secret not in result.out + result.err
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert any("${secret:search-file}" in path.read_text(errors="replace") for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.usefixtures("searched")
def test_a_bad_trial_is_pruned_and_a_twin_is_not_trained(workspace: Path, graft, write):
    """Five good trials, of one point, and then a bad one: the median's first chance to prune."""
    space = {"training.learning_rate": {"choices": [1e-9, 0.02]}}
    training = SEARCH["base"]["training"] | {"learning_rate": 0.02, "epochs": 4}
    wanted = [0.02, 0.02, 0.02, 0.02, 1e-9]
    seed = next(seed for seed in itertools.count() if draws(seed, [1e-9, 0.02], 5) == wanted)
    changes = {"space": space, "pruner": "median", "trials": 10, "seed": seed}
    config = write("pruned", base={**SEARCH["base"], "training": training}, **changes)
    result = graft("search", config, "--json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    by_state = {
        state: [t for t in data["trials"] if t["state"] == state]
        for state in ("complete", "pruned")
    }
    assert len(by_state["complete"]) + len(by_state["pruned"]) == 10
    assert by_state["pruned"], data["trials"]
    assert {t["point"]["training.learning_rate"] for t in by_state["pruned"]} == {1e-9}
    assert all(t["epochs"] < 4 for t in by_state["pruned"])
    trained = [t for t in data["trials"] if t["same_as"] is None]
    assert len(trained) == 2
    for trial in data["trials"]:
        like = trained[trial["point"]["training.learning_rate"] != 0.02]
        assert trial["same_as"] in (None, like["number"])
        assert trial["val_loss"] == like["val_loss"]
    runs = {int(r.data.tags["graft.trial"]): r for r in children(data["run_id"])}
    assert set(runs) == {t["number"] for t in trained}
    pruned = runs[by_state["pruned"][0]["number"]]
    assert pruned.info.status == "FINISHED"
    assert pruned.data.tags["graft.pruned"].startswith("after epoch")
    folders = {path.name for path in (Path(data["folder"]) / "trials").iterdir()}
    assert folders == {f"{t['number']:05}" for t in trained if t["state"] == "complete"}


@pytest.mark.usefixtures("searched")
def test_a_killed_process_loses_no_finished_trial(workspace: Path, graft, write, prefect_url: str):
    """Two processes share the trials; one is killed in the middle of one, and the other ends."""
    space = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    training = SEARCH["base"]["training"] | {"epochs": 12}
    config = write("killed", base={**SEARCH["base"], "training": training}, space=space, trials=8)
    command = [sys.executable, "-m", "flows.cli", "search", config]
    found: dict = {}
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    environment = os.environ | {"PREFECT_API_URL": prefect_url}  # a server of its own takes 7 s
    with subprocess.Popen(command, **quiet, env=environment) as other:
        folder = workspace / "mlruns" / "runs" / "killed"
        wait_until(lambda: ended(folder) >= 1)

        def kill_in_the_middle() -> None:
            mine = f" {other.pid} "
            wait_until(lambda: shares(folder, mine) >= {"theirs", "mine in the middle"})
            other.kill()
            other.wait()
            found["before"] = whole(folder)

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        result = graft("search", config, "--json")
        killer.join()
    assert result.code == 0, result.err
    data = json.loads(result.out)
    counts = {s: sum(t["state"] == s for t in data["trials"]) for s in ("complete", "lost", "open")}
    assert counts == {"complete": 8, "lost": 1, "open": 0}
    assert found["before"]
    assert found["before"].items() <= whole(folder).items()
    lost = next(t for t in data["trials"] if t["state"] == "lost")
    again = [t for t in data["trials"] if t["point"] == lost["point"] and t is not lost]
    assert [t["state"] for t in again] == ["complete"]
    assert f"trial {lost['number']} is lost" in result.err
    runs = children(data["run_id"])
    status = {int(run.data.tags["graft.trial"]): run.info.status for run in runs}
    assert status.pop(lost["number"]) == "KILLED"
    assert set(status.values()) == {"FINISHED"}
    assert len(status) == 8
    assert not (folder / "trials" / f"{lost['number']:05}").exists()


class KilledOnce(Here):
    """An engine whose first process, so it says, was killed after its work and before its word."""

    killed = False

    def outcome(self, future: PrefectFuture) -> object:
        if KilledOnce.killed:
            return super().outcome(future)
        KilledOnce.killed = True
        return ResourceError("Its process was killed; memory may have run out.\nStart again.")


@pytest.mark.usefixtures("searched")
def test_a_trial_whose_process_is_killed_is_tried_again(
    workspace: Path, graft, write, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.search_turns.open_engine", lambda *_: nullcontext(KilledOnce()))
    space = {"training.momentum": {"low": 0.5, "high": 0.95}}
    result = graft("search", write("shot", trials=2, space=space), "--json")
    assert result.code == 0, result.err
    trials = json.loads(result.out)["trials"]
    assert [t["state"] for t in trials] == ["lost", "complete", "complete"]
    assert trials[0]["point"] == trials[1]["point"] != trials[2]["point"]
    assert "trial 0 is lost (Its process was killed; memory may have run out.)" in result.err
    folders = (workspace / "mlruns" / "runs" / "shot" / "trials").iterdir()
    assert sorted(path.name for path in folders) == ["00001", "00002"]


@pytest.mark.usefixtures("searched")
@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("base.strategy.kind=gradual_unfreeze base.training.epochs=1", 2, "gradual_unfreeze"),
        ("base.data.path=nowhere", 3, "nowhere"),
        (f"base.training.device={NOT_HERE}", 8, NOT_HERE),
    ],
)
def test_what_would_stop_every_trial_stops_the_search(
    workspace: Path, graft, write, change: str, code: int, words: str
):
    space = {"training.momentum": {"low": 0.5, "high": 0.95}}
    name = f"stopped-{code}"
    config = write(name, space=space)
    for _ in range(2):  # the second start has the base's point under another number
        result = graft("search", config, *change.split())
        assert (result.code, words in result.message) == (code, True), result.message
        assert len(result.message.splitlines()) <= 2
    journal = workspace / "mlruns" / "runs" / name / "study.journal"
    if journal.exists():  # nothing counts, so that it goes on once that is mended
        states = [t.state.name for t in plain_study(journal.parent, name).get_trials()]
        assert states == ["FAIL", "FAIL", "WAITING"]


@pytest.mark.usefixtures("searched")
def test_a_base_that_failed_is_corrected_and_no_other_searchs_run_is_touched(graft, write):
    space = {"training.momentum": {"low": 0.5, "high": 0.95}}
    config = write("mended", space=space)
    wrong = "base.strategy.kind=gradual_unfreeze base.training.epochs=1"
    assert graft("search", config, *wrong.split(), "trials=1").code == 2
    result = graft("search", config, "trials=2", "timeout=1e-9", "--run", "--json")
    assert "none was begun in time" in result.message
    result = graft("search", config, "trials=1", "--json")
    assert result.code == 0, result.err
    first = json.loads(result.out)
    assert [trial["state"] for trial in first["trials"]] == ["complete"]
    late = graft("search", config, "trials=2", "timeout=1e-9", "--run", "--json")
    assert late.code == 0, late.err
    data = json.loads(late.out)
    assert "run" not in data  # its test images are opened once, when the search is whole
    assert data["run_id"] == first["run_id"]
    other = graft("search", write("same-values", space=space), "trials=1", "--json")
    assert json.loads(other.out)["run_id"] != first["run_id"]


@pytest.mark.usefixtures("searched")
def test_a_run_that_cannot_be_written_to_is_closed(workspace: Path, graft, write):
    from tasks.register.client import connect

    config = write("unwritten")
    assert graft("search", config, "trials=1").code == 0
    client = connect()
    run = client.create_run(client.get_experiment_by_name("graft").experiment_id)
    client.log_param(run.info.run_id, "seed", "99")  # MLflow refuses another value
    study = plain_study(workspace / "mlruns" / "runs" / "unwritten", "unwritten")
    study.set_user_attr("graft.run", run.info.run_id)
    assert graft("search", config, "trials=1").code == 7
    assert client.get_run(run.info.run_id).info.status == "FAILED"


def draws(seed: int, choices: list[float], n: int) -> list[float]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    space = {"x": optuna.distributions.CategoricalDistribution(choices)}
    return [study.ask(fixed_distributions=space).params["x"] for _ in range(n)]


def whole(folder: Path) -> dict[int, float]:
    trials = plain_study(folder, folder.name).get_trials()
    return {t.number: t.value for t in trials if t.state.name == "COMPLETE"}


def ended(folder: Path) -> int:
    return len(whole(folder)) if (folder / "study.journal").exists() else 0


def shares(folder: Path, mine: str) -> set[str]:
    """Say which of both processes has trials, and whether the named one is in the middle of one."""
    found = set()
    for trial in plain_study(folder, folder.name).get_trials():
        own = mine in trial.user_attrs.get("graft.process", "")
        if not own and trial.user_attrs:
            found.add("theirs")
        if own and trial.state.name == "RUNNING" and 1 <= len(trial.intermediate_values) <= 8:
            found.add("mine in the middle")
    return found


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
