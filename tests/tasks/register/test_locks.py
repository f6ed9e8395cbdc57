"""One mover at a time: real processes, a real sqlite store, and a real MLflow server."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.errors import ResourceError, TransientTrackingError
from tasks.register import locks
from tasks.register.aliases import read_aliases
from tasks.register.history import read_events
from tasks.register.locks import LOCK, locked
from tasks.register.registry import version_numbers

RACERS = 8
# a process that has imported all and starts no thread forks those that race: eight imports take
# half a minute on two cores
RACE = """
import json, os, signal, sys, tempfile, time
from pathlib import Path
from tasks.errors import GraftError
from tasks.register.aliases import move_champion
from tasks.register.client import connect
from tasks.register.locks import locked

folder, apart, racers = Path(sys.argv[1]), sys.argv[2] == "apart", int(sys.argv[3])

def child(act):
    pid = os.fork()
    if pid:
        return pid
    try:
        act()
        os._exit(0)
    except GraftError as error:
        (folder / f"{os.getpid()}.txt").write_text(str(error))
        os._exit(error.exit_code)
    except BaseException as error:
        (folder / f"{os.getpid()}.txt").write_text(f"unexpected {error!r}")
        os._exit(99)

def machine(name):  # another machine knows nothing of this one's file locks
    tempfile.tempdir = str(folder / name)
    Path(tempfile.tempdir).mkdir()

ready, start = os.pipe(), os.pipe()

def race(number):
    if apart:
        machine(f"machine-{number}")
    client = connect(create=False)
    version = client.get_model_version("m", str(number))
    os.write(ready[1], b".")
    os.read(start[0], 1)
    move_champion(client, version, 1, "first")

def hold():
    with locked(connect(create=False), "m"):
        os.write(ready[1], b".")
        time.sleep(600)

