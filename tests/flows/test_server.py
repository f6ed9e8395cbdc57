"""Prefect without a server of the user's: ours is started, found, and gone with the run."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.server import start_server, using
from tasks.errors import ResourceError, TrackingError

BARE = ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a home folder in which Prefect was never used."""
    for name in BARE:
        # set first, so that what the code under test sets is taken back too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_address_in_the_environment_is_used_as_it_is(bare: Path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert start_server() is None
    assert not (bare / "mlruns").exists()


def test_an_address_in_the_active_profile_is_used(bare: Path):
    (bare / ".prefect").mkdir()
    (bare / ".prefect" / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n'
    )
    assert start_server() is None
    assert "PREFECT_HOME" not in os.environ


def test_a_named_server_that_is_not_there_is_said(home: Path):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(TrackingError, match=r"http://127.0.0.1:9/api.*does not answer"),
        using(None),
    ):
        pass


def test_a_server_that_does_not_start_is_said(bare: Path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense://")
    server = start_server()
    assert server is not None
    with pytest.raises(ResourceError, match=r"server\.log"):
        server.wait()
    server.stop()


@pytest.mark.slow
def test_neither_a_broken_profile_nor_a_lost_server_stops_a_run_and_no_process_is_left(
    home: Path, bare: Path
):
    """The server that begins again knows the run."""
    (bare / ".prefect").mkdir()
    (bare / ".prefect" / "profiles.toml").write_text("this is = = no TOML")
    (bare / "photos").symlink_to(home / "photos")
    command = [sys.executable, "-m", "flows.cli", "run", str(home / "good.yaml"), "--json"]
    said = ""
    with (
        (bare / "told.json").open("w") as told,
        subprocess.Popen(command, stdout=told, stderr=subprocess.PIPE, text=True) as process,
    ):
        for line in process.stderr:
            said += line
            if line.startswith("pretrained"):
                break
        for pid in servers(bare):
            os.kill(pid, signal.SIGKILL)
        said += process.stderr.read()
    assert process.returncode == 0, said
    assert json.loads((bare / "told.json").read_text())["decision"]["version"] == 1
    assert "profiles.toml is not read" in said
    assert said.count("was lost: it begins again") == 1
    assert "prefect._internal" not in said
    assert "is not in the Prefect UI" not in said
    with sqlite3.connect(bare / "mlruns" / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("COMPLETED",)]
    assert servers(bare) == []


def test_the_server_is_for_this_machine_alone_and_ends_when_its_run_is_killed(
    bare: Path, listening
):
    code = (
        "from flows.server import start_server as s; s().wait(); print('up', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    assert len(servers(bare)) == 1
    assert listening(process.pid) == {"127.0.0.1"}
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while servers(bare) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert servers(bare) == []


def servers(folder: Path) -> list[int]:
    """Return the Prefect servers that were started in ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if "flows.server" in words and process.info["cwd"] == str(folder):
            found.append(process.pid)
    return found
