"""Fine-tuning on a stream: what a pack of the same images gives, in one process and in two."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.config import DataConfig, RunConfig
from tasks.errors import ConfigError, DataError
from tasks.finetune import hold, keeper
from tasks.finetune import inputs as module
from tasks.finetune.inputs import StreamInputs
from tasks.finetune.losses import class_weights
from tasks.finetune.lr_find import find_learning_rate
from tasks.finetune.progress import Nobody
from tasks.finetune.train import finetune
from tasks.preprocess.stream import StreamedImages
from tasks.pretrained.load import load_pretrained
from tasks.recipe import TrainingConfig
from tasks.values import FineTunedModel, InputSpec, PreparedDataset
from tests.tasks.finetune.test_checkpoint import Stop, Stopper, written
from tests.tasks.shard_folders import indexed, prepared_shards, samples, shard_folder, write_shard

SPEC = InputSpec(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
Make = Callable[..., RunConfig]


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Return 61 + 30 + 33 images of three classes, those for training in four shards."""
    return shard_folder(tmp_path / "shards", (20, 20, 20, 1))


@pytest.fixture
def streamed(data: DataConfig, tmp_path: Path) -> PreparedDataset:
    return prepared_shards(data, SPEC, tmp_path / "cache")


@pytest.fixture
def train(data: DataConfig, make_config: Make, tmp_path: Path):
    def run(prepared: PreparedDataset, **sections: object) -> FineTunedModel:
        config = make_config(data=data.model_dump() | sections.pop("data", {}), **sections)
        backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        return finetune(config, prepared, backbone, folder, Nobody())

    return run


def test_it_learns_and_does_the_same_again(streamed, train):
    weights = []
    for _ in range(2):
        model = train(streamed, training={"epochs": 4})
        assert model.data_digest == streamed.digest
        weights.append(load_file(model.weights))
    assert model.val_accuracy > 0.8
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_training_on_a_stream_goes_on_as_if_it_had_not_been_stopped(
    data, streamed, make_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(keeper, "SPARED", 0.0)
    monkeypatch.setattr(hold, "GIVES_UP", 600.0)  # a step takes long beside other work
    training = {"epochs": 3, "augment": "crop_flip"}
    config = make_config(data=data.model_dump(), training=training)
    backbone = load_pretrained(config, streamed.classes, None, tmp_path / "cache")
    kept = tmp_path / "run" / "kept"
    kept.mkdir(parents=True)
    folder = tmp_path / "run"
    whole = finetune(config, streamed, backbone, folder, Nobody())
    with pytest.raises(Stop):
        finetune(config, streamed, backbone, folder, Stopper(1), None, kept)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, streamed, backbone, folder, Stopper((2, 2)), None, kept)
    assert written(kept) == (1, 2)
    torch.manual_seed(99)
    again = finetune(config, streamed, backbone, folder, Nobody(), None, kept)
    assert (again.sha256, again.epochs) == (whole.sha256, 3)


@pytest.mark.parametrize(
    "sections",
    [
        {"strategy": {"kind": "soup", "soup": 2, "frozen_stages": 0}},
        {"training": {"accumulate": 2, "balance": "class_weights", "mixup": 0.2}},
        {"strategy": {"kind": "gradual_unfreeze"}, "training": {"epochs": 5}},
        {"strategy": {"kind": "ema"}, "training": {"augment": "crop_flip"}},
    ],
    ids=lambda sections: str(sections)[:40],
)
def test_every_use_of_training_images_takes_a_stream(sections, streamed, train):
    own = {"model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"}}
    if "strategy" not in sections:
        own["strategy"] = {"kind": "full"}
    assert train(streamed, **own, **sections).val_accuracy > 0.3


