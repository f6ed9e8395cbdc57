"""Two machines, as processes of this one: against one process, and when one is in trouble."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tasks.errors import ConfigError, GraftError, ResourceError, TrainingError
from tasks.finetune import session as session_module
from tasks.finetune.alike import files_in, fingerprint, sight
from tasks.finetune.meeting import END, VARIABLE, Meeting, Place, Session
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.roll import host_of, left_of
from tasks.finetune.session import READY, Call, _too_late, _wait_for_all, attend
from tasks.finetune.train import finetune
from tasks.finetune.trouble import as_error, as_words
from tasks.pretrained.load import load_pretrained
from tests.tasks.finetune.conftest import store_here

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
    found, store = store_here(2, silence=4, patience=60, folder=tmp_path)
    meeting = Meeting(found, store)
    monkeypatch.setenv(VARIABLE, found.model_dump_json())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield found
    assert meeting.hear("beat/9") is None  # the store lives until here


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


def network(make_config, prepared, tmp_path, **training):
    """Return a network without batch norm or dropout: parting a batch changes only rounding."""
    config = make_config(
        model={"architecture": "timm:convnext_atto"},
        preprocess={"resize": 32, "crop": 32},
        training={"epochs": 1, "choose": "last", "device": "cpu", "gradient_clip": 1} | training,
    )
    backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
    return config, prepared.model_copy(update={"input": backbone.input}), backbone


def test_two_nodes_are_one_process_also_after_a_training_that_failed(
    place, prepared, backbone, make_config, tmp_path, monkeypatch
):
    found = []
    with other(place) as process:
        wild = make_config(training={"nodes": 2, "device": "cpu", "learning_rate": 1e30})
        with pytest.raises(TrainingError, match=r"training\.learning_rate"):
            finetune(wild, prepared, backbone, tmp_path, Recorder())
        for nodes in (2, 1):
            if nodes == 1:
                Meeting(place).say(END, "7")
                monkeypatch.delenv(VARIABLE)
            folder = tmp_path / str(nodes)
            folder.mkdir()
            config, *rest = network(make_config, prepared, tmp_path, nodes=nodes)
            watcher = Recorder()
            found.append((finetune(config, *rest, folder, watcher), watcher))
        _, said = process.communicate(timeout=20)
    assert process.returncode == 7, said
    assert "Traceback" not in said
    (two, together), (one, alone) = found
    for name in ("train_loss", "val_loss", "train_accuracy"):
        ours, theirs = ([getattr(r, name) for r in w.epochs] for w in (together, alone))
        assert ours == pytest.approx(theirs, abs=1e-5), name
    for name, tensor in load_file(one.weights).items():
        torch.testing.assert_close(load_file(two.weights)[name], tensor, rtol=1e-3, atol=1e-5)
    assert list((tmp_path / "cache").glob(".meeting-*")) == []


def test_a_node_that_is_killed_ends_the_training(place, prepared, backbone, make_config, tmp_path):
    config = make_config(training={"nodes": 2, "epochs": 100_000, "device": "cpu"})
    with other(place) as process:
        watcher = Recorder(process.kill)  # in the first step
        with pytest.raises(ResourceError, match=r"Node 1 \(.*nothing has been heard of it for 4 s"):
            finetune(config, prepared, backbone, tmp_path, watcher)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_node_that_does_not_come(place, prepared, backbone, make_config, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, place.model_copy(update={"patience": 0.3}).model_dump_json())
    secret = {"kind": "folder", "path": "https://x.org/a.zip?sig=hunter2", "sha256": "0" * 64}
    weights = "https://x.org/a.pth?token=hunter2"
    model = {"weights": weights, "sha256": "0" * 64}
    full = {"kind": "full"}
    config = make_config(training={"nodes": 2}, data=secret, model=model, strategy=full)
    from_there = backbone.model_copy(update={"source": weights})
    left = tmp_path / "cache" / ".meeting-1"  # by a command that was killed
    left.parent.mkdir(exist_ok=True)
    left.write_text(left.name)
    kept = left.with_name(".meeting-2")  # nobody may remove that as a file
    kept.mkdir()
    for path in (left, kept):
        os.utime(path, (0, 0))
    with pytest.raises(ResourceError, match=r"Node 1 has not come(.|\n)*--nodes 2 --rank 1 --host"):
        finetune(config, prepared, from_there, tmp_path, Recorder())
    sent = Meeting(place).hear("job/0")
    job = json.loads(json.loads(sent)["job"])
    assert Path(job["config"]["output"]["cache"]).is_absolute()
    assert job["backbone"]["source"] == "https://x.org/a.pth?…"
    assert "https://x.org/a.zip" in sent
    assert "hunter2" not in sent
    assert list((tmp_path / "cache").glob(".meeting-*")) == [kept]


def test_a_command_that_was_started_for_other_nodes(
    place, prepared, backbone, make_config, tmp_path, monkeypatch
):
    def refused(nodes: int, words: str, **training: object) -> None:
        config = make_config(training={"nodes": nodes, **training})
        with pytest.raises(ConfigError, match=words):
            finetune(config, prepared, backbone, tmp_path, Recorder())

    refused(3, r"training\.nodes=3, but the command was started for 2 nodes", batch_size=21)
    refused(1, r"training\.nodes=1, but the command was started for 2 nodes")
    with pytest.raises(ValidationError, match=r"training\.devices=1 times training\.nodes=2"):
        make_config(training={"nodes": 2, "batch_size": 21})
    monkeypatch.delenv(VARIABLE)
    refused(2, r"training\.nodes=2, and nobody waits")


@pytest.fixture
def called(place, prepared, backbone, make_job) -> Callable[..., GraftError]:
    """Return what node 1 answers to a job after ``change`` of what the first node saw."""
    job = make_job({"nodes": 2}, scratch=None)
    first = sight(files_in(prepared, backbone), job.config.training)
    numbers = itertools.count()

    def call(sent: str = job.model_dump_json(), **change: object) -> GraftError:
        meeting, session = Meeting(place), Session(place=place, number=next(numbers), node=1)
        words = Call(job=sent, sight=first.model_copy(update=change)).model_dump_json()
        attend(meeting, session, words)
        return as_error(meeting.hear(session.key(READY, 1)))

    return call


def test_a_node_that_has_not_the_same_says_so(called, prepared, monkeypatch):
    assert "torch is" in str(called(torch="1.13.1"))
    assert "device is cpu, and cuda on the first node" in str(called(device="cuda"))
    assert "precision" in str(called(precision="float16"))
    for error in (called(code="0" * 64), called("{}", code="0" * 64), called("{}")):
        assert isinstance(error, ResourceError)
        assert "another than on the first node" in str(error)
    labels = prepared.train.labels
    before = labels.read_bytes()
    labels.write_bytes(before[:-1] + b"9")
    assert f"{labels} is {len(before)} bytes of" in str(called())
    labels.unlink()
    error = called()
    assert isinstance(error, ResourceError)
    assert re.match(rf"Node 1 \(.*\): {labels} is not there, on the first node", str(error))
    assert len(str(error).splitlines()) == 2


def test_a_node_that_is_ready_is_let_go_where_the_others_are_not(called, monkeypatch):
    launched = []
    monkeypatch.setattr(session_module, "launch", launched.append)
    monkeypatch.setattr(session_module, "_may_go", lambda meeting, session: session.number == 1)
    for _ in range(2):
        assert "no error of graft's: 'yes'" in str(called())  # it answered that it is ready
    assert [job.session.number for job in launched] == [1]


def test_who_is_waited_for_and_what_ends_the_wait(place):
    meeting, numbers = Meeting(place), itertools.count()

    def waited(**words: str) -> GraftError:
        session = Session(place=place, number=next(numbers), node=0)
        for key, value in words.items():
            meeting.say(session.key(key, 1), value)
        with pytest.raises(GraftError) as caught:
            _wait_for_all(meeting, session)
        return caught.value

    error = waited(**{READY: as_words(ConfigError("Its code is another."))})
    assert (type(error), str(error)) == (ConfigError, "Its code is another.")
    late = place.model_copy(update={"patience": 3})
    assert "Start on it: python -m tasks.finetune.node" in str(_too_late(meeting, late, 1))
    meeting.say(host_of(1), "far")
    words = str(_too_late(meeting, late, 1))
    assert words.startswith("Node 1 (far) was not ready within 3 s.\n")
    meeting.say(left_of(1), "it had no disk")
    assert str(waited()).startswith("Node 1 (far) left: it had no disk.\n")


def test_marks_of_killed_commands_go_and_those_of_others_stay(tmp_path: Path):
    old, young = (tmp_path / f".meeting-{name}" for name in ("old", "young"))
    for path in (old, young):
        path.touch()
    ages = time.time() - 15 * 24 * 3600
    os.utime(old, (ages, ages))
    session_module._sweep(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)


def test_all_blocks_of_a_file_count(tmp_path: Path):
    path = tmp_path / "large"
    block, found = bytes(1 << 20), set()
    for changed in range(17):  # of 16 blocks all count; of 17 the first, the last, most between
        content = [block] * 16
        if changed < 16:
            content[changed] = b"1" + block[1:]
        path.write_bytes(b"".join(content))
        found.add(fingerprint(path))
    assert len(found) == 17
    path.write_bytes(b"".join([block] * 40 + [b"1"]))
    end = fingerprint(path)
    path.write_bytes(b"".join([block] * 40 + [b"2"]))
    assert end != fingerprint(path)
    assert fingerprint(tmp_path / "none") == ""
