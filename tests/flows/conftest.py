"""A folder with one good run in it, and the command line called in this process."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tasks.config import RunConfig
from tasks.configfile import dump_config
from tests.flows.digests import digest
from tests.flows.recorded import Recorded

if TYPE_CHECKING:
    from mlflow import MlflowClient

# read when prefect is first imported, which no test has done yet while tests are collected
_HOME = tempfile.TemporaryDirectory(prefix="graft-prefect-")
os.environ["PREFECT_HOME"] = _HOME.name
for _name in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)

CLASSES = ("blue", "red")
IMAGES = 20  # of each class


@dataclass
class Result:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Return what was said about the error: from ``graft:`` on."""
        return self.err[self.err.find("graft: ") :] if "graft: " in self.err else ""


Graft = Callable[..., Result]


def save_images(folder: Path, n: int = IMAGES, seed: int = 0, size: int = 32) -> Path:
    """Write ``n`` noisy images of each class into ``folder/CLASS``, all different."""
    generator = np.random.default_rng(seed)
    for channel, name in ((2, "blue"), (0, "red")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = generator.integers(0, 80, (size, size, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def small_config(**changes: object) -> RunConfig:
    """Return a run of a second: a tiny network from random weights on 40 images."""
    settings: dict[str, object] = {
        "name": "small",
        "data": {"kind": "folder", "path": "photos"},
        "preprocess": {"resize": 32, "crop": 32},
        "model": {"architecture": "graft_tiny", "weights": None},
        "strategy": {"kind": "scratch"},
        "training": {"epochs": 1, "batch_size": 8, "threads": 1, "learning_rate": 0.01},
        "promotion": {"model": "small"},
    }
    return RunConfig.model_validate(settings | changes)


@pytest.fixture(scope="session")
def images() -> Callable[..., Path]:
    """Return a function that writes class folders of images."""
    return save_images


@pytest.fixture
def unchanged(workspace: Path) -> Iterator[None]:
    """Fail unless registry, run folders and data are after the test as they were before."""
    before = _snapshot(workspace)
    yield
    assert _snapshot(workspace) == before


def _snapshot(workspace: Path) -> dict[str, object]:
    """Return what a failed run must leave alone: registry, run folders and data."""
    with sqlite3.connect(workspace / "mlruns" / "mlflow.db") as database:
        tables = ("model_versions", "registered_models", "registered_model_aliases")
        rows = {t: database.execute(f"select * from {t}").fetchall() for t in tables}
    files = {
        str(path.relative_to(workspace)): digest(path)
        for folder in ("mlruns/runs", "photos")
        for path in sorted((workspace / folder).rglob("*"))
        if path.is_file()
    }
    folders = sorted(str(path) for path in (workspace / "mlruns" / "runs").glob("*"))
    return {**rows, "files": files, "folders": folders}


@pytest.fixture
def graft(capfd: pytest.CaptureFixture[str]) -> Graft:
    """Return the command line as a function, run in this process."""
    from flows.cli import main

    def call(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(list(arguments))
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder with data, a config and one registered champion; its run was a real one."""
    from flows.cli import main

    folder = tmp_path_factory.mktemp("home")
    save_images(folder / "photos")
    (folder / "good.yaml").write_text(dump_config(small_config()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert main(["run", "good.yaml"]) == 0
        yield folder


@pytest.fixture
def workspace(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return ``home``, and be in it."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("GRAFT_CACHE", str(home / "cache"))
    return home


@pytest.fixture
def prefect_url(home: Path) -> str:
    """Return the address of the server that this process's runs use."""
    from flows.server import start_server

    server = start_server()
    assert server is not None
    return server.url


@pytest.fixture
def recorded(prefect_url: str) -> Recorded:
    """Return what that server knows of flow runs."""
    return Recorded(prefect_url)


@pytest.fixture
def told_by(prefect_url: str) -> Callable[..., dict[str, Any]]:
    """Return what runs a program of ``tests/benchmarks`` on the server and returns what it tells.

    That is its last line, as JSON.
    """

    def tell(name: str, *arguments: str, timeout: float) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments],
            cwd=Path(__file__).resolve().parents[2],
            env=os.environ | {"PREFECT_API_URL": prefect_url, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return tell


@pytest.fixture
def registry_copy(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Return a client of a copy of ``home``'s registry; it is in use.

    It holds version 1 of small alone: other tests have added versions, and models of their own.
    """
    from mlflow import MlflowClient

    shutil.copy(home / "mlruns" / "mlflow.db", tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    for version in client.search_model_versions("name='small'"):
        if int(version.version) > 1:
            client.delete_model_version("small", version.version)
    client.set_registered_model_alias("small", "champion", "1")
    for model in client.search_registered_models():
        if model.name != "small":
            client.delete_registered_model(model.name)
    return client


@pytest.fixture
def once_more() -> Callable[..., int]:
    """Return what registers version 1's files again, with its decision changed in some fields."""
    from tasks.register.versions import decision_on, write_decision

    def register(client: MlflowClient, **change: object) -> int:
        first = client.get_model_version("small", "1")
        tags = {key: value for key, value in first.tags.items() if key.startswith("graft.")}
        version = client.create_model_version("small", first.source, first.run_id, tags=tags)
        decision = decision_on(first)
        assert decision is not None
        changed = {"promoted": False, "champion_version": 1, **change}
        write_decision(client, version, decision.model_copy(update=changed))
        return int(version.version)

    return register
