"""Two processes against one on the same batches, and what is heard of their troubles."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.errors import ResourceError, TrainingError
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.pretrained.architectures import build
from tasks.pretrained.load import load_pretrained


class Recorder:
    def __init__(self, look: Callable[[], set[str]] = set) -> None:
        self.look, self.addresses = look, set()
        self.steps: list[StepProgress] = []
        self.epochs: list[EpochRecord] = []

    def step(self, progress: StepProgress) -> None:
        self.steps.append(progress)
        self.addresses |= self.look()

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


def plain_network(make_config, prepared, tmp_path, kind="full", **training):
    """Return a network without batch norm or dropout: parting a batch changes only rounding."""
    weights = tmp_path / "pretrained.safetensors"
    if not weights.exists():
        save_file(build("timm:convnext_atto", 10).state_dict(), weights)
    config = make_config(
        model={"architecture": "timm:convnext_atto", "weights": str(weights)},
        strategy={"kind": kind},
        output={"cache": tmp_path / f"cache-{training['devices']}"},
        preprocess={"resize": 32, "crop": 32},
        training={"batch_size": 20, "choose": "last", "device": "cpu"} | training,
    )
    return config, load_pretrained(config, prepared.classes, None, tmp_path / "cache")


@pytest.mark.parametrize(("kind", "accumulate"), [("full", 2), ("linear_probe", 1), ("lora", 1)])
def test_two_processes_are_one(kind, accumulate, prepared, make_config, tmp_path, listening):
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        recipe = {"devices": devices, "accumulate": accumulate, "gradient_clip": 1}
        config, backbone = plain_network(make_config, prepared, tmp_path, kind, **recipe)
        watcher = Recorder(lambda: listening(os.getpid()))
        larger = prepared.model_copy(update={"input": backbone.input})  # resized in each batch
        found.append((finetune(config, larger, backbone, folder, watcher), watcher))
        cached = [*(tmp_path / f"cache-{devices}").glob("features/*")]
        assert len(cached) == (kind == "linear_probe")
    (one, alone), (two, together) = found
    for name in ("train_loss", "val_loss", "train_accuracy"):
        ours, theirs = ([getattr(r, name) for r in w.epochs] for w in (together, alone))
        assert ours == pytest.approx(theirs, abs=1e-5), name
    for name, tensor in load_file(one.weights).items():
        torch.testing.assert_close(load_file(two.weights)[name], tensor, rtol=1e-3, atol=1e-5)
    assert together.addresses == {"127.0.0.1"}  # torch's own ways take connections from everywhere
    assert len(together.steps) == len(alone.steps) == 2 * 3
    assert two.history.read_text().count("\n") == 2
    assert {path.name for path in (tmp_path / "2").iterdir()} == {
        "history.jsonl",
        "model.safetensors",
    }


def test_a_problem_of_a_process_is_told_as_it_is(prepared, backbone, make_config, tmp_path, capfd):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    config = make_config(training={"devices": 2, "batch_size": 20, "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"training\.learning_rate"):
        finetune(config, prepared, backbone, tmp_path, Recorder())
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "SIGTERM" not in said  # which the launcher sends the other
    assert list(tmp_path.glob("*.safetensors")) == []


def test_more_gpus_than_there_are(prepared, backbone, make_config, tmp_path):
    config = make_config(training={"devices": 999, "device": "cuda", "batch_size": 999})
    with pytest.raises(ResourceError, match=r"training\.device"):
        finetune(config, prepared, backbone, tmp_path, Recorder())
