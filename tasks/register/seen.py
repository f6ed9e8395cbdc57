"""How many test images a model has seen: what the registry knows, as a fact for the report."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tasks.config import RunConfig
from tasks.errors import GraftError
from tasks.index import read_index
from tasks.measures import Seen
from tasks.register.learned import Learned, learned_images
from tasks.retry import with_retries
from tasks.values import FineTunedModel, PackedSplit, PreparedDataset

log = logging.getLogger(__name__)


def seen_by_run(config: RunConfig, prepared: PreparedDataset, model: FineTunedModel) -> Seen:
    """Return what ``model`` learned from: its own images, and those behind its start and teacher.

    A registry that cannot say costs no trained model its report: the log says so, and the fact is
    incomplete. Weights of no version are taken to have learned from none of these images.
    """
    learned = learned_images(prepared) | _before(config, model)
    return _count(learned, prepared.test)


def seen_by_version(uri: str, test: PackedSplit) -> Seen:
    """Return what the version ``uri`` learned from, as its files say; else as ``seen_by_run``."""
    return _count(_known(lambda: _of_version(uri)), test)


def _count(learned: Learned, test: PackedSplit) -> Seen:
    images = learned.count_seen(read_index(test.index))
    return Seen(images=images, complete=learned.complete)


def _of_version(uri: str) -> Learned:
    from tasks.register.client import connect, tracking_errors
    from tasks.register.contest import learned_by
    from tasks.register.registry import find_version

    with tracking_errors(f"reading what {uri} learned from"):
        return learned_by(find_version(connect(create=False), uri))


def _before(config: RunConfig, model: FineTunedModel) -> Learned:
    if model.backbone_sha256 is None and model.teacher_sha256 is None:
        return Learned()
    from tasks.register.client import connect
    from tasks.register.contest import inherited_images

    return _known(lambda: inherited_images(connect(), config, model))


def _known(look_up: Callable[[], Learned]) -> Learned:
    try:
        return with_retries(look_up)
    except GraftError as error:
        log.warning("what the model learned from is not known: %s", str(error).partition("\n")[0])
        return Learned(complete=False)