def wait(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    words = folder / f"{pid}.txt"
    return code, words.read_text() if words.exists() else ""

pids = {number: child(lambda: race(number)) for number in range(2, 2 + racers)}
for _ in pids:
    os.read(ready[0], 1)
os.write(start[1], b"." * racers)
results = {number: wait(pid) for number, pid in pids.items()}

holder = child(hold)
os.read(ready[0], 1)
os.kill(holder, signal.SIGKILL)
wait(holder)
killed = time.monotonic()
with locked(connect(create=False), "m"):
    waited = time.monotonic() - killed
print(json.dumps({"results": results, "waited": waited}))
"""


def race(client: MlflowClient, folder, place: str) -> None:
    """Let 8 processes make 8 versions champion at once, and one die while it holds the lock."""
    client.create_registered_model("m")
    for _ in range(1 + RACERS):
        client.create_model_version("m", source="s3://nowhere/m")
    client.set_registered_model_alias("m", "champion", "1")
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(folder), place, str(RACERS)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    results = {int(number): tuple(result) for number, result in told["results"].items()}
    winners = [number for number, (code, _) in results.items() if code == 0]
    assert len(winners) == 1, results
    for number in results.keys() - winners:
        code, words = results[number]
        assert code == 7
        assert words.startswith(f"Champion of m is version {winners[0]} by now (promoted by ")
        assert f"while version {number} was to follow version 1." in words
        assert len(words.splitlines()) == 2
    model = client.get_registered_model("m")
    aliases = read_aliases(model)
    assert (aliases.champion, aliases.previous) == (winners[0], 1)
    (event,) = read_events(model)
    assert event.moves == {"champion": (1, winners[0]), "previous": (None, 1)}
    assert LOCK not in model.tags
    assert told["waited"] < locks.LEASE_SECONDS / 2  # the dead holder's lock is free at once


def test_of_eight_processes_one_wins_in_a_local_store(store, tmp_path):
    race(store, tmp_path, "together")


def test_of_eight_machines_one_wins_on_a_server(mlflow_server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    client = MlflowClient(locks.tracking_uri())
    race(client, tmp_path, "apart")
    claims_of_others(client, tmp_path, monkeypatch)


def claims_of_others(client: MlflowClient, folder, monkeypatch) -> None:
    """Hold that a claim in the registry is waited for, goes stale, and is never overrun."""
    monkeypatch.setattr(locks.tempfile, "tempdir", str(folder))
    owner = json.dumps({"owner": "process 7 on far", "token": "a"})
    client.set_registered_model_tag("m", LOCK, owner)
    with monkeypatch.context() as patch:
        patch.setattr(locks, "WAIT_SECONDS", 0.5)
        words = "locked by process 7 on far;"
        with pytest.raises(TransientTrackingError, match=words) as caught, locked(client, "m"):
            pytest.fail("another holds it")
        assert len(str(caught.value).splitlines()) == 2
        assert client.get_registered_model("m").tags[LOCK] == owner

    monkeypatch.setattr(locks, "LEASE_SECONDS", 4.0)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 1.0)
    began = time.monotonic()
    with locked(client, "m") as confirm:
        assert 4 < time.monotonic() - began < 60  # stale
        confirm()
        client.set_registered_model_tag("m", LOCK, owner)
        with pytest.raises(TransientTrackingError, match=r"was lost.*\nNothing was moved"):
            confirm()
    assert client.get_registered_model("m").tags[LOCK] == owner  # not ours to take away
    client.delete_registered_model_tag("m", LOCK)

    with monkeypatch.context() as patch:  # no write is in time, so none may be believed
        patch.setattr(locks, "SETTLE_SECONDS", 0.0)
        patch.setattr(locks, "WAIT_SECONDS", 1.0)
        with pytest.raises(TransientTrackingError, match="is too slow"), locked(client, "m"):
            pytest.fail("its write was late")


def test_the_lock_is_waited_for_and_let_go_on_an_error(store, monkeypatch):
    store.create_registered_model("m")
    with pytest.raises(ZeroDivisionError), locked(store, "m"):
        raise ZeroDivisionError
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.2)
    with locked(store, "m"), locked(store, "other"):
        words = r"waited 0\.2 s"
        with pytest.raises(TransientTrackingError, match=words) as caught, locked(store, "m"):
            pytest.fail("it is held")
        assert len(str(caught.value).splitlines()) == 2
    with locked(store, "m"):
        pass
    assert version_numbers(store, "m") == set()


def test_a_note_that_is_damaged_is_of_no_dead_process(store, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.3)
    store.create_registered_model("m")
    (tmp_path / "note").write_bytes(b"\xff")
    claim = locks._Claim(store, "m", tmp_path / "note", time.monotonic() + 30)
    claim.take(lambda: None)
    assert (tmp_path / "note").read_text() == claim.token


def test_one_store_has_one_lock_whichever_way_its_address_is_written(store, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.2)
    (tmp_path / "link").symlink_to(tmp_path / "mlruns")
    monkeypatch.chdir(tmp_path)
    with locked(store, "m"):
        for address in ("sqlite:///mlruns/mlflow.db", f"sqlite:///{tmp_path}/link/mlflow.db?x=1"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            with pytest.raises(TransientTrackingError), locked(store, "m"):
                pytest.fail("it is held")


@pytest.mark.parametrize("kind", ["link", "open to all", "file"])
def test_a_folder_for_locks_that_others_may_write_to_is_refused(kind, tmp_path, monkeypatch):
    """Everybody may make what is called so in /tmp before the user does."""
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path))
    theirs, ours = tmp_path / "theirs", tmp_path / f"graft-locks-{os.getuid()}"
    theirs.mkdir()
    if kind == "link":
        ours.symlink_to(theirs)
    elif kind == "file":
        ours.write_text("")
    else:
        ours.mkdir()
        ours.chmod(0o777)
    with pytest.raises(ResourceError) as caught:
        locks._scratch()
    assert str(caught.value).count("\n") == 1
    assert list(theirs.iterdir()) == []


def test_the_folder_for_locks_is_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path))
    assert locks._scratch() == locks._scratch()
    assert locks._scratch().stat().st_mode & 0o777 == 0o700


def test_a_store_on_this_machine_is_known_by_its_path(tmp_path):
    for address in (str(tmp_path / "runs"), (tmp_path / "runs").as_uri()):
        assert locks._local_store(address) == tmp_path / "runs"
    assert locks._local_store("http://localhost:5000") is None


@pytest.fixture
def refuse(store, tmp_path):
    """Return what makes the database refuse a kind of write to the tags of registered models."""

    def make(kind: str) -> None:
        with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
            database.execute(
                f"CREATE TRIGGER no_{kind} BEFORE {kind} ON registered_model_tags "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )

    store.create_registered_model("m")
    return make


def test_a_claim_that_the_database_refuses_is_anothers_turn_or_a_fault(store, refuse, tmp_path):
    claim = locks._Claim(store, "m", tmp_path / "note", time.monotonic() + 30)
    refuse("INSERT")
    with pytest.raises(MlflowException):
        claim._write(time.monotonic())
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute("DROP TRIGGER no_INSERT")
    store.set_registered_model_tag("m", LOCK, "another's")
    refuse("UPDATE")
    assert claim._write(time.monotonic()) is False
    assert not (tmp_path / "note").exists()


def test_a_claim_that_another_writes_over_does_not_count(store, refuse, tmp_path, monkeypatch):
    def overwritten(_: float) -> None:
        store.set_registered_model_tag("m", LOCK, "another's")

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=overwritten)
    monkeypatch.setattr(locks, "time", clock)
    claim = locks._Claim(store, "m", tmp_path / "note", time.monotonic() + 30)
    assert claim._write(time.monotonic()) is False
    assert not (tmp_path / "note").exists()
    claim.release()  # it is not this process's to take away
    assert store.get_registered_model("m").tags[LOCK] == "another's"


def test_a_claim_that_cannot_be_taken_away_is_said(store, refuse, tmp_path, caplog):
    claim = locks._Claim(store, "m", tmp_path / "note", time.monotonic() + 30)
    store.set_registered_model_tag("m", LOCK, claim.token)
    refuse("DELETE")
    claim.release()
    assert f"the lock of m stays for {locks.LEASE_SECONDS:g} s" in caplog.text


@pytest.mark.parametrize("token", ["", "[1]", "{}"])
def test_of_a_token_of_nobody_no_process_is_named(token):
    assert locks._holder(token) == "one process after another"


def test_who_holds_a_lock_is_named():
    assert locks._holder(locks._token()).startswith(f"process {os.getpid()} on ")
