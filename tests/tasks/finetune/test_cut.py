"""The cut network against the whole one, over every classifier of torchvision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from tasks.finetune.cut import CannotCut, Cut, cut_network
from tasks.finetune.dropout import ByteDropout
from tasks.finetune.strategy import FrozenPart
from tasks.pretrained.architectures import build, names
from tasks.pretrained.heads import find_heads, is_under
from tasks.pretrained.outline import outline
from tasks.pretrained.stages import find_stages

# The smallest of each family, whose numbers are checked; of all others what is where.
SMALLEST = (
    "graft_tiny", "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0",
    "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vit_b_32",
)  # fmt: skip
SIZES = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224, "vit_b_32": 64, "vit_h_14": 28}
LARGEST_IN_MEMORY = 100_000_000  # parameters


def frozen_of(network: nn.Module, share: float) -> tuple[str, ...]:
    stages = find_stages(network, *find_heads(network))
    return tuple(name for stage in stages[: round(share * len(stages))] for name in stage)


def held(network: nn.Module, names: tuple[str, ...]) -> FrozenPart:
    frozen = FrozenPart(network)
    frozen.hold(names)
    return frozen


def size_of(architecture: str) -> int:
    return SIZES.get(architecture, 32)


def image_size(architecture: str) -> int | None:
    return size_of(architecture) if architecture.startswith("vit_") else None


@pytest.mark.parametrize("architecture", SMALLEST)
def test_prefix_and_suffix_are_the_network(architecture: str):
    torch.manual_seed(0)
    network = build(architecture, 7, image_size(architecture))
    frozen = FrozenPart(network)
    images_bchw = torch.randn(4, 3, size_of(architecture), size_of(architecture))
    for share in (1.0, 0.5):
        frozen.hold(frozen_of(network, share))
        cut = cut_network(network, frozen_of(network, share), images_bchw[:1])
        for training in (True, False):
            frozen.train_mode() if training else network.eval()
            modes = [module.training for module in network.modules()]
            cut.suffix.train(training)
            assert [module.training for module in network.modules()] == modes
            expected, found, features = both(network, cut, images_bchw)
            assert features.shape == (4, *cut.shape)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def both(network: nn.Module, cut: Cut, images_bchw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run either way with the same dropout; batch norm counts twice, which no output sees."""
    with torch.no_grad():
        torch.manual_seed(1)
        expected = network(images_bchw)
        torch.manual_seed(1)
        features = cut.prefix(images_bchw)
        return expected, cut.suffix(features.clone()), features


@pytest.mark.parametrize("architecture", sorted(set(names()) - set(SMALLEST)))
def test_every_network_is_cut_behind_its_frozen_stages(architecture: str):
    network = hollow(architecture)
    side = size_of(architecture)
    frozen_names = frozen_of(network, 0.5)
    FrozenPart(network).hold(frozen_names)
    cut = cut_network(network, frozen_names, next(network.parameters()).new_zeros(1, 3, side, side))
    before, after = (set(part.parameters()) for part in (cut.prefix, cut.suffix))
    named = dict(network.named_parameters())
    assert before == {p for name, p in named.items() if is_under(name, frozen_names)}
    assert after == {p for name, p in named.items() if not is_under(name, frozen_names)}


def hollow(architecture: str) -> nn.Module:
    """Build a network of zeros, or without numbers where it is large."""
    network = outline(architecture, 7, image_size(architecture))
    if sum(p.numel() for p in network.parameters()) > LARGEST_IN_MEMORY:
        return network
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in network.state_dict(keep_vars=True).values():
            tensor.zero_()
    return network


