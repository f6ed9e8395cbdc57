"""MLflow's server: for this machine alone, and with basic auth for who knows the password alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import mlflow.artifacts
import pytest
import requests
from mlflow import MlflowClient

from tasks.errors import TrackingError
from tasks.register.registry import list_versions

USER, PASSWORD = "admin", "mlflow-secret-8e21"


@pytest.fixture
def locked(server, port, tmp_path: Path, empty_store: Path, monkeypatch) -> subprocess.Popen[bytes]:
    """Start a server as docs/security.md says, and name it; nobody's login is known."""
    shutil.copy(empty_store, tmp_path / "server.db")
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
    )
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(tmp_path / "auth.ini"))
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "key-of-the-test")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    uri = f"http://127.0.0.1:{port}"
    store = f"--backend-store-uri=sqlite:///{tmp_path / 'server.db'}"
    files = f"--artifacts-destination={tmp_path / 'files'}"
    words = ["mlflow", "server", "--app-name=basic-auth", store, files, f"--port={port}"]
    process = server([*words, "--workers=1"], f"{uri}/health")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return process


def test_nobody_is_let_in_without_the_password(locked, listening, monkeypatch, tmp_path: Path):
    assert listening(locked.pid) == {"127.0.0.1"}
    # its first answers take longer than graft waits for one, where the machine is busy
    assert [_asked(login) for login in (None, "wrong", PASSWORD)] == [401, 401, 200]
    for password in (None, "wrong", "password1234"):  # the last was MLflow's own once
        if password is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with pytest.raises(TrackingError) as caught:
            list_versions()
        said = str(caught.value)
        assert len(said.splitlines()) <= 2
        assert "401" in said or "credentials" in said
        assert PASSWORD not in said
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert list_versions() == []
    # the files, which the server passes on, are behind the same password
    client = MlflowClient()
    run = client.create_run("0")
    client.log_text(run.info.run_id, "kept", "note.txt")
    address = f"runs:/{run.info.run_id}/note.txt"
    assert Path(mlflow.artifacts.download_artifacts(address)).read_text() == "kept"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(Exception, match="401"):
        mlflow.artifacts.download_artifacts(address, dst_path=str(tmp_path / "again"))
    assert not list((tmp_path / "again").rglob("note.txt"))


def _asked(password: str | None) -> int:
    """Return what the server answers to a search for models, whoever asks."""
    login = None if password is None else (USER, password)
    address = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/search"
    return requests.get(address, auth=login, timeout=60).status_code
