"""Whether a challenger becomes champion: one pure decision, with every reason for it in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tasks.evaluate.score import Scores
from tasks.evaluationconfig import PromotionConfig
from tasks.register.figures import check_bounds
from tasks.register.paired import Comparison, Draws, compare
from tasks.register.reasons import comparison_words

NAMED = 5  # classes, at most, that a reason names
FIRST = "There is no champion yet."
OTHER_IMAGES = "The two were not scored on the same test images."
WAY_OUT = (
    "Register under another promotion.model, or name another champion by graft promote or "
    "graft rollback."
)
LEAK = "Set data.checks.exact_duplicates=drop, which takes them out of training."
CLEAN_TEST = "Keep the seed and fractions of its run, or declare a test split (data.test)."


@dataclass(frozen=True)
class Contender:
    """A model scored in this run, by the same code as the other, and what is known of it."""

    version: int
    classes: tuple[str, ...]
    multi_label: bool = False
    images: tuple[str, ...] = ()  # file digest and label of every test image, in order
    scores: Scores | None = None  # None: its classes rule out that it is scored
    figures: Mapping[str, float] = field(default_factory=dict)  # for floors and limits
    test_digest: str = ""  # of the test images, packed for this model ...
    registered_digest: str | None = None  # ... and of those it was registered with
    seen: int | None = 0  # test images that it, or what is behind it, learned from; None: unknown
    own: int = 0  # of a challenger: test images among its own training and validation images
    is_champion: bool = True  # else, as a challenged one, it is just a version

    @property
    def title(self) -> str:
        """Return what reasons about a challenged model call it."""
        version = f"version {self.version}"
        return f"the champion ({version})" if self.is_champion else version


@dataclass(frozen=True)
class Unscorable:
    """A champion that could not be scored, and why."""

    version: int
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The decision, with every reason for it; no comparison where none could be made."""

    promoted: bool
    reasons: tuple[str, ...]  # where refused, the refusals first
    checks: tuple[str, ...] = ()  # every floor and limit
    comparison: Comparison | None = None


@dataclass
class _Findings:
    """What speaks against a promotion, and what is said beside it."""

    refusals: list[str]
    remarks: list[str] = field(default_factory=list)
    comparison: Comparison | None = None


def decide(
    challenger: Contender,
    champion: Contender | Unscorable | None,
    settings: PromotionConfig,
    draws: Draws,
) -> Verdict:
    """Promote what holds all floors and limits and passes ``promotion.rule`` against the champion.

    A first version needs floors, limits and enough test images alone. Refused, each with its
    reason: a champion that cannot be scored, has other classes, gives an image one label where
    this one gives several, or was scored on other images; what is not a number; and a challenger
    that learned from test images itself, or whose start or teacher did. A champion that learned
    from some is flattered: what beats it is better all the same. That, and a test set that is not
    the one it was registered with, is said.
    """
    checks = check_bounds(challenger.figures, settings.floors, settings.limits)
    found = _Findings(refusals=list(_faults(challenger, settings)))
    found.refusals += [check.words for check in checks if not check.held]
    if challenger.seen is None:
        found.remarks.append(
            "What the weights it started from, or its teacher, had learned from is not known."
        )
    if champion is None:
        found.remarks.append(FIRST)
    elif isinstance(champion, Unscorable):
        found.refusals.append(
            f"The champion (version {champion.version}) cannot be scored: {champion.reason} "
            f"{WAY_OUT}"
        )
    else:
        _face(found, challenger, champion, settings, draws)
    return Verdict(
        promoted=not found.refusals,
        reasons=(*found.refusals, *found.remarks),
        checks=tuple(check.words for check in checks),
        comparison=found.comparison,
    )


def _faults(challenger: Contender, settings: PromotionConfig) -> Iterator[str]:
    """Yield what rules the challenger out whoever is champion, floors and limits apart."""
    n, least = len(challenger.images), settings.minimum_test_images
    if n < least:
        yield f"The test set has {n:,} images, fewer than promotion.minimum_test_images={least:,}."
    if challenger.own:
        yield (
            f"This model learned from {challenger.own:,} of the {n:,} test images itself, so its "
            f"figures are flattered. {LEAK}"
        )
    if challenger.seen:
        yield (
            f"This model started from a version that learned from {challenger.seen:,} of the "
            f"{n:,} test images, or was taught by one, so its figures are flattered. {CLEAN_TEST}"
        )
    if not _finite(challenger):
        yield "Some of its probabilities are not numbers."


def _finite(challenger: Contender) -> bool:
    """Tell whether all probabilities are numbers; unscored, the report's log loss has them all."""
    scores = challenger.scores
    if scores is None:
        return math.isfinite(challenger.figures.get("log_loss", 0.0))
    return bool(np.isfinite(scores.probabilities_nc).all())


def _face(
    found: _Findings,
    challenger: Contender,
    champion: Contender,
    settings: PromotionConfig,
    draws: Draws,
) -> None:
    """Compare with a champion, where that can be done."""
    reason = obstacle(challenger, champion)
    ours, theirs = challenger.scores, champion.scores
    if reason is not None:
        found.refusals.append(reason)
    elif challenger.images != champion.images or ours is None or theirs is None:
        found.refusals.append(OTHER_IMAGES)
    else:
        found.comparison = compared = compare(ours, theirs, settings, draws)
        passed = compared.finite and compared.shown
        words = comparison_words(compared, champion.title, champion.multi_label, settings)
        (found.remarks if passed else found.refusals).append(words)
        found.remarks += _of_champion(champion, passed)


def _of_champion(champion: Contender, passed: bool) -> Iterator[str]:
    named = champion.title[0].upper() + champion.title[1:]
    if champion.registered_digest not in (None, champion.test_digest):
        yield (
            f"{named} was registered with another test set: it was scored again on this run's, and "
            "the comparison stands."
        )
    if champion.seen is None:
        yield f"{named} does not say which images it learned from."
    elif champion.seen:
        flattered = (
            f"{named} learned from {champion.seen:,} of the {len(champion.images):,} test images, "
            "which flatters it"
        )
        if passed:
            yield f"{flattered}: this model passes all the same."
        else:
            yield f"{flattered}, so that this refusal says little. {CLEAN_TEST} {WAY_OUT}"


class Labelled(Protocol):
    """Which classes a model knows, and whether an image may have several of them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names, in the order of the network's outputs."""

    @property
    def multi_label(self) -> bool:
        """Tell whether an image may have several."""


def obstacle(ours: Labelled, theirs: Labelled) -> str | None:
    """Return why two models cannot be compared, or ``None`` if they can."""
    if ours.multi_label == theirs.multi_label:
        return class_obstacle(ours.classes, theirs.classes)
    several, one = "any number of labels", "one label"
    here, there = (several, one) if ours.multi_label else (one, several)
    return (
        f"The champion gives an image {there}, this model {here}, so the two cannot be compared. "
        f"{WAY_OUT}"
    )


def class_obstacle(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str | None:
    """Return why models with these classes cannot be compared, or ``None`` if they can."""
    if ours == theirs:
        return None
    new, gone = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    parts = [f"only here {', '.join(new[:NAMED])}"] if new else []
    parts += [f"only there {', '.join(gone[:NAMED])}"] if gone else []
    return (
        "The champion has other classes, so the two cannot be compared "
        f"({'; '.join(parts) or 'the same ones in another order'}). {WAY_OUT}"
    )
