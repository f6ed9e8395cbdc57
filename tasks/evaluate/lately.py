"""What was scored last, for the gate, which wants a new model's scores of the test images again."""

from __future__ import annotations

from tasks.config import RunConfig
from tasks.evaluate.score import Scores
from tasks.values import FineTunedModel, PackedSplit, RegisteredModel

Key = tuple[str, ...]
_last: dict[Key, Scores] = {}  # of one pair of model and split, or none


def remember(
    config: RunConfig,
    model: FineTunedModel | RegisteredModel,
    split: PackedSplit,
    scores: Scores,
) -> None:
    """Keep the scores that a model, its logits as they are, has on ``split``; all others go."""
    kept = {_key(config, model, split): scores}
    _last.clear()
    _last.update(kept)


def recall(
    config: RunConfig, model: FineTunedModel | RegisteredModel, split: PackedSplit
) -> Scores | None:
    """Return the scores of the same weights on the same images, if they were the last.

    By digests, and only what the same settings gave: another device or batch rounds otherwise.
    """
    return _last.get(_key(config, model, split))


def _key(config: RunConfig, model: FineTunedModel | RegisteredModel, split: PackedSplit) -> Key:
    settings = config.training
    how = (settings.device, settings.threads, config.evaluation.batch_size)
    return (model.sha256, model.architecture, split.digest, *map(str, how))
