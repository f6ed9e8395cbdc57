"""A tracking store or a Prefect server that fails within a run: what stays, what is told."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks import retry
from tasks.unfinished import FOLDER, METRICS

Rows = list[tuple[object, ...]]


@contextmanager
def database(workspace: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(
        workspace / "mlruns" / "mlflow.db", isolation_level=None, check_same_thread=False
    )
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def refusing(workspace: Path, when: str, words: str) -> Iterator[sqlite3.Connection]:
    """Let the tracking database refuse one kind of write until the block ends."""
    with database(workspace) as connection:
        connection.execute(
            f"CREATE TRIGGER refusing {when} BEGIN SELECT RAISE(ABORT, '{words}'); END"
        )
        try:
            yield connection
        finally:
            connection.execute("DROP TRIGGER IF EXISTS refusing")


@contextmanager
def doing(logger: str, words: str, action: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as a log line has these words."""

    class Doing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                action()

    handler = Doing()
    logging.getLogger(logger).addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger(logger).removeHandler(handler)


def status(workspace: Path, name: str) -> Rows:
    with database(workspace) as connection:
        return connection.execute("SELECT status FROM runs WHERE name = ?", [name]).fetchall()


def points(workspace: Path, name: str) -> Rows:
    """Return the steps of every point of the validation loss, of all runs of a name."""
    with database(workspace) as connection:
        return connection.execute(
            "SELECT step FROM metrics JOIN runs USING (run_uuid) "
            "WHERE name = ? AND key = 'val_loss'",
            [name],
        ).fetchall()


def folders(workspace: Path, name: str) -> list[Path]:
    return sorted((workspace / "mlruns" / "runs").glob(f"{name}-*"))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer than a tenth of a second before another try of a call outside a task."""
    monkeypatch.setattr(retry, "RETRY_DELAYS", [0.1, 0.1, 0.1])


FACTS = {
    "datasets": "BEFORE INSERT ON inputs",
    "backbone": "BEFORE INSERT ON params WHEN NEW.key = 'backbone.head'",
    "epochs": "BEFORE INSERT ON metrics WHEN NEW.key = 'val_loss'",
    "figures": "BEFORE INSERT ON metrics WHEN NEW.key = 'test_accuracy'",
    "decision": "BEFORE INSERT ON model_version_tags WHEN NEW.key = 'promotion.n'",
    "end": "BEFORE UPDATE ON runs WHEN NEW.status = 'FINISHED'",
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("fact", ["datasets", "backbone", "figures", "end"])
def test_a_busy_tracking_store_is_asked_again(workspace: Path, graft, fact: str):
    name = f"busy-{fact}"
    with refusing(workspace, FACTS[fact], "database is locked") as connection:
        mend = "DROP TRIGGER IF EXISTS refusing"
        with doing("tasks.retry", "Trying again", lambda: connection.execute(mend)):
            result = graft("run", "good.yaml", f"name={name}")
    assert result.code == 0, result.err
    assert result.err.count("Trying again") == 1
    assert status(workspace, name) == [("FINISHED",)]
    assert len(folders(workspace, name)) == 1


@pytest.mark.parametrize("fact", ["epochs", "figures", "decision"])
def test_the_trained_model_is_kept_when_it_cannot_be_tracked(workspace: Path, graft, fact: str):
    name = f"kept-{fact}"
    with refusing(workspace, FACTS[fact], "refused by the test"):
        result = graft("run", "good.yaml", f"name={name}")
    assert result.code == 7, result.err
    (folder,) = folders(workspace, name)
    problem, where = result.message.splitlines()
    assert "refused by the test" in problem
    kept = f"The trained model is kept in {folder}."
    assert where == f"{kept} The same command with --resume goes on there."
    assert {"config.yaml", "history.jsonl", "model.safetensors", "report.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert status(workspace, name) == [("FAILED",)]
    assert (folder / FOLDER / METRICS).exists() == (fact != "decision")
    again = graft("run", "good.yaml", f"name={name}", "--resume")
    assert (again.code, "not tracked" in again.err) == (0, False), again.err
    assert status(workspace, name) == [("FINISHED",)]
    assert points(workspace, name) == [(1,)]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("fact", ["datasets", "backbone"])
def test_nothing_is_kept_when_tracking_fails_before_the_training(workspace: Path, graft, fact: str):
    with refusing(workspace, FACTS[fact], "refused by the test"):
        result = graft("run", "good.yaml", f"name=early-{fact}")
    assert result.code == 7, result.err
    assert "kept" not in result.message


@pytest.mark.usefixtures("unchanged")
def test_a_disk_that_is_full_after_the_evaluation_costs_no_trained_model(workspace: Path, graft):
    with refusing(workspace, FACTS["figures"], "database or disk is full"):
        result = graft("run", "good.yaml", "name=full")
    assert result.code == 8, result.err
    (folder,) = folders(workspace, "full")
    assert f"{folder} is kept: the same command with --resume goes on there" in result.err
    shutil.rmtree(folder)


def test_pages_that_cannot_be_made_do_not_undo_the_run(workspace: Path, graft):
    from tasks.register.registry import list_versions

    def spoil() -> None:
        (folder,) = folders(workspace, "pageless")
        (folder / "report.md").unlink()

    with doing("tasks.register.promote", "models:/small/", spoil):
        result = graft("run", "good.yaml", "name=pageless")
    assert result.code == 0, result.err
    assert "is not in the Prefect UI" in result.err
    assert status(workspace, "pageless") == [("FINISHED",)]
    (folder,) = folders(workspace, "pageless")
    assert (folder / "model.safetensors").is_file()
    assert f"models:/small/{list_versions('small')[0].version}" in result.out


def test_what_comes_after_the_decision_does_not_undo_it(workspace: Path, graft, monkeypatch):
    """Ctrl-C in the moment between the decision and the end of its task."""
    from flows import candidate

    registering = candidate.register_model

    def interrupted(*given: object) -> None:
        registering(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(candidate, "register_model", interrupted)
    result = graft("run", "good.yaml", "name=late")
    assert result.code == 0, result.err
    assert "registered all the same" in result.err
    assert status(workspace, "late") == [("FINISHED",)]
    assert len(folders(workspace, "late")) == 1


LOSING = """
import logging, sys
import flows.server
from flows.cli import main
from flows.server import start_server

flows.server.RESTARTS = 0

class Stop(logging.Handler):
    def emit(self, record):
        if "models:/small/" in record.getMessage():
            from prefect.client import base
            base.clamped_poisson_interval = lambda *_: 0.1  # seconds, not 2 and 4, between tries
            start_server()._process.kill()

logging.getLogger("tasks.register.promote").addHandler(Stop())
sys.exit(main(["run", "good.yaml", "name=alone"]))
"""


@pytest.mark.slow
def test_a_prefect_server_that_is_gone_after_the_decision(workspace: Path, tmp_path: Path):
    """The run it cannot be told of is whole all the same."""
    from tasks.register.registry import list_versions

    before = len(list_versions("small"))
    done = subprocess.run(
        [sys.executable, "-c", LOSING],
        env=os.environ | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error logging" not in done.stderr
    assert "is not in the Prefect UI" in done.stderr
    message = done.stderr[done.stderr.index("graft: ") :]
    assert message.startswith("graft: The Prefect server did not see the run through: ")
    assert len(message.splitlines()) == 2
    assert len(list_versions("small")) == before + 1
    assert status(workspace, "alone") == [("FINISHED",)]
    (folder,) = folders(workspace, "alone")
    assert (folder / "model.safetensors").is_file()
