"""One GPU, one fine-tune. No GPU is needed: ``gpus_of`` is the seam where one is made up.

The locks, the files and the processes are real.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tasks.errors import ResourceError
from tasks.finetune import gpu_lock
from tasks.finetune.gpu_lock import Gpu, gpus_held, gpus_of
from tasks.recipe import TrainingConfig


class Holder:
    """A process that takes GPUs, says so by a file, and holds them until it is told to let go."""

    def __init__(self, folder: Path, name: str, *keys: str) -> None:
        self.holds, self.go, self.log = (folder / f"{name}.{what}" for what in ("has", "go", "log"))
        # forked, because a new interpreter takes seconds to import torch, of which none runs here
        self.process = multiprocessing.get_context("fork").Process(
            target=self._hold, args=(name, keys)
        )
        self.process.start()

    def _hold(self, name: str, keys: tuple[str, ...]) -> None:
        """Hold, and end at once: what the forked process would tidy up is its parent's."""
        try:
            self._until_told(name, keys)
        except BaseException:
            with self.log.open("a") as log:
                traceback.print_exc(file=log)
            os._exit(1)
        os._exit(0)

    def _until_told(self, name: str, keys: tuple[str, ...]) -> None:
        gpu_lock.gpus_of = lambda device, wanted: [Gpu(key, f"GPU {key}") for key in keys]
        gpu_lock.POLL_SECONDS = 0.02
        logging.basicConfig(filename=self.log, level=logging.INFO, format="%(message)s", force=True)
        with gpus_held(TrainingConfig(device="cpu"), name):
            self.holds.touch()
            wait_for(self.go.exists)

    def end(self) -> None:
        self.go.touch()
        self.process.join(30)
        assert self.process.exitcode == 0, self.log.read_text()

    def waits_for(self, words: str) -> bool:
        return self.log.exists() and words in self.log.read_text()


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Holder]]:
    """Return what starts a process that holds GPUs of a machine of the test's own."""
    monkeypatch.setenv("GRAFT_GPU_LOCKS", str(tmp_path / "locks"))
    started: list[Holder] = []

    def start(name: str, *keys: str) -> Holder:
        started.append(Holder(tmp_path, name, *keys))
        return started[-1]

    yield start
    for holder in started:
        holder.process.kill()
        holder.process.join()


def test_processes_take_turns_on_a_gpu_and_say_who_has_it(hold):
    first = hold("first", "a")
    wait_for(first.holds.exists)
    second = hold("second", "a")
    wait_for(lambda: second.waits_for("waiting for GPU a: run first (process "))
    assert second.waits_for(f"(process {first.process.pid} of ")
    time.sleep(0.2)  # ten looks of the second
    assert not second.holds.exists()
    first.end()
    wait_for(second.holds.exists)
    second.end()


def test_two_gpus_hold_two_runs_at_once_and_both_are_taken_together(hold):
    first, second = hold("first", "a"), hold("second", "b")
    wait_for(lambda: first.holds.exists() and second.holds.exists())
    both = hold("both", "b", "a")
    wait_for(lambda: both.waits_for("run first"))
    first.end()
    wait_for(lambda: both.waits_for("run second"))
    assert not both.holds.exists()
    second.end()
    wait_for(both.holds.exists)
    both.end()


def test_a_killed_process_lets_go(tmp_path: Path, hold):
    killed = hold("killed", "a")
    note = tmp_path / "locks" / "a.holder"
    wait_for(killed.holds.exists)
    assert json.loads(note.read_text())["run"] == "killed"
    killed.process.kill()
    killed.process.join()
    after = hold("after", "a")
    wait_for(after.holds.exists)
    assert json.loads(note.read_text())["run"] == "after"
    after.end()
    assert not note.exists()


def test_a_cpu_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAFT_GPU_LOCKS", str(tmp_path / "locks"))
    with gpus_held(TrainingConfig(device="cpu"), "run"):
        assert not (tmp_path / "locks").exists()
    assert gpus_of(torch.device("cpu"), 2) == []


