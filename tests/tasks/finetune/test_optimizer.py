"""Groups, rates and updates of every optimiser, against torch's own written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tasks.errors import ConfigError
from tasks.finetune.optimizer import MuonWithAdamW, build_optimizer
from tasks.pretrained.network import build_network
from tasks.recipe import StrategyConfig, TrainingConfig
from tasks.values import Backbone


class Attentive(nn.Module):
    """A small network with every kind of weight that Muon must tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embedding = nn.Parameter(torch.randn(16, 8))
        self.embed = nn.Embedding(16, 8)
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        # without a bias: that of the keys has no gradient but noise, which AdamW would enlarge
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.fc = nn.Linear(8, 3)

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        x = self.patch(images_bchw).flatten(2).transpose(1, 2)
        x = x + self.pos_embedding + self.embed.weight + self.class_token
        x = self.norm(x)
        x = x + self.attention(x, x, x)[0]
        return self.fc((x + self.mlp(x)).mean(dim=1))


MATRICES = {"attention.in_proj_weight", "attention.out_proj.weight", "mlp.0.weight", "mlp.2.weight"}
STAGES = (("class_token", "pos_embedding", "embed", "patch"), ("norm", "attention"), ("mlp",))


@pytest.fixture
def attentive(backbone) -> tuple[nn.Module, Backbone]:
    torch.manual_seed(0)
    return Attentive(), backbone.model_copy(update={"stages": STAGES, "head": "fc"})


def names_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[str]]:
    names = {id(p): n for n, p in network.named_parameters()}
    found: dict[str, list[str]] = {}
    for group in optimizer.param_groups:
        found.setdefault(group["name"], []).extend(names[id(p)] for p in group["params"])
    return found


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        images = torch.randn(6, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def written_out(network: nn.Module, recipe: TrainingConfig) -> torch.optim.Optimizer:
    head = {"params": network.fc.parameters(), "lr": recipe.head_learning_rate}
    body = {"params": [p for n, p in network.named_parameters() if not n.startswith("fc.")]}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            [body, head], lr=recipe.learning_rate, momentum=0.8, weight_decay=0.1, foreach=False
        )
    return torch.optim.AdamW([body, head], lr=recipe.learning_rate, weight_decay=0.1, foreach=False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_update_is_torchs_plain_one(name, layout, attentive):
    network, backbone = attentive
    network = network.to(memory_format=layout)
    recipe = TrainingConfig(
        optimizer=name, learning_rate=0.01, head_learning_rate=0.03, weight_decay=0.1, momentum=0.8
    )
    twin = copy.deepcopy(network)
    optimizer = build_optimizer(network, recipe, backbone, StrategyConfig())
    assert all(group["fused"] for group in optimizer.param_groups)
    learn(network, optimizer)
    learn(twin, written_out(twin, recipe))
    assert_same(network, twin)


def test_convolutions_in_channels_last_too(backbone):
    network = build_network(backbone, 3, 0).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(network)
    recipe = TrainingConfig(
        learning_rate=0.001, head_learning_rate=0.003, weight_decay=0.1, momentum=0.8
    )
    learn(network, build_optimizer(network, recipe, backbone, StrategyConfig()))
    learn(twin, written_out(twin, recipe))
    assert_same(network, twin)


def test_two_groups_that_hold_every_parameter_once(backbone):
    network = build_network(backbone, 3, 0)
    recipe = TrainingConfig(learning_rate=0.01, head_learning_rate=0.05)
    optimizer = build_optimizer(network, recipe, backbone, StrategyConfig())
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [
        ("body", 0.01),
        ("head", 0.05),
    ]
    named = names_of(network, optimizer)
    assert named["head"] == ["fc.weight", "fc.bias"]
    assert sorted(named["body"] + named["head"]) == sorted(n for n, _ in network.named_parameters())


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_the_rate_decays_stage_by_stage(name, attentive):
    network, backbone = attentive
    recipe = TrainingConfig(optimizer=name, learning_rate=0.1)
    optimizer = build_optimizer(network, recipe, backbone, StrategyConfig(layer_decay=0.5))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"stage 3": 0.1, "stage 2": 0.05, "stage 1": 0.025, "head": 0.1}
    assert optimizer.param_groups[0]["name"] == "stage 3"  # the history shows the full rate
    named = names_of(network, optimizer)
    for number, stage in enumerate(STAGES, start=1):
        for parameter in named[f"stage {number}"]:
            assert parameter.split(".")[0] in stage
    assert sum(map(len, named.values())) == len(list(network.parameters()))


