"""Real photographs-in-small: three colours in noise, learned by a real, short fine-tuning."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import v2

from tasks.artifacts import sha256_file
from tasks.config import (
    DataConfig,
    ModelConfig,
    OutputConfig,
    PreprocessConfig,
    RunConfig,
    StrategyConfig,
    TrainingConfig,
)
from tasks.download.source import download
from tasks.evaluate.evaluate import evaluate
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.preprocess.prepare import prepare
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.pretrained.tiny import GraftTiny
from tasks.register.classifier import ModelSpec
from tasks.register.files import FILES, FILES_FILE, SHA256, SPEC_SHA256, list_files
from tasks.register.learned import Learned
from tasks.register.packaging import save_model
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    InputSpec,
    PreparedDataset,
    RawDataset,
)
from tests.tasks.register.line import Line

COLOURS = ("blue", "green", "red")
TEST_IMAGES = 30  # of each class


class Silent:
    """Watches training and says nothing."""

    def step(self, progress: StepProgress) -> None: ...

    def epoch(self, record: EpochRecord) -> None: ...


@dataclass(frozen=True)
class Trained:
    """A run up to its evaluation: all that ``register`` is given."""

    config: RunConfig
    raw: RawDataset
    prepared: PreparedDataset
    model: FineTunedModel
    report: EvaluationReport


def write_images(folder: Path, counts: dict[str, int], sizes: tuple[int, int]) -> None:
    """Write noisy patches, their class's colour a little stronger, as PNG and JPEG."""
    draw = np.random.default_rng(0)
    for split, n in counts.items():
        for label, colour in enumerate(reversed(COLOURS)):
            target = folder / split / colour
            target.mkdir(parents=True)
            for number in range(n):
                height, width = draw.integers(*sizes, endpoint=True, size=2)
                pixels = draw.integers(0, 200, (height, width, 3))
                pixels[:, :, label] += 30
                ending = "png" if number % 2 else "jpg"
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(target / f"{number:03d}.{ending}", quality=95)


def run_up_to_evaluation(config: RunConfig, folder: Path) -> Trained:
    """Do what the flow does before ``register``."""
    cache = Path(str(config.output.cache))
    raw = download(config.data, cache)
    spec = input_spec(config.model, config.preprocess)
    prepared = prepare(config.data, config.seed, raw, spec, cache)
    backbone = load_pretrained(config, prepared.classes, None, cache)
    folder.mkdir(parents=True)
    model = finetune(config, prepared, backbone, folder, Silent())
    report = evaluate(config, prepared, model, folder)
    return Trained(config, raw, prepared, model, report)


def colour_config(root: Path, learning_rate: float, crop: int = 32) -> RunConfig:
    """Return a run on the colours with GraftTiny from scratch."""
    return RunConfig(
        name="colours",
        data=DataConfig(kind="folder", path=str(root / "images")),
        preprocess=PreprocessConfig(resize=crop + 4, crop=crop),
        model=ModelConfig(architecture="graft_tiny", weights=None),
        strategy=StrategyConfig(kind="scratch"),
        training=TrainingConfig(
            epochs=2, batch_size=30, learning_rate=learning_rate, device="cpu", threads=1
        ),
        promotion={"model": "colours"},
        output=OutputConfig(folder=root / "runs", cache=root / "cache"),
    )


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images/{train,val,test}/{blue,green,red}."""
    root = tmp_path_factory.mktemp("colours")
    write_images(root / "images", {"train": 50, "val": 10, "test": TEST_IMAGES}, (40, 60))
    return root


@pytest.fixture(scope="session")
def weak(colours: Path) -> Trained:
    """Return a run that hardly learned anything."""
    return run_up_to_evaluation(colour_config(colours, 1e-7), colours / "runs" / "weak")


@pytest.fixture(scope="session")
def strong(colours: Path) -> Trained:
    """Return a run that learned the colours."""
    return run_up_to_evaluation(colour_config(colours, 0.05), colours / "runs" / "strong")


@pytest.fixture(scope="session")
def strong24(colours: Path) -> Trained:
    """Return a run that learned the colours from smaller images."""
    return run_up_to_evaluation(colour_config(colours, 0.05, 24), colours / "runs" / "strong24")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated sqlite database, made once: a second each otherwise."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}")
    return database


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Point MLFLOW_TRACKING_URI at a fresh sqlite store in ``tmp_path``; return its client."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    """Return a port that nobody listens on."""
    return free_port()


Start = Callable[[list[str], str], subprocess.Popen[bytes]]
# jobs are MLflow's evaluations of language models: nine processes more, each with its imports
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def serving(folder: Path) -> Iterator[Start]:
    """Start servers in their own process groups, wait until they answer, and kill the groups."""
    started: list[subprocess.Popen[bytes]] = []
    # mlflow looks for uvicorn on the path
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def start(arguments: list[str], health: str) -> subprocess.Popen[bytes]:
        log = folder / f"server-{len(started)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=folder,
                env={**os.environ, **NO_JOBS, "PATH": path},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(health, timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return process
        pytest.fail(f"the server did not come up:\n{log.read_text()[-3000:]}")

    try:
        yield start
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start_mlflow(start: Start, folder: Path, port: int, store: Path) -> subprocess.Popen[bytes]:
    """Start a real MLflow server on a copy of ``store`` and return its process."""
    shutil.copy(store, folder / "server.db")
    return start(
        [
            "mlflow",
            "server",
            f"--backend-store-uri=sqlite:///{folder / 'server.db'}",
            f"--artifacts-destination={folder / 'files'}",
            "--host=127.0.0.1",
            f"--port={port}",
            "--workers=1",
        ],
        f"http://127.0.0.1:{port}/health",
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Start]:
    """Return what starts servers; they end with the test."""
    with serving(tmp_path) as start:
        yield start


class Far(NamedTuple):
    """A tracking server that tests share: what they write there has names of their own."""

    pid: int
    port: int
    files: Path  # what it keeps of runs and models

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Far]:
    """Start a real MLflow server for all tests that leave it alive: it takes seconds."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with serving(folder) as start:
        process = start_mlflow(start, folder, port, empty_store)
        yield Far(process.pid, port, folder / "files")


