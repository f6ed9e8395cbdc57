"""When a checkpoint is written, what is said where it is not, and of what it is gone on from."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tasks.errors import ConfigError, ResourceError, TrainingError
from tasks.finetune import keeper as module
from tasks.finetune.keeper import Keeper, forget_checkpoint

BELONGS = dict.fromkeys(("data", "backbone", "teacher", "device", "precision", "threads"), "a")
MEGABYTES = torch.zeros(10_000_000, dtype=torch.uint8)  # ten, taken to last 0.05 s


@pytest.fixture
def clock(monkeypatch):
    """Return what sets the time, of each of the next looks at the clock."""
    times: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: times.pop(0)))
    return times.extend


@pytest.fixture
def always(monkeypatch):
    """Write a checkpoint whatever it takes."""
    monkeypatch.setattr(module, "SPARED", 0.0)


def said(caplog) -> list[str]:
    assert {record.name for record in caplog.records} <= {"tasks.finetune.keeper"}
    return [record.getMessage() for record in caplog.records]


def test_a_checkpoint_waits_until_it_is_worth_its_time(tmp_path, monkeypatch, clock):
    """A twentieth of the time at most: of 0.05 s the first; it lasts 2 s, so then 40 s pass."""
    written = []
    monkeypatch.setattr(module, "write_tree", lambda *given: written.append(given[2]))
    clock([100.0])
    keeper = Keeper(tmp_path, BELONGS)
    clock([100.999_999_999, 101.0, 103.0, 142.999, 143.0, 143.25])
    for epoch in range(4):
        keeper.offer(lambda epoch=epoch: {"epoch": epoch, "weights": MEGABYTES})
    assert [tree["state"]["epoch"] for tree in written] == [1, 3]


def test_within_an_epoch_one_is_due_after_a_minute_and_when_it_is_worth_its_time(
    tmp_path, monkeypatch, clock
):
    monkeypatch.setattr(module, "write_tree", lambda *_: None)
    clock([100.0])
    keeper = Keeper(tmp_path, BELONGS)
    clock([159.999, 160.0])
    assert [keeper.is_due_within, keeper.is_due_within] == [False, True]
    clock([160.0, 164.0])
    keeper.offer(lambda: {"weights": MEGABYTES})  # lasts 4 s: 80 s pass
    clock([224.0, 243.999, 244.0])
    assert [keeper.is_due_within for _ in range(3)] == [False, False, True]
    clock([244.0, 244.25])
    keeper.offer(lambda: {"weights": MEGABYTES})  # 5 s pass, and the minute all the same
    clock([304.0, 304.25])
    assert [keeper.is_due_within for _ in range(2)] == [False, True]


@pytest.mark.usefixtures("always")
def test_what_is_written_is_given_back_once_to_what_it_belongs_to(tmp_path, caplog):
    keeper = Keeper(tmp_path, BELONGS)
    assert keeper.take() is None
    for epoch in (1, 2):
        keeper.offer(lambda epoch=epoch: {"epoch": epoch, "weights": torch.ones(2)})
    names = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert names == ["checkpoint", "checkpoint.json"]
    again = Keeper(tmp_path, dict(BELONGS))
    found = again.take()
    assert found["weights"].tolist() == [1, 1]
    assert (found["epoch"], again.take()) == (2, None)
    assert said(caplog) == []
    forget_checkpoint(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["data", "backbone", "teacher", "device", "precision"])
def test_a_checkpoint_of_another_is_refused(tmp_path: Path, what: str):
    Keeper(tmp_path, BELONGS | {what: "b" * 50}).write({})
    with pytest.raises(ConfigError) as caught:
        Keeper(tmp_path, BELONGS | {what: "c" * 50})
    assert str(caught.value) == (
        f"The checkpoint in {tmp_path} is of another {what}: {'b' * 40}, and now {'c' * 40}.\n"
        "Resume where and with what it was begun, or run without --resume."
    )


def test_other_threads_are_said_and_gone_on_with(tmp_path: Path, caplog):
    Keeper(tmp_path, BELONGS | {"threads": "7"}).write({"epoch": 1})
    assert Keeper(tmp_path, BELONGS | {"threads": "5"}).take() == {"epoch": 1}
    assert said(caplog) == [
        "the run was begun with 7 threads and goes on with 5: it ends with slightly other weights "
        "than without the break"
    ]


def test_a_damaged_one_is_refused_by_its_name(tmp_path: Path):
    Keeper(tmp_path, BELONGS).write({"weights": torch.ones(2)})
    (tensors,) = tmp_path.glob("checkpoint-*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        Keeper(tmp_path, BELONGS)
    assert str(caught.value) == (
        f"The checkpoint {tensors} is damaged, or cannot be read.\nRun again without --resume."
    )


LATER = "a stopped run would go on from an earlier checkpoint, if from any: "


@pytest.mark.usefixtures("always")
def test_a_checkpoint_leaves_as_much_room_as_it_takes(tmp_path, monkeypatch, caplog):
    """Else the trained model, or MLflow's database, would not find any. It is said once."""
    keeper = Keeper(tmp_path, BELONGS)
    for free, there in ((8_500_001, False), (9_000_007, False), (9_000_008, True)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _, usage=usage: usage)
        keeper.offer(lambda: {"weights": torch.zeros(1_125_001)})  # of 4 bytes
        assert (tmp_path / "checkpoint.json").exists() == there
    assert said(caplog) == [f"{LATER}it takes 5 MB, and 9 MB are free"]  # the next whole numbers


@pytest.mark.usefixtures("always")
def test_a_disk_without_room_for_a_checkpoint_ends_no_training(tmp_path, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeper = Keeper(tmp_path, BELONGS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        keeper.offer(lambda: {"weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    full = f"The disk is full while writing {tmp_path / 'checkpoint.json'}."
    assert said(caplog) == [LATER + full]  # and not what to do: the training goes on
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_a_disk_may_be_of_one_line(tmp_path, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise ResourceError("The disk is gone.")

    monkeypatch.setattr(module, "write_tree", broken)
    Keeper(tmp_path, BELONGS).write({})
    assert said(caplog) == [LATER + "The disk is gone."]
