"""What is frozen in which epoch."""

from __future__ import annotations

import pytest

from tasks.errors import ConfigError
from tasks.finetune.phases import Phase, check_warm_up, plan_phases
from tasks.recipe import StrategyConfig, TrainingConfig


def frozen_by_epoch(strategy: dict, backbone, epochs: int) -> list[int]:
    """Return how many stages are frozen in each epoch."""
    found = []
    for phase in plan_phases(StrategyConfig.model_validate(strategy), backbone, epochs):
        held = sum(set(stage) <= set(phase.frozen) for stage in backbone.stages)
        assert sum(len(stage) for stage in backbone.stages[:held]) == len(phase.frozen)
        found += [held] * phase.epochs
    return found


@pytest.mark.parametrize(
    ("strategy", "epochs", "frozen"),
    [
        ({"kind": "full"}, 3, [0, 0, 0]),
        ({"kind": "partial", "frozen_stages": 3}, 2, [3, 3]),
        ({"kind": "linear_probe"}, 2, [4, 4]),
        ({"kind": "lp_ft"}, 4, [4, 4, 0, 0]),
        ({"kind": "lp_ft"}, 5, [4, 4, 0, 0, 0]),
        ({"kind": "lp_ft", "probe_epochs": 1}, 3, [4, 0, 0]),
        ({"kind": "wise_ft"}, 2, [4, 0]),
        # graft_tiny has four stages: one an epoch, two where epochs are few
        ({"kind": "gradual_unfreeze"}, 7, [4, 3, 2, 1, 0, 0, 0]),
        ({"kind": "gradual_unfreeze"}, 5, [4, 3, 2, 1, 0]),
        ({"kind": "gradual_unfreeze"}, 3, [4, 2, 0]),
        ({"kind": "gradual_unfreeze"}, 4, [4, 2, 1, 0]),
        ({"kind": "gradual_unfreeze"}, 2, [4, 0]),
        ({"kind": "soup"}, 2, [0, 0]),
    ],
)
def test_the_frozen_stages_of_each_epoch(strategy, epochs, frozen, backbone):
    assert frozen_by_epoch(strategy, backbone, epochs) == frozen


def test_only_the_head_s_own_phase_ends_an_optimiser(backbone):
    def fresh(kind: str) -> list[bool]:
        return [p.fresh for p in plan_phases(StrategyConfig(kind=kind), backbone, 5)]

    assert fresh("lp_ft") == [True, True]
    assert fresh("gradual_unfreeze") == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("strategy", "epochs"),
    [
        ({"kind": "lp_ft"}, 1),
        ({"kind": "wise_ft", "probe_epochs": 3}, 3),
        ({"kind": "gradual_unfreeze"}, 1),
    ],
)
def test_too_few_epochs_are_refused(strategy, epochs, backbone):
    with pytest.raises(ConfigError, match=r"training\.epochs="):
        plan_phases(StrategyConfig.model_validate(strategy), backbone, epochs)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "partial"}, "frozen_stages"),
        ({"kind": "full", "frozen_stages": 1}, "frozen_stages"),
        ({"kind": "full", "probe_epochs": 1}, "probe_epochs"),
        ({"kind": "full", "lora_rank": 4}, "lora_rank"),
        ({"kind": "distill"}, "teacher"),
        ({"kind": "full", "teacher": "models:/a@champion"}, "teacher"),
        ({"kind": "linear_probe", "l2_sp": 0.1}, "l2_sp"),
        ({"kind": "full", "wise_ft": 0.5}, "wise_ft"),
        ({"kind": "wise_ft", "wise_ft": 1.5}, "wise_ft"),
        ({"kind": "lora", "soup": 2}, "soup"),
        ({"kind": "lp_ft", "wise_ft": "search", "soup": 2}, "soup"),
    ],
)
def test_settings_that_do_not_go_with_the_kind(given, words):
    with pytest.raises(ValueError, match=words):
        StrategyConfig.model_validate(given)


def test_short_kinds_have_their_usual_setting_unless_told():
    assert StrategyConfig(kind="l2_sp").l2_sp == 0.01
    assert StrategyConfig(kind="ema", ema_decay=0.5).ema_decay == 0.5
    assert StrategyConfig(kind="wise_ft", wise_ft=None).wise_ft == "search"
    assert StrategyConfig(kind="full").layer_decay is None


def test_a_phase_shorter_than_the_warm_up(backbone):
    recipe = TrainingConfig(epochs=10, warmup_epochs=5, schedule="cosine")
    with pytest.raises(ConfigError, match="'probe' has 5 epochs"):
        check_warm_up(plan_phases(StrategyConfig(kind="lp_ft"), backbone, 10), recipe)
    check_warm_up(plan_phases(StrategyConfig(kind="gradual_unfreeze"), backbone, 10), recipe)


def test_every_field_of_every_phase(backbone):
    given = backbone.model_copy(update={"stages": (("a",), ("b", "c"))})
    everything = ("a", "b", "c")

    def plan(epochs: int, **strategy) -> tuple[Phase, ...]:
        return plan_phases(StrategyConfig.model_validate(strategy), given, epochs)

    assert plan(3, kind="full") == (Phase("train", 3, (), True, 3),)
    assert plan(3, kind="partial", frozen_stages=1) == (Phase("train", 3, ("a",), True, 3),)
    two = (Phase("probe", 2, everything, True, 2), Phase("tune", 3, (), True, 3))
    assert plan(5, kind="lp_ft") == plan(5, kind="wise_ft") == two
    assert plan(5, kind="gradual_unfreeze") == (
        Phase("2 stages frozen", 1, everything, True, 5),
        Phase("1 stages frozen", 1, ("a",), False, 5),
        Phase("0 stages frozen", 3, (), False, 5),
    )


def refused(strategy: dict, backbone, epochs: int) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_phases(StrategyConfig.model_validate(strategy), backbone, epochs)
    return str(caught.value)


def test_too_few_epochs_are_said_with_the_fewest_that_do(backbone):
    assert refused({"kind": "lp_ft", "probe_epochs": 3}, backbone, 2) == (
        "strategy.kind=lp_ft trains the head for 3 of training.epochs=2, which leaves none for "
        "the rest.\nSet training.epochs=4 or more."
    )
    assert refused({"kind": "gradual_unfreeze"}, backbone, 1) == (
        "strategy.kind=gradual_unfreeze begins with an epoch for the head alone.\n"
        "Set training.epochs=2 or more."
    )


def test_a_warm_up_as_long_as_a_phase_is_refused_and_a_shorter_is_not():
    phases = (Phase("probe", 2, (), True, 2), Phase("tune", 4, (), True, 4))
    check_warm_up(phases, TrainingConfig(epochs=6, warmup_epochs=1.5, schedule="cosine"))
    with pytest.raises(ConfigError) as caught:
        check_warm_up(phases, TrainingConfig(epochs=6, warmup_epochs=2, schedule="cosine"))
    assert str(caught.value) == (
        "training.warmup_epochs=2, but the phase 'probe' has 2 epochs.\nSet it lower."
    )
