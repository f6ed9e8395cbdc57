"""A training before its first step, against networks and means that are made here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import squeezenet1_0

from tasks.finetune import start
from tasks.finetune.course import Course, open_course
from tasks.finetune.dropout import ByteDropout
from tasks.finetune.progress import EpochRecord, Nobody
from tasks.finetune.start import Training, start_training
from tasks.pretrained.load import load_pretrained
from tasks.pretrained.network import build_network

FULL = {"kind": "full"}


def begin(course: Course, seed: int = 5) -> Training:
    return start_training(course, course.config.training, seed)


def plain(course: Course) -> nn.Module:
    """Return the network as it is before anything is done to it."""
    return build_network(course.backbone, len(course.prepared.classes), course.config.seed)


def assert_equal(state: dict[str, torch.Tensor], network: nn.Module) -> None:
    own = network.state_dict()
    assert list(state) == list(own)
    assert all(torch.equal(state[key], own[key]) for key in own)


def test_it_begins_with_the_backbone_and_nothing_else(make_course):
    course = make_course(FULL, seed=3)
    training = begin(course)
    assert_equal(training.network.state_dict(), plain(course))
    assert (training.course, training.recipe) == (course, course.config.training)
    assert training.parameters == sum(p.numel() for p in plain(course).parameters())
    assert (training.ema, training.penalty, training.probed) == (None, None, None)
    assert training.trainable == 0
    assert all(training.frozen.can_train(name) for name, _ in training.network.named_parameters())
    assert training.frozen.modules() == set()
    assert course.notes == []


def test_scratch_begins_with_torchvisions_own_draw(make_config, prepared, tmp_path, shared):
    config = make_config(seed=5, model={"architecture": "squeezenet1_0"})
    assert (config.strategy.kind, config.model.weights) == ("scratch", None)
    backbone = load_pretrained(config, prepared.classes, None, tmp_path)
    sized = prepared.model_copy(update={"input": backbone.input})
    course = open_course(config, sized, backbone, tmp_path, Nobody(), None)
    network = begin(course, seed=9).network  # of the order of images alone
    torch.manual_seed(config.seed)
    own = squeezenet1_0(num_classes=len(prepared.classes)).state_dict()
    assert_equal(own, network)
    pretrained = load_file(shared / "weights" / "squeezenet1_0-imagenet.safetensors")
    drawn = {name: tensor for name, tensor in own.items() if tensor.any()}  # biases begin at 0
    assert len(drawn) == 26
    for name, tensor in drawn.items():
        if tensor.shape == pretrained[name].shape:  # all but the head
            assert not (tensor == pretrained[name]).any(), name


def test_each_process_draws_its_own_views_of_images_in_the_same_order(make_course, monkeypatch):
    gpus: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", gpus.append)
    monkeypatch.setattr(start, "rank", lambda: 2)
    training = begin(make_course(FULL), seed=5)
    assert torch.initial_seed() == 7  # dropout's
    assert gpus == [7]  # and a GPU's, which nothing seeds again
    assert (training.orders.initial_seed(), training.views.initial_seed()) == (5, 8)


def test_the_network_is_on_the_device_of_the_job(make_course):
    course = make_course(FULL)
    course.device = torch.device("meta")
    assert {p.device.type for p in begin(course).network.parameters()} == {"meta"}


def test_which_epoch_is_kept_is_the_recipes(make_course):
    course = make_course(FULL, training={"choose": "last"})
    good = EpochRecord(1, 2, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)
    worse = replace(good, epoch=2, val_accuracy=0.5)
    training = begin(course)
    for record in (good, worse):
        training.chosen.offer(training.state, record)
    assert training.chosen.record == worse


def test_the_weights_to_save_are_a_copy(make_course):
    training = begin(make_course(FULL))
    state = training.state()
    assert_equal(state, training.network)
    with torch.no_grad():
        training.network.fc.weight += 1
    assert not torch.equal(state["fc.weight"], training.network.fc.weight)


def test_of_averaged_weights_the_average_is_saved(make_course):
    """The first update counts (1 + 1) / (10 + 1) at most of what was: here the decay, 0.1."""
    training = begin(make_course({"kind": "ema", "ema_decay": 0.1}))
    before = training.network.fc.weight.detach().clone()
    with torch.no_grad():
        training.network.fc.weight += 1
    training.ema.update(training.network)
    torch.testing.assert_close(training.state()["fc.weight"], before + 0.9)


def test_adapters_and_head_train_and_what_is_adapted_stays(make_course):
    from peft.tuners.lora import LoraLayer

    course = make_course({"kind": "lora", "lora_rank": 2, "lora_alpha": 6.0})
    training = begin(course)
    named = training.network.named_parameters()
    trained = {name for name, parameter in named if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"fc.weight", "fc.bias"}
    layers = [m for m in training.network.modules() if isinstance(m, LoraLayer)]
    assert {(m.r["default"], m.scaling["default"]) for m in layers} == {(2, 3.0)}
    training.frozen.train_mode()
    assert training.network.training
    norms = [m for m in training.network.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert training.parameters == sum(p.numel() for p in plain(course).parameters())
    assert_equal(training.state(), plain(course))  # adapters begin as nothing, and are merged


def test_the_pull_to_the_start_is_that_of_the_config_and_the_heads_its_weight_decay(make_course):
    course = make_course({"kind": "l2_sp", "l2_sp": 0.25}, training={"weight_decay": 0.5})
    training = begin(course)
    head = sum(p.square().sum() for p in training.network.fc.parameters())
    torch.testing.assert_close(training.penalty(), 0.5 / 2 * head)
    with torch.no_grad():
        training.network.stem[0].weight[0, 0, 0, 0] += 2
    torch.testing.assert_close(training.penalty(), 0.25 / 2 * 2**2 + 0.5 / 2 * head)


APART = "batch norm counts over each process's own images: a CPU's cannot share"


@pytest.mark.parametrize(("processes", "notes"), [(1, []), (2, [APART])])
def test_that_batch_norm_counts_apart_is_noted(make_course, monkeypatch, processes, notes):
    monkeypatch.setattr(start, "world", lambda: processes)
    course = make_course(FULL)
    assert_equal(begin(course).network.state_dict(), plain(course))
    assert course.notes == notes


def test_without_batch_norm_there_is_nothing_to_note(make_course):
    course, network = make_course(FULL), nn.Linear(2, 2)
    assert start._synchronised(course, network) is network
    assert course.notes == []


def test_on_gpus_batch_norm_counts_over_all_images(make_course):
    """Layers are put in place without a GPU too; their statistics are looked at with some."""
    course = make_course(FULL)
    course.device = torch.device("cuda")
    network = start._synchronised(course, plain(course))
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert course.notes == []


def test_timms_batch_norm_keeps_its_activation(make_course):
    network = pytest.importorskip("timm").create_model("efficientnet_b0", num_classes=3).eval()
    course, images = make_course(FULL), torch.randn(2, 3, 32, 32)
    course.device = torch.device("cuda")
    with torch.no_grad():
        before = network(images)
        assert torch.equal(start._synchronised(course, network).eval()(images), before)
    assert {type(m).__name__ for m in network.modules() if isinstance(m, _BatchNorm)} == {
        "SyncBatchNormAct"
    }


@pytest.mark.parametrize(
    ("device", "compiled", "quick"),
    [("cpu", "off", True), ("cpu", "auto", True), ("cpu", "on", False), ("meta", "off", False)],
)
def test_dropout_draws_bytes_on_a_cpu_that_nothing_is_compiled_for(
    make_course, monkeypatch, device: str, compiled: str, quick: bool
):
    def build(*given: object) -> nn.Module:
        return nn.Sequential(build_network(*given), nn.Dropout(0.5))

    monkeypatch.setattr(start, "build_network", build)
    course = make_course(FULL, training={"compile": compiled})
    course.device = torch.device(device)
    assert isinstance(begin(course).network[1], ByteDropout) is quick
