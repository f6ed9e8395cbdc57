"""The scores that a report was just made of: the gate wants the same weights' on the same images.

They pass by no value between the rooms, as scores are arrays; who has none scores anew.
"""

from __future__ import annotations

from tasks.config import RunConfig
from tasks.evaluate.score import Scores
from tasks.evaluate.subject import Model
from tasks.values import PackedSplit

Key = tuple[str, ...]


class _Lately:
    """What was remembered last, until it is forgotten."""

    held: tuple[Key, Scores] | None = None


_lately = _Lately()


def remember(config: RunConfig, model: Model, split: PackedSplit, scores: Scores) -> None:
    """Keep the scores of ``model``, its logits as they are, on ``split``, in place of others."""
    _lately.held = (_key(config, model, split), scores)


def recall(config: RunConfig, model: Model, split: PackedSplit) -> Scores | None:
    """Return what was remembered of the same weights on the same images, put before them alike.

    Only what the same settings gave: another device or batch rounds otherwise.
    """
    held = _lately.held
    return held[1] if held is not None and held[0] == _key(config, model, split) else None


def forget() -> None:
    """Let go of what is remembered."""
    _lately.held = None


def _key(config: RunConfig, model: Model, split: PackedSplit) -> Key:
    settings = config.training
    how = (settings.device, settings.threads, config.evaluation.batch_size)
    what = (model.sha256, model.architecture, model.multi_label, *model.classes)
    return (split.digest, model.input.model_dump_json(), *map(str, (*how, *what)))
