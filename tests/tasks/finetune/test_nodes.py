"""Two machines, as processes of this one: against one process, and when one of them is in trouble."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import ConfigError, GraftError, ResourceError, TrainingError
from tasks.finetune.host import _wait_for_farewells
from tasks.finetune.meeting import END, VARIABLE, Meeting, Place, open_store
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.pretrained.load import load_pretrained

NODE = [sys.executable, "-m", "tasks.finetune.node"]


class Recorder:
    def __init__(self, step: Callable[[], None] = lambda: None) -> None:
        self.epochs: list[EpochRecord] = []
        self._step = step

    def step(self, progress: StepProgress) -> None:
        self._step()

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Be the first of two nodes: keep the store, and have it in the environment."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = Place(
        host="127.0.0.1",
        port=listener.getsockname()[1],
        nodes=2,
        patience=60,
        silence=4,
        folder=tmp_path,
    )
    meeting = Meeting(found, open_store(found, listener))
    monkeypatch.setenv(VARIABLE, found.model_dump_json())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield found
    meeting.say(END, "0")
    _wait_for_farewells(meeting)


@contextmanager
def other(place: Place, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Be the other node, in a process of its own."""
    given = ["--nodes=2", "--rank=1", f"--host={place.host}", f"--port={place.port}"]
    process = subprocess.Popen(
        [*NODE, *given, f"--silence={place.silence}", f"--patience={place.patience}"],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_nodes_are_one_process(place, prepared, make_config, tmp_path, monkeypatch):
    recipe = {"batch_size": 20, "choose": "last", "device": "cpu", "gradient_clip": 1}
    config = make_config(
        model={"architecture": "timm:convnext_atto"},  # without batch norm or dropout
        preprocess={"resize": 32, "crop": 32},
        training=recipe | {"nodes": 2},
    )
    backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
    larger = prepared.model_copy(update={"input": backbone.input})
    found = []
    with other(place) as process:
        for number in range(2):  # one training after the other
            folder = tmp_path / str(number)
            folder.mkdir()
            watcher = Recorder()
            found.append((finetune(config, larger, backbone, folder, watcher), watcher))
        Meeting(place).say(END, "0")
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
    print(said)
    monkeypatch.delenv(VARIABLE)
    single = config.model_copy(
        update={"training": config.training.model_copy(update={"nodes": 1})}
    )
    alone = Recorder()
    one = finetune(single, larger, backbone, tmp_path, alone)
    for two, together in found:
        for name in ("train_loss", "val_loss", "train_accuracy"):
            ours, theirs = ([getattr(r, name) for r in w.epochs] for w in (together, alone))
            assert ours == pytest.approx(theirs, abs=1e-5), name
        for name, tensor in load_file(one.weights).items():
            torch.testing.assert_close(load_file(two.weights)[name], tensor, rtol=1e-3, atol=1e-5)
