"""The course of a training: what is frozen in which epochs."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.errors import ConfigError
from tasks.finetune.strategy import every_stage, first_stages, frozen_names
from tasks.recipe import StrategyConfig, TrainingConfig
from tasks.values import Backbone

PROBE = "probe"


@dataclass(frozen=True)
class Phase:
    """Some epochs in which the same part of the network is frozen."""

    name: str
    epochs: int
    frozen: tuple[str, ...]  # dotted names
    fresh: bool  # starts with an optimiser and a schedule of its own
    schedule_epochs: int  # how many epochs that schedule is for


def plan_phases(strategy: StrategyConfig, backbone: Backbone, epochs: int) -> tuple[Phase, ...]:
    """Return the phases of ``epochs`` epochs in all.

    ``lp_ft`` (Kumar et al. 2022, "Fine-tuning can distort pretrained features", section 3.3): the
    head alone first, then everything from there; ``wise_ft`` needs the same, since the weights it
    goes back to must already classify. ``gradual_unfreeze`` (Howard & Ruder 2018, ULMFiT, section
    3.3): the head, then with every epoch one more stage from the top; where there are more stages
    than epochs, several at a time, so that the last epoch trains all. Raises ``ConfigError`` for
    too few epochs, or more frozen stages than there are.
    """
    if strategy.kind in ("lp_ft", "wise_ft"):
        return _probe_then_all(strategy, backbone, epochs)
    if strategy.kind == "gradual_unfreeze":
        return _from_the_top(backbone, epochs)
    return (Phase("train", epochs, frozen_names(strategy, backbone), True, epochs),)


def _probe_then_all(strategy: StrategyConfig, backbone: Backbone, epochs: int) -> tuple[Phase, ...]:
    probe = strategy.probe_epochs or max(1, epochs // 2)
    if probe >= epochs:
        raise ConfigError(
            f"strategy.kind={strategy.kind} trains the head for {probe} of training.epochs="
            f"{epochs}, which leaves none for the rest.\nSet training.epochs={probe + 1} or more."
        )
    rest = epochs - probe
    return (
        Phase(PROBE, probe, every_stage(backbone), True, probe),
        Phase("tune", rest, (), True, rest),
    )


def _from_the_top(backbone: Backbone, epochs: int) -> tuple[Phase, ...]:
    stages = len(backbone.stages)
    if epochs < 2:
        raise ConfigError(
            "strategy.kind=gradual_unfreeze begins with an epoch for the head alone.\n"
            "Set training.epochs=2 or more."
        )
    steps = min(stages, epochs - 1)
    found = []
    for step in range(steps + 1):
        frozen = stages - -(-stages * step // steps)
        length = 1 if step < steps else epochs - steps
        held = first_stages(backbone, frozen)
        found.append(Phase(f"{frozen} stages frozen", length, held, step == 0, epochs))
    return tuple(found)


def check_warm_up(phases: tuple[Phase, ...], recipe: TrainingConfig) -> None:
    """Raise ``ConfigError`` where a phase's own schedule would end before it has warmed up."""
    for phase in phases:
        if recipe.warmup_epochs >= phase.schedule_epochs:
            raise ConfigError(
                f"training.warmup_epochs={recipe.warmup_epochs:g}, but the phase {phase.name!r} "
                f"has {phase.schedule_epochs} epochs.\nSet it lower."
            )