@pytest.fixture
def line(mlflow_server: Far, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Point MLFLOW_TRACKING_URI at a line to the shared server, which can be cut."""
    made = Line(mlflow_server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.url)
    yield made
    made.down()


@dataclass(frozen=True)
class TinyModel:
    """An MLflow model on disk whose random network gives every image the same label."""

    folder: Path
    spec: ModelSpec
    label: str


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, TinyModel]:
    """Return two models of other weights, labels and image sizes: blue 16 px, red 24 px."""
    folder = tmp_path_factory.mktemp("tiny_models")
    return tiny_model(folder / "1", "blue", 16), tiny_model(folder / "2", "red", 24)


def tiny_model(folder: Path, label: str, crop: int) -> TinyModel:
    """Write a model that prefers ``label`` by 3 nats and else depends on the image a little."""
    torch.manual_seed(crop)
    network = GraftTiny(len(COLOURS))
    with torch.no_grad():
        network.fc.weight.mul_(0.1)
        network.fc.bias.zero_()[COLOURS.index(label)] = 3
    folder.mkdir()
    weights = folder / "model.safetensors"
    save_file(network.state_dict(), weights)
    spec = ModelSpec(
        architecture="graft_tiny",
        classes=COLOURS,
        input=InputSpec(
            resize=crop, crop=crop, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear"
        ),
        sha256=sha256_file(weights),
        graft_version="test",
    )
    file = io.BytesIO()
    Image.new("RGB", (crop, crop)).save(file, "PNG")
    save_model(folder / "model", Model(), weights, spec, file.getvalue())
    list_files(folder / "model")
    return TinyModel(folder / "model", spec, label)


@pytest.fixture(scope="session")
def publish() -> Callable[[MlflowClient, str, TinyModel], int]:
    """Return what makes a version of a registered model from files; no run, no training."""

    def make(client: MlflowClient, name: str, model: TinyModel) -> int:
        with suppress(MlflowException):  # it is there already
            client.create_registered_model(name)
        tags = {
            FILES: sha256_file(model.folder / FILES_FILE),
            SHA256: model.spec.sha256,
            SPEC_SHA256: model.spec.digest,
        }
        return int(client.create_model_version(name, model.folder.as_uri(), tags=tags).version)

    return make


@pytest.fixture(scope="session")
def transform(strong: Trained) -> v2.Compose:
    """Return how ``strong`` puts an image before its network, by torchvision's own transforms."""
    spec = strong.model.input
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(spec.resize, v2.InterpolationMode(spec.interpolation), antialias=True),
            v2.CenterCrop(spec.crop),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )


def images_of(learned: Learned) -> set[int]:
    """Return the numbers of the images that are in a list, each once."""
    return {int(one) for piece in learned.pieces() for one in piece}