def test_features_of_a_stream_are_not_kept_and_the_log_says_why(streamed, train, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(
            streamed,
            model={"weights": "graft:tiny-cifar10"},
            strategy={"kind": "linear_probe"},
        )
    assert "features are not cached: the training images are streamed" in caplog.text
    assert not (tmp_path / "cache" / "features").exists()


def test_rates_are_tried_on_a_stream(data, streamed, make_config, tmp_path):
    config = make_config(
        data=data.model_dump(), model={"weights": "graft:tiny-cifar10"}, strategy={"kind": "full"}
    )
    backbone = load_pretrained(config, streamed.classes, None, tmp_path / "cache")
    finding = find_learning_rate(config, streamed, backbone, tmp_path)
    assert finding.valley > 0


def test_class_weights_are_those_of_the_index(streamed):
    assert streamed.train.counts == (22, 21, 18)
    expected = torch.tensor([61 / (3 * n) for n in (22, 21, 18)])
    torch.testing.assert_close(class_weights(streamed.train), expected)


def test_what_needs_single_images_is_refused(data, streamed, train, make_config):
    with pytest.raises(ValueError, match=r"training\.balance=sampler draws single images"):
        make_config(data=data.model_dump(), training={"balance": "sampler"})
    # whoever makes a config without looking at it whole
    config = make_config(data=data.model_dump())
    recipe = config.training.model_copy(update={"balance": "sampler"})
    with pytest.raises(ConfigError, match=r"Set training\.balance=class_weights"):
        module.refuse_unstreamed(streamed.train, recipe)


@pytest.mark.parametrize("accumulate", [1, 2, 9])
@pytest.mark.parametrize("processes", [1, 4])
def test_the_shares_of_a_step_are_those_of_its_images(
    accumulate, processes, data, streamed, monkeypatch
):
    monkeypatch.setattr(module, "world", lambda: processes)
    recipe = TrainingConfig(batch_size=16, accumulate=accumulate)
    steps: dict[int, float] = {}
    for own in range(processes):
        monkeypatch.setattr(module, "rank", lambda own=own: own)
        inputs = StreamInputs(StreamedImages(streamed.train, SPEC, data), recipe)
        order = inputs.order(torch.Generator().manual_seed(0))
        step = 0
        for (_, labels), share in inputs.batches(order, torch.device("cpu")):
            # the mean over processes of n · share is the sum of all images' parts of the step
            steps[step] = steps.get(step, 0) + share.weight / processes
            assert len(labels) == 16 // processes or share.last
            step += share.last
        assert step == inputs.steps_an_epoch
    assert list(steps.values()) == pytest.approx([1.0] * len(steps))


def test_more_processes_than_shards_are_refused(streamed, monkeypatch):
    monkeypatch.setattr(module, "world", lambda: 5)
    with pytest.raises(ConfigError, match="5 processes need as many training shards"):
        module.refuse_unstreamed(streamed.train, TrainingConfig())


def test_one_process_that_cannot_read_ends_the_other(tmp_path, streamed, train):
    write_shard(tmp_path / "shards" / "train-000001.tar", samples(20, 99))
    with pytest.raises(DataError, match=r"train-000001\.tar has 20 images"):
        train(streamed, training={"devices": 2, "batch_size": 4})


@pytest.mark.parametrize("devices", [1, 2])
def test_it_learns_without_bad_images_and_says_so_once(devices, tmp_path, train):
    bad = [(key, image[:300], label) for key, image, label in samples(3, 5)]
    contents = {
        "train-0": [*samples(30, 0), *bad],
        "train-1": samples(33, 1),
        "val-0": samples(9, 2),
        "test-0": samples(9, 3),
    }
    data = indexed(tmp_path / "bad", contents, on_bad_image="skip")
    prepared = prepared_shards(data, SPEC, tmp_path / "cache")
    training = {"devices": devices, "batch_size": 22, "epochs": 4}  # all 66 images are looked at
    model = train(prepared, data=data.model_dump(), training=training)
    assert model.val_accuracy > 0.6
    (note,) = (note for note in model.notes if "left out" in note)
    assert note.startswith("3 training image(s) cannot be used and were left out")
