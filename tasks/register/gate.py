"""Whether a challenger beats the champion: pure arithmetic on per-image correctness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Graded:
    """Which test images one model gets right."""

    classes: tuple[str, ...]
    images: tuple[str, ...]  # digest of every test image's file, in order
    correct_n: npt.NDArray[np.bool_]
    multi_label: bool = False  # right is an image whose labels all are

    @property
    def accuracy(self) -> float:
        """Share of images that are right."""
        return float(np.mean(self.correct_n))


@dataclass(frozen=True)
class Verdict:
    """The decision, in words and numbers; the numbers are ``None`` where nothing was compared."""

    promoted: bool
    reason: str
    champion_accuracy: float | None = None
    wins: int | None = None
    losses: int | None = None
    p_value: float | None = None


WAY_OUT = "Register under another promotion.model, or move the alias by hand."
FIRST = Verdict(promoted=True, reason="There is no champion yet.")


def mcnemar_exact(wins: int, losses: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (McNemar 1947, binomial form).

    ``wins`` are the images that only the challenger gets right, ``losses`` those that only the
    champion does. If both are equally good, wins follow Binomial(wins + losses, 1/2); with no
    image that tells them apart p is 1.
    """
    from scipy.stats import binomtest

    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def refuse(reason: str) -> Verdict:
    """Return a refusal where the two models cannot be compared."""
    return Verdict(promoted=False, reason=reason)


def decide(challenger: Graded, champion: Graded | None, alpha: float) -> Verdict:
    """Promote when there is no champion, or when the challenger is better at level ``alpha``.

    Better: the two-sided exact McNemar p-value is under ``alpha`` and wins exceed losses, so that
    a challenger that is no better is promoted in at most alpha / 2 of cases. Refused, with the
    reason, when the two have other classes, when one gives an image one label and the other any
    number, or when they were not scored on the same images.
    """
    if champion is None:
        return FIRST
    reason = obstacle(challenger, champion)
    if reason is not None:
        return refuse(reason)
    if challenger.images != champion.images:
        return refuse("The two were not scored on the same test images.")
    return _compare(challenger, champion, alpha)


def _compare(challenger: Graded, champion: Graded, alpha: float) -> Verdict:
    wins = int(np.sum(challenger.correct_n & ~champion.correct_n))
    losses = int(np.sum(~challenger.correct_n & champion.correct_n))
    p_value = mcnemar_exact(wins, losses)
    promoted = p_value < alpha and wins > losses
    return Verdict(
        promoted=promoted,
        reason=_words(promoted, challenger, champion, wins, losses, p_value, alpha),
        champion_accuracy=champion.accuracy,
        wins=wins,
        losses=losses,
        p_value=p_value,
    )


def _words(
    promoted: bool,
    challenger: Graded,
    champion: Graded,
    wins: int,
    losses: int,
    p_value: float,
    alpha: float,
) -> str:
    verdict = "Better than the champion" if promoted else "Not shown to be better than the champion"
    sign = "<" if p_value < alpha else ">="
    whole = " with all labels right" if challenger.multi_label else ""
    return (
        f"{verdict}: {challenger.accuracy:.2%} against {champion.accuracy:.2%} of "
        f"{len(challenger.images)} test images{whole}; {wins} right only here, "
        f"{losses} right only there; exact McNemar p = {p_value:.4g} {sign} {alpha:g}."
    )


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
    parts = [f"only here {', '.join(new[:5])}"] if new else []
    parts += [f"only there {', '.join(gone[:5])}"] if gone else []
    return (
        "The champion has other classes, so the two cannot be compared "
        f"({'; '.join(parts) or 'the same ones in another order'}). {WAY_OUT}"
    )
