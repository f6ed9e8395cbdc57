"""What a retraining is decided by, and what came of it: frozen values, as in ``tasks.values``."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from tasks.config import Sha256
from tasks.values import PromotionDecision, Value

Part = Literal["data", "config", "code", "start", "champion"]
Start = Literal["original", "champion"]
Starts = Literal["original", "champion", "both"]


class Work(Value):
    """Digests of all that a fine-tuned model comes from: the same work gives the same model.

    That is, from the same weights: those that the config names, or a champion's.
    """

    data: Sha256  # every image's path, label, split and content
    config: Sha256  # what changes the result: no names of runs, no folders
    code: Sha256  # graft's own sources and weights, and the versions of what computes
    asked: Starts = "original"  # which starts were to be tried
    start: Start = "original"  # that of the candidate which was registered
    champion: Sha256 | None = None  # weights of the champion then, where its start was asked for
    # of the validation images, where neither the model nor what it started from trained on any
    validation: Sha256 | None = None


class Precedent(Value):
    """The version whose work is nearest to the present one, and what changed since."""

    version: int | None  # None: no version says what it was made from
    changed: tuple[Part, ...]  # nothing: the same work, which would come to the same again
    when: datetime | None = None  # UTC; the version was made

    @property
    def same(self) -> bool:
        """Tell whether nothing changed."""
        return not self.changed


class Choice(Value):
    """Which of two candidates challenges the champion, by the validation images alone."""

    start: Start
    metric: str
    from_champion: float
    from_original: float
    gain: float  # of the start from the champion; above 0 is better, also where it is a loss
    wins: int  # images that only the start from the champion gets right
    losses: int
    n: int  # validation images, but for those that the champion trained on
    p_value: float


class RetrainResult(Value):
    """What the flow ``retrain`` did, and why."""

    model: str
    trained: bool
    reason: str  # a line
    work: Work
    precedent: Precedent
    start: Start | None = None  # of the candidate that was registered
    notes: tuple[str, ...] = ()  # why it was not the champion, where that was asked for
    choice: Choice | None = None
    decision: PromotionDecision | None = None
