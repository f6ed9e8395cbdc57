"""What a model makes of images it did not learn from: what new images are held against later.

Not of training images, though they are more: a network that has fitted them gives them features
that no new image has, so that a test against them would alert without cause.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.artifacts import sha256_bytes, write_atomic
from tasks.errors import EvaluationError
from tasks.evaluate.features import finite
from tasks.evaluate.score import Scores
from tasks.evaluate.scorer import Scorer
from tasks.values import PackedSplit

REFERENCE_FILE = "reference.safetensors"
REFERENCE_IMAGES = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outlook:
    """What a network makes of n images: features, energies, and how often it chose each class."""

    features_nd: npt.NDArray[np.float32]
    energy_n: npt.NDArray[np.float64]  # nats; higher is less like training
    chosen_c: npt.NDArray[np.int64]  # images for each class

    @property
    def n(self) -> int:
        """Return the number of images."""
        return len(self.features_nd)

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file, the same for the same figures."""
        from safetensors.numpy import save

        return save(
            {"features": self.features_nd, "energy": self.energy_n, "chosen": self.chosen_c}
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Outlook:
        """Return what ``to_bytes`` was asked of."""
        from safetensors.numpy import load

        tensors = load(content)
        return cls(tensors["features"], tensors["energy"], tensors["chosen"])


def look_at(
    scorer: Scorer, split: PackedSplit, wanted_n: npt.NDArray[np.bool_]
) -> tuple[Scores, Outlook]:
    """Score ``split`` and return as well what is to be said of the images that are wanted.

    Raises ``EvaluationError`` for features that are no finite numbers.
    """
    scores, features = scorer.score_with_features(split, wanted_n)
    chosen_n = scores.predictions_n[wanted_n]
    classes = scores.probabilities_nc.shape[1]
    several = scores.multi_label
    chosen_c = chosen_n.sum(axis=0) if several else np.bincount(chosen_n, minlength=classes)
    return scores, Outlook(finite(features), scores.energy_n[wanted_n], chosen_c.astype(np.int64))


def joined(parts: list[Outlook]) -> Outlook:
    """Return what is said of all images of ``parts`` together."""
    return Outlook(
        np.concatenate([part.features_nd for part in parts]),
        np.concatenate([part.energy_n for part in parts]),
        np.sum([part.chosen_c for part in parts], axis=0),
    )


class ReferenceSample:
    """Takes a reference while splits are scored anyway; it costs no pass of its own.

    At most ``REFERENCE_IMAGES`` of all images of the splits, drawn without regard to their class,
    as new images come.
    """

    def __init__(self, splits: list[PackedSplit], seed: int) -> None:
        total = sum(split.n for split in splits)
        wanted = np.zeros(total, dtype=bool)
        wanted[np.random.default_rng(seed).permutation(total)[:REFERENCE_IMAGES]] = True
        ends = np.cumsum([split.n for split in splits])[:-1]
        self._wanted = dict(
            zip((split.name for split in splits), np.split(wanted, ends), strict=True)
        )
        self._parts: list[Outlook] = []

    def score(self, scorer: Scorer, split: PackedSplit) -> Scores:
        """Score a split as ``scorer`` does; a split of the sample only once."""
        wanted_n = self._wanted.pop(split.name, None)
        if wanted_n is None or not wanted_n.any():
            return scorer.score(split)
        try:
            scores, part = look_at(scorer, split, wanted_n)
        except EvaluationError as error:  # a run is not undone for want of a reference
            log.warning("no reference for graft monitor: %s", str(error).splitlines()[0])
            return scorer.score(split)
        self._parts.append(part)
        return scores

    def taken(self) -> Outlook | None:
        """Return what is said of the sample, once all its splits are scored."""
        return None if self._wanted or not self._parts else joined(self._parts)

    def write(self, folder: Path) -> str | None:
        """Write what was taken into ``folder``; return the digest, None where there is nothing."""
        taken = self.taken()
        if taken is None:
            return None
        content = taken.to_bytes()
        write_atomic(folder / REFERENCE_FILE, content)
        return sha256_bytes(content)