def test_what_is_frozen_is_left_out_unless_it_will_train(attentive):
    network, backbone = attentive
    network.requires_grad_(False)
    network.fc.requires_grad_(True)
    recipe, strategy = TrainingConfig(learning_rate=0.1, weight_decay=0.1), StrategyConfig()
    probing = names_of(network, build_optimizer(network, recipe, backbone, strategy))
    assert probing == {"head": ["fc.weight", "fc.bias"]}
    later = build_optimizer(
        network, recipe, backbone, strategy, trainable=lambda name: not name.startswith("patch")
    )
    held = {n: p.clone() for n, p in network.named_parameters() if not n.startswith("fc.")}
    assert set(names_of(network, later)["body"]) == {n for n in held if not n.startswith("patch")}
    learn(network, later, 1)
    for name, before in held.items():
        assert torch.equal(network.get_parameter(name), before)  # weight decay does not move it
    network.mlp.requires_grad_(True)
    learn(network, later, 1)
    for name, before in held.items():
        assert torch.equal(network.get_parameter(name), before) != name.startswith("mlp")


def test_every_head_of_a_network_has_the_heads_rate(attentive):
    network, backbone = attentive
    network.fc_dist = nn.Linear(8, 3)
    backbone = backbone.model_copy(update={"other_heads": ("fc_dist",)})
    optimizer = build_optimizer(
        network, TrainingConfig(), backbone, StrategyConfig(layer_decay=0.5)
    )
    assert len(names_of(network, optimizer)["head"]) == 4


def test_muon_trains_the_matrices_and_adamw_the_rest(attentive):
    network, backbone = attentive
    recipe = TrainingConfig(
        optimizer="muon", learning_rate=0.01, head_learning_rate=0.02, weight_decay=0.1,
        momentum=0.8,
    )  # fmt: skip
    twin = copy.deepcopy(network)
    optimizer = build_optimizer(network, recipe, backbone, StrategyConfig())
    learn(network, optimizer)
    matrices = [p for n, p in twin.named_parameters() if n in MATRICES]
    rest = [p for n, p in twin.named_parameters() if n not in MATRICES and not n.startswith("fc.")]
    muon = torch.optim.Muon(
        matrices, lr=0.01, weight_decay=0.1, momentum=0.8, adjust_lr_fn="match_rms_adamw"
    )
    head = {"params": twin.fc.parameters(), "lr": 0.02}
    adamw = torch.optim.AdamW([{"params": rest}, head], lr=0.01, weight_decay=0.1)
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        muon.zero_grad()
        adamw.zero_grad()
        twin(torch.randn(6, 3, 8, 8, generator=generator)).square().sum().backward()
        muon.step()
        adamw.step()
    assert_same(network, twin)


def test_muon_goes_on_from_its_state(attentive):
    network, backbone = attentive
    recipe, strategy = TrainingConfig(optimizer="muon", learning_rate=0.01), StrategyConfig()
    optimizer = build_optimizer(network, recipe, backbone, strategy)
    learn(network, optimizer, 2)
    twin = copy.deepcopy(network)
    other = build_optimizer(twin, recipe, backbone, strategy)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    learn(network, optimizer, 2)
    learn(twin, other, 2)
    assert_same(network, twin)
    other.param_groups[0]["lr"] = 0.0  # the groups are still the parts' own
    assert other._parts[0].param_groups[0]["lr"] == 0.0


def test_muon_takes_a_closure_and_a_network_of_matrices_alone(backbone):
    network = nn.Sequential(nn.Linear(4, 4, bias=False))
    optimizer = build_optimizer(
        network, TrainingConfig(optimizer="muon"), backbone, StrategyConfig()
    )
    assert isinstance(optimizer, MuonWithAdamW)

    def closure() -> torch.Tensor:
        loss = network(torch.ones(2, 4)).sum()
        loss.backward()
        return loss

    before = network[0].weight.clone()
    assert optimizer.step(closure).item() == pytest.approx(2 * before.sum().item())
    assert not torch.equal(before, network[0].weight)


def test_muon_is_refused_where_there_are_no_matrices(backbone):
    network = build_network(backbone, 3, 0)  # convolutions, and the head
    with pytest.raises(
        ConfigError, match=r"training\.optimizer=muon is for networks with matrices"
    ):
        build_optimizer(network, TrainingConfig(optimizer="muon"), backbone, StrategyConfig())
