"""A walk over every classifier of torchvision: head, stages and output, against torchvision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from tasks.config import ModelConfig
from tasks.errors import WeightsError
from tasks.pretrained.architectures import AUXILIARY, TINY, build, check_name, names
from tasks.pretrained.heads import find_heads, is_under
from tasks.pretrained.outline import outline
from tasks.pretrained.presets import preset
from tasks.pretrained.stages import find_stages

Outlined = Callable[[str, int], nn.Module]
EVERY = pytest.mark.parametrize("architecture", names())


def crop_of(architecture: str) -> int:
    return preset(ModelConfig(architecture=architecture, weights=None), None).crop


def test_every_classifier_of_torchvision_is_there():
    assert set(names()) - {TINY} == set(models.list_models(module=models))
    assert len(names()) >= 81


@EVERY
def test_head_is_the_layer_that_num_classes_changes(
    architecture: str, outlined: Outlined, monkeypatch: pytest.MonkeyPatch
):
    network = outlined(architecture, 7)
    ours, theirs = shapes(network), shapes(of_nine_classes(architecture, monkeypatch))
    (head,) = find_heads(network)
    changed = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    # MaxViT's head has no bias
    assert changed == {f"{head}.{n}" for n, _ in network.get_submodule(head).named_parameters()}
    assert f"{head}.weight" in changed
    assert {(ours[key][0], theirs[key][0]) for key in changed} == {(7, 9)}


def of_nine_classes(architecture: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Return torchvision's own network, without memory, not by what is tested here."""
    if architecture == TINY:
        return build(TINY, 9)
    options = {"aux_logits": False, "init_weights": False} if architecture in AUXILIARY else {}
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, device=None, **k: empty(*a, device="meta", **k))
    return models.get_model(architecture, num_classes=9, **options)


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items()}


@EVERY
def test_stages_part_the_network_in_the_order_of_its_forward_pass(
    architecture: str, outlined: Outlined
):
    network = outlined(architecture, 7)
    (head,) = find_heads(network)
    stages = [*find_stages(network, head), (head,)]
    assert len(stages) >= 5

    for name, _ in network.named_parameters():
        assert sum(is_under(name, stage) for stage in stages) == 1, name
    known = {name for name, _ in [*network.named_modules(), *network.named_parameters()]}
    assert all(name in known for stage in stages for name in stage)

    ran = run_order(network, crop_of(architecture))
    positions = [next(i for i, s in enumerate(stages) if is_under(name, s)) for name in ran]
    assert positions == sorted(positions)
    assert set(positions) == set(range(len(stages)))


def run_order(network: nn.Module, size: int) -> list[str]:
    """Return the modules that hold parameters themselves, as the forward pass meets them."""
    ran: list[str] = []
    holders = [
        (name, module)
        for name, module in network.named_modules()
        if name and any(True for _ in module.parameters(recurse=False))
    ]
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in holders
    ]
    logits = network(torch.empty(2, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    assert logits.shape == (2, 7)
    # ViT's encoder holds pos_embedding, and runs from the second stage to the last
    return [name for name in ran if not name.endswith("encoder")]


def published() -> list[WeightsEnum]:
    return [w for name in names() if name != TINY for w in models.get_model_weights(name)]


def test_parameters_are_as_many_as_torchvision_publishes():
    different = []
    for architecture in (name for name in names() if name != TINY):
        for weights in models.get_model_weights(architecture):
            network = outline(architecture, 1000, weights.meta.get("min_size", (224,))[0])
            n = sum(parameter.numel() for parameter in network.parameters())
            if n != weights.meta["num_params"]:
                different.append((architecture, weights.meta["num_params"] - n))
    # its auxiliary classifier, which is not built here
    assert different == [("inception_v3", 3_326_696)]


@pytest.mark.parametrize("weights", published(), ids=str)
def test_every_published_file_has_a_digest_in_its_name(weights: WeightsEnum):
    from torch.hub import HASH_REGEX

    found = HASH_REGEX.search(weights.url.rpartition("/")[2])
    assert found
    assert len(found[1]) >= 8


@pytest.mark.parametrize(
    "architecture", ["graft_tiny", "regnet_y_400mf", "swin_t", "mnasnet0_5", "googlenet"]
)
def test_outline_has_the_names_and_shapes_of_the_real_network(architecture: str):
    empty = outline(architecture, 5)
    assert shapes(build(architecture, 5)) == shapes(empty)
    assert {value.device.type for value in empty.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_classifiers_train_on_plain_logits(
    architecture: str, outlined: Outlined
):
    network = outlined(architecture, 7).train()
    size = crop_of(architecture)
    assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)
    network.eval()


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_mean_of_a_half_stands_for_transform_input(architecture: str):
    spec = preset(ModelConfig(architecture=architecture, weights=None), None)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    theirs = models.get_model(architecture, weights=None, init_weights=False, transform_input=True)
    usual = models.get_model_weights(architecture).DEFAULT.transforms()
    expected = theirs._transform_input((images - column(usual.mean)) / column(usual.std))
    torch.testing.assert_close((images - column(spec.mean)) / column(spec.std), expected)


def column(values: tuple[float, ...] | list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet81", "resnet18"), ("ResNet18", "resnet18"), ("zzzz", "Known:")]
)
def test_unknown_name_is_refused_with_the_nearest(name: str, nearest: str):
    with pytest.raises(WeightsError, match=nearest) as caught:
        check_name(name)
    assert str(caught.value).count("\n") <= 1


def test_stages_of_resnet_and_vit_are_those_one_would_name(outlined: Outlined):
    resnet = find_stages(outlined("resnet152", 7), "fc")
    assert resnet == (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    vit = find_stages(outlined("vit_b_32", 7), "heads.head")
    assert vit[0] == ("class_token", "conv_proj", "encoder.pos_embedding")
    assert vit[-1] == ("encoder.layers.encoder_layer_11", "encoder.ln")