def test_off_holds_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_lock, "gpus_of", lambda device, wanted: [Gpu("a", "GPU")])
    monkeypatch.setenv("GRAFT_GPU_LOCKS", "off")
    monkeypatch.setattr(gpu_lock, "_folder", lambda: pytest.fail("a lock is taken"))
    with gpus_held(TrainingConfig(device="cpu"), "run"):
        pass


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(gpu_lock, "gpus_of", lambda device, wanted: [Gpu("a", "GPU A")])
    monkeypatch.setenv("GRAFT_GPU_LOCKS", str(tmp_path / "file"))
    refused = pytest.raises(ResourceError, match="the lock of GPU A")
    with refused, gpus_held(TrainingConfig(device="cpu"), "run"):
        pass


@pytest.mark.parametrize("content", [None, b"[1]", b"{}", b'"run"', b"\xff", b"{" * 99])
def test_a_note_that_somebody_else_left_holds_nobody_up(content: bytes | None, tmp_path: Path):
    note = tmp_path / "gpu.holder"
    if content is None:
        os.mkfifo(note)
    else:
        note.write_bytes(content)
    assert gpu_lock._holder(note) == "another run"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_known_by_what_it_is():
    (gpu,) = gpus_of(torch.device("cuda"), 1)
    assert gpu.key.startswith("cuda-")
    assert gpu.name == torch.cuda.get_device_name(0)


def test_who_waits_says_so_at_once_and_then_every_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """On a clock of the test's own."""
    monkeypatch.setenv("GRAFT_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(gpu_lock, "gpus_of", lambda device, wanted: [Gpu("a", "GPU A")])
    monkeypatch.setattr(gpu_lock.getpass, "getuser", lambda: "ada")
    first, slept, training = ExitStack(), [], TrainingConfig(device="cpu")

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            first.close()

    first.enter_context(gpus_held(training, "first"))
    now = SimpleNamespace(monotonic=lambda: 250.0 * len(slept), sleep=sleep)
    monkeypatch.setattr(gpu_lock, "time", now)
    with caplog.at_level(logging.INFO), gpus_held(training, "second"):
        note = json.loads((tmp_path / "locks" / "a.holder").read_text())
    assert note["run"] == "second"
    assert slept == [gpu_lock.POLL_SECONDS] * 5
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # at 0 s and 750 s of 1250
    words = f"waiting for GPU A: run first (process {os.getpid()} of ada, since "
    assert all(one.startswith(words) for one in said)
    assert not (tmp_path / "locks" / "a.holder").exists()


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no such user")])
def test_a_user_without_a_name_holds_a_gpu_too(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def nobody() -> str:
        raise error

    monkeypatch.setattr(gpu_lock.getpass, "getuser", nobody)
    gpu_lock._tell(tmp_path / "note", "run")
    assert f"(process {os.getpid()} of unknown, since " in gpu_lock._holder(tmp_path / "note")


def test_the_folder_of_locks_is_everybodys_where_it_is_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("GRAFT_GPU_LOCKS", raising=False)
    monkeypatch.setattr(gpu_lock.tempfile, "tempdir", str(tmp_path))
    made = gpu_lock._folder()
    assert (made, made.stat().st_mode & 0o777) == (tmp_path / "graft-gpus", 0o777)
    made.chmod(0o750)  # its owner's choice
    assert gpu_lock._folder().stat().st_mode & 0o777 == 0o750


def test_the_first_gpus_that_torch_counts_are_taken(monkeypatch: pytest.MonkeyPatch):
    assert gpus_of(torch.device("mps"), 1) == [Gpu("mps", "Apple's GPU")]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    facts = [SimpleNamespace(uuid=f"id-{n}", name=f"GPU {n}") for n in range(3)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", facts.__getitem__)
    found = gpus_of(torch.device("cuda"), 2)
    assert found == [Gpu("cuda-id-0", "GPU 0"), Gpu("cuda-id-1", "GPU 1")]