def test_maxvit_in_small_is_the_network():
    from torchvision.models import MaxVit

    torch.manual_seed(0)
    network = MaxVit((64, 64), 8, 4, [8, 16, 16], [1, 1, 1], 8, 0.3, num_classes=3)
    frozen = FrozenPart(network)
    names_held = frozen_of(network, 0.5)
    frozen.hold(names_held)
    images_bchw = torch.randn(4, 3, 64, 64)
    cut = cut_network(network, names_held, images_bchw)
    frozen.train_mode()
    expected, found, _ = both(network, cut, images_bchw)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Small(nn.Module):
    """A frozen layer, something in between, and a head that trains."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.layer, self.between = nn.Linear(4, 4), between
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.layer(x.mean((2, 3)))))


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=self.training)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 2.0, 3.0, 4.0])


class OnlyInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


def small_cut(between: nn.Module, *more: str) -> tuple[Small, Cut]:
    torch.manual_seed(0)
    network = Small(between)
    held(network, ("layer", *more)).train_mode()
    return network, cut_network(network, ("layer", *more), torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    "between",
    [nn.Dropout(0.5), ByteDropout(0.5), FunctionalDropout(), Noise(),
     StochasticDepth(0.5, "row"), nn.RReLU(), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False),
     nn.BatchNorm1d(4, affine=False, track_running_stats=False)],
    ids=str,
)  # fmt: skip
def test_what_draws_or_counts_comes_behind_the_cut(between: nn.Module):
    network, cut = small_cut(between)
    images = torch.randn(6, 4, 8, 8)
    assert torch.equal(cut.prefix(images), network.layer(images.mean((2, 3))))
    for training in (True, False):
        network.train(training)  # the network's mode alone decides
        expected, found, _ = both(network, cut, images)
        torch.testing.assert_close(found, expected)
    if not isinstance(between, Noise | nn.BatchNorm1d):
        features = -torch.ones(64, 4)
        network.train()
        assert not torch.equal(cut.suffix(features), cut.suffix(features))
        network.eval()
        assert torch.equal(cut.suffix(features), cut.suffix(features))


@pytest.mark.parametrize(
    "between", [nn.Dropout(0.0), nn.Dropout1d(0.0), nn.ReLU(inplace=True), nn.LayerNorm(4)], ids=str
)
def test_what_is_fixed_comes_before_the_cut(between: nn.Module):
    network, cut = small_cut(between, "between")
    images = torch.randn(6, 4, 8, 8)
    assert set(cut.suffix.parameters()) == set(network.head.parameters())
    assert torch.equal(cut.prefix(images), network.between(network.layer(images.mean((2, 3)))))


def test_a_frozen_batch_norm_is_before_the_cut_and_does_not_count():
    network, cut = small_cut(nn.BatchNorm1d(4), "between")
    cut.suffix.train()
    assert not network.between.training
    assert network.head.training
    cut.prefix(torch.randn(6, 4, 8, 8))
    assert network.between.num_batches_tracked == 0
    assert set(cut.prefix.parameters()) >= set(network.between.parameters())


def test_modes_with_code_of_their_own():
    network = Small(OnlyInTraining())
    held(network, ("layer",))
    with pytest.raises(CannotCut, match="something else in evaluation"):
        cut_network(network, ("layer",), torch.zeros(1, 4, 8, 8))
    network, cut = small_cut(nn.Sequential(nn.Dropout(0.9), OnlyInTraining()))
    features = torch.randn(5, 4)
    network.eval()
    torch.testing.assert_close(cut.suffix(features), network.head(features))


def test_training_the_suffix_trains_the_network():
    network, cut = small_cut(nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(cut.suffix.parameters(), lr=0.1)
    cut.suffix.train()
    cut.suffix(torch.randn(6, 4)).square().sum().backward()
    optimizer.step()
    moved = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    # a bias before batch norm would not move; the head's and the norm's do
    assert moved == {n for n in before if not n.startswith("layer.")}


def test_behind_the_cut_a_copy_is_the_copy_with_the_weights_it_has_by_then():
    network = Small(nn.Sequential(nn.BatchNorm1d(4), Constant()))
    held(network, ("layer",))
    copied = copy.deepcopy(network).requires_grad_(False).eval()
    cut = cut_network(network, ("layer",), torch.zeros(1, 4, 8, 8))
    behind = cut.suffix.of(copied)
    images_bchw = torch.randn(5, 4, 8, 8)
    features = cut.prefix(images_bchw)
    for _ in range(2):
        for tensor in (*copied.head.parameters(), copied.between[0].running_mean):
            tensor.add_(1)
        assert torch.equal(behind(features), copied(images_bchw))
    assert not torch.equal(copied(images_bchw), network.eval()(images_bchw))
    assert cut.suffix.of(network) is cut.suffix


class Residual(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean((2, 3))[:, :2]


class Asking(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Windows(Small):
    """Four windows of each image in the batch dimension, between two layers."""

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        windows = self.layer(x.mean((2, 3)).repeat_interleave(4, 0))
        return self.head(self.between(windows)).view(b, 4, 2).mean(1)


class HiddenChange(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.mean((2, 3)))
        view = x.view(-1, 4)
        x.relu_()
        return self.head(view)


class ChangeInPlace(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.mean((2, 3)))
        x.neg_()
        x.relu_()
        return self.head(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Residual, "no single tensor"),
        (Asking, "cannot be traced"),
        (Windows, "no single tensor"),
        (HiddenChange, "in place"),
    ],
)
def test_reasons_for_no_cut(kind: type[Small], reason: str):
    network = kind(nn.Identity())
    held(network, ("layer",))
    with pytest.raises(CannotCut, match=reason):
        cut_network(network, ("layer",), torch.zeros(1, 4, 8, 8))


def test_a_change_in_place_is_not_lost():
    network = ChangeInPlace(nn.Identity())
    held(network, ("layer",))
    images = torch.randn(6, 4, 8, 8)
    cut = cut_network(network, ("layer",), images)
    expected, found, features = both(network, cut, images)
    assert torch.equal(found, expected)
    assert torch.equal(features, (-network.layer(images.mean((2, 3)))).relu())


def test_what_is_frozen_behind_what_trains_is_not_cut():
    network = Small(nn.Identity())
    held(network, ("head",))
    with pytest.raises(CannotCut, match="no single tensor"):
        cut_network(network, ("head",), torch.zeros(1, 4, 8, 8))


def test_nothing_frozen_and_images_that_do_not_fit():
    network = Small(nn.Identity())
    with pytest.raises(CannotCut, match="nothing is frozen"):
        cut_network(network, (), torch.zeros(1, 4, 8, 8))
    held(network, ("layer",))
    with pytest.raises(CannotCut, match="a trial run failed"):
        cut_network(network, ("layer",), torch.zeros(1, 3, 8, 8))


def test_the_description_tells_layers_of_other_settings_apart():
    texts = {small_cut(nn.LayerNorm(4, eps=eps), "between")[1].description for eps in (1e-5, 1e-3)}
    assert len(texts) == 2
    assert small_cut(nn.ReLU())[1].description == small_cut(nn.ReLU())[1].description


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 4, "drop_path_rate": 0.5}),
        ("convnext_atto", {"drop_path_rate": 0.5}),
        ("levit_128s", {"img_size": 64}),
    ],
)
def test_timm_drops_paths_by_code_of_its_own(name: str, options: dict[str, object]):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, **options)
    names_held = frozen_of(network, 0.5)
    frozen = held(network, names_held)
    side = options.get("img_size", 64)
    images_bchw = torch.randn(4, 3, side, side)
    cut = cut_network(network, names_held, images_bchw)
    assert cut.suffix.trained is not cut.suffix.evaluated
    for training in (True, False):
        frozen.train_mode() if training else network.eval()
        expected, found, _ = both(network, cut, images_bchw)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
