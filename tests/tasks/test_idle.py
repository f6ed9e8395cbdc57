"""A setting that nothing reads is refused in words that say how to write it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.recipe import StrategyConfig, TrainingConfig

LORA = {"kind": "lora", "lora_alpha": 4}
DISTILL = {"kind": "distill", "teacher": "models:/a@b", "distill_weight": 0.9}
FLIP = {"augment": "flip", "feature_views": 4}


@pytest.mark.parametrize(
    ("section", "works", "idle", "words"),
    [
        (
            StrategyConfig,
            LORA,
            {"kind": "full"},
            "lora_alpha goes with strategy.kind=lora only: with strategy.kind=full set it to null",
        ),
        (
            StrategyConfig,
            DISTILL,
            {"kind": "ema", "teacher": None},
            "distill_weight goes with strategy.kind=distill only: with strategy.kind=ema set it to "
            "0.5",
        ),
        (
            StrategyConfig,
            DISTILL | {"distill_weight": 0.5, "distill_temperature": 2},
            {"kind": "lora", "teacher": None},
            "distill_temperature .*set it to 4.0",
        ),
        (TrainingConfig, FLIP, {"augment": "none"}, "nothing augments: set training.augment"),
        (TrainingConfig, FLIP, {"feature_cache": "off"}, "with off set feature_views=null"),
    ],
)
def test_what_nothing_reads_is_refused(section, works, idle, words):
    section.model_validate(works)
    with pytest.raises(ValidationError, match=words):
        section.model_validate(works | idle)


def test_usual_values_and_other_ways_to_augment_are_not():
    StrategyConfig(kind="full", lora_alpha=None, distill_weight=0.5, distill_temperature=4.0)
    for way in ({"policy": "trivial_augment"}, {"random_erasing": 0.1}):
        TrainingConfig.model_validate({"feature_views": 1} | way)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"devices": 2, "batch_size": 15}, "batch_size=15 is not a multiple of training.devices=2"),
        ({"nodes": 4, "devices": 2, "batch_size": 12}, "devices=2 times training.nodes=4: set one"),
        ({"devices": 3}, "batch_size=100 is not"),
    ],
)
def test_a_batch_that_its_devices_cannot_share_is_refused(training, words):
    with pytest.raises(ValidationError, match=words):
        TrainingConfig.model_validate(training)
    TrainingConfig.model_validate(training | {"batch_size": 24})
