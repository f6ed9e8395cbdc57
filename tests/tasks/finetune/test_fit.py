"""Which machines a recipe is refused on, before anything is made for it."""

from __future__ import annotations

import pytest
import torch

from tasks.errors import ConfigError, ResourceError
from tasks.finetune.fit import check_gpus, check_machine
from tasks.finetune.meeting import VARIABLE, Place
from tasks.recipe import TrainingConfig


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("check", [check_gpus, check_machine])
def test_more_gpus_than_the_machine_has_are_refused(check):
    check(TrainingConfig(device="cuda", devices=2, batch_size=6))
    for device in ("cuda", "auto"):
        with pytest.raises(
            ResourceError, match=r"training\.devices=3, and this machine has 2 GPUs"
        ):
            check(TrainingConfig(device=device, devices=3, batch_size=6))
    check(TrainingConfig(device="cpu", devices=3, batch_size=6))


def test_processes_do_not_share_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert check_machine(TrainingConfig()) is None
    with pytest.raises(ConfigError, match=r"training\.devices=2, but .* Apple's GPU"):
        check_machine(TrainingConfig(devices=2))
    check_machine(TrainingConfig(devices=2, device="cpu"))


def test_nodes_are_those_that_the_command_was_started_for(monkeypatch):
    recipe = TrainingConfig(device="cpu", nodes=2)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"training\.nodes=2, and nobody waits"):
        check_machine(recipe)
    place = Place(host="first", port=1, nodes=2, patience=9, silence=2)
    monkeypatch.setenv(VARIABLE, place.model_dump_json())
    assert check_machine(recipe) == place
    with pytest.raises(ConfigError, match="started for 2 nodes"):
        check_machine(TrainingConfig(device="cpu"))
