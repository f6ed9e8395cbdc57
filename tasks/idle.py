"""Settings that would do nothing, as nothing they go with is there: said, instead of ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.recipe import StrategyConfig, TrainingConfig

# a setting of a strategy, and the one kind that reads it
_OWNERS = (
    ("lora_alpha", "lora"),
    ("distill_weight", "distill"),
    ("distill_temperature", "distill"),
)


def idle_in_strategy(strategy: StrategyConfig) -> str | None:
    """Return what is wrong with a setting that ``strategy.kind`` does not read, None if nothing.

    At its usual value it may stand in any config, which names every key.
    """
    for name, owner in _OWNERS:
        usual = type(strategy).model_fields[name].default
        if strategy.kind != owner and getattr(strategy, name) != usual:
            value = "null" if usual is None else usual
            return (
                f"strategy.{name} goes with strategy.kind={owner} only: with strategy.kind="
                f"{strategy.kind} set it to {value}"
            )
    return None


def idle_in_training(training: TrainingConfig) -> str | None:
    """Return what is wrong with ``training.feature_views`` where no view is kept, None if nothing.

    Whether a part of the network is frozen is up to the strategy: where none is, the log says so.
    """
    if training.feature_views is None:
        return None
    if not training.augmented:
        return (
            "training.feature_views keeps augmented views, and nothing augments: set "
            "training.augment, policy or random_erasing, or feature_views=null"
        )
    if training.feature_cache == "off":
        return (
            "training.feature_views goes with training.feature_cache=auto: with off set "
            "feature_views=null"
        )
    return None
