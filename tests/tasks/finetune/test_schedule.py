"""Every schedule at every step, in every group, against its closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from tasks.finetune.optimizer import build_optimizer
from tasks.finetune.schedule import build_schedule
from tasks.recipe import StrategyConfig, TrainingConfig

STEPS, AN_EPOCH = 20, 4


def two_groups(rates: tuple[float, float] = (0.1, 0.5)) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in rates]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates, strict=True)]
    return torch.optim.SGD(groups, momentum=0.5)


def rates_of(
    optimizer: torch.optim.Optimizer, recipe: TrainingConfig, steps: int = STEPS
) -> list[list[float]]:
    """Return each group's rate at each step, and after the last."""
    schedule = build_schedule(optimizer, recipe, steps, AN_EPOCH)
    seen = [schedule.get_last_lr()]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        seen.append(schedule.get_last_lr())
        assert seen[-1] == [group["lr"] for group in optimizer.param_groups]
    return [[float(rate) for rate in group] for group in zip(*seen, strict=True)]


def closed(name: str, step: int, warm: int) -> float:
    if step < warm:
        return (step + 1) / (warm + 1)
    share = (step - warm) / (STEPS - warm)
    return {
        "constant": 1.0,
        "linear": 1 - share,
        "cosine": (1 + math.cos(math.pi * share)) / 2,
    }[name]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warm_epochs", "warm"), [(0, 0), (1, 4), (2.5, 10), (0.1, 0)])
def test_every_step_of_every_group(name: str, warm_epochs: float, warm: int) -> None:
    recipe = TrainingConfig(schedule=name, epochs=5, warmup_epochs=warm_epochs)
    expected = [closed(name, step, warm) for step in range(STEPS + 1)]
    for base, seen in zip((0.1, 0.5), rates_of(two_groups(), recipe), strict=True):
        assert seen == pytest.approx([base * share for share in expected])
        assert min(seen[:-1]) > 0  # no step is lost
        assert max(seen) == pytest.approx(base)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_without_warm_up_they_are_torchs(name: str) -> None:
    optimizer = two_groups()
    if name == "cosine":
        torchs = CosineAnnealingLR(optimizer, T_max=STEPS)
    else:
        torchs = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=STEPS)
    expected = [torchs.get_last_lr()]
    for _ in range(STEPS):
        optimizer.step()
        torchs.step()
        expected.append(torchs.get_last_lr())
    seen = rates_of(two_groups(), TrainingConfig(schedule=name))
    for mine, other in zip(seen, zip(*expected, strict=True), strict=True):
        assert mine == pytest.approx(other, abs=1e-12)


def test_one_cycle_by_hand_and_with_its_own_momentum() -> None:
    # Smith & Topin 2018 as torch does it: cosine up over 30% of the steps, cosine down
    optimizer = two_groups()
    seen = rates_of(optimizer, TrainingConfig(schedule="one_cycle"), STEPS - 1)
    assert optimizer.param_groups[0]["momentum"] == 0.5
    peak, steps = 0.3 * (STEPS - 1) - 1, STEPS - 1

    def blend(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    for high, rates in zip((0.1, 0.5), seen, strict=True):
        low = high / 25
        by_hand = [
            blend(low, high, s / peak)
            if s <= peak
            else blend(high, low / 1e4, (s - peak) / (steps - 1 - peak))
            for s in range(steps)
        ]
        assert rates[:-1] == pytest.approx(by_hand)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "one_cycle"])
def test_a_training_of_one_step(name: str) -> None:
    seen = rates_of(two_groups(), TrainingConfig(schedule=name), 1)
    assert seen[0][0] > 0
    warm = TrainingConfig(schedule="cosine", epochs=1, warmup_epochs=0.9)
    build_schedule(two_groups(), warm, 1, 1)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_both_parts_of_muon_follow(name: str, backbone) -> None:
    recipe = TrainingConfig(schedule=name, optimizer="muon", head_learning_rate=0.01)
    network = torch.nn.Sequential()
    network.body = torch.nn.Linear(4, 4)
    network.fc = torch.nn.Linear(4, 2)
    optimizer = build_optimizer(network, recipe, backbone, StrategyConfig())
    seen = rates_of(optimizer, recipe)
    assert len(seen) == 3  # matrices, biases, head
    inside = [group["lr"] for part in optimizer._parts for group in part.param_groups]
    assert inside == [rates[-1] for rates in seen]
    for body, head in zip(seen[0], seen[2], strict=True):
        assert head == pytest.approx(10 * body)
