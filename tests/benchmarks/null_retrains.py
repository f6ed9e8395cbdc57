"""Pairs of models of a known true difference, most of whose errors they share.

A null retrain is such a pair without a difference: the same recipe trained twice. Both see what an
image gives away and the same noise in it; each adds noise of its own, ``apart`` of the common one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tasks.evaluate.resample import once, weigher
from tasks.evaluate.score import Scores
from tasks.evaluationconfig import PromotionConfig
from tasks.register.paired import LOWER_IS_BETTER, compare, enough_draws

POPULATION = 200_000  # images that true differences are taken from


@dataclass(frozen=True)
class Recipe:
    """What both trainings have in common."""

    n: int  # test images
    classes: int
    rarest: float = 1.0  # images of the last class over those of the first
    apart: float = 0.2
    strength: float = 2.0  # of the true class in the logits


def pairs(recipe: Recipe, handicap: float, retrains: int, seed: int) -> Iterator[list[Scores]]:
    """Yield ``retrains`` pairs of scores; the first is less sure of the true class by handicap."""
    draw = np.random.default_rng(seed)
    shares = np.linspace(1, recipe.rarest, recipe.classes)
    for _ in range(retrains):
        labels = draw.choice(recipe.classes, recipe.n, p=shares / shares.sum())
        truth = np.eye(recipe.classes)[labels]
        common = draw.standard_normal(truth.shape) + recipe.strength * truth
        yield [
            _scores(common - lost * truth + recipe.apart * draw.standard_normal(truth.shape), truth)
            for lost in (handicap, 0.0)
        ]


def _scores(logits: np.ndarray, truth: np.ndarray) -> Scores:
    raised = np.exp(logits)
    given = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = truth.argmax(axis=1)
    return Scores(given, labels, given.argmax(axis=1), 0.0, np.zeros(len(labels)))


@lru_cache
def true_loss(recipe: Recipe, handicap: float, metric: str) -> float:
    """Return by how much the first of a pair is truly worse."""
    many = Recipe(POPULATION, recipe.classes, recipe.rarest, recipe.apart, recipe.strength)
    ours, theirs = (
        float(weigher(scores, (metric,))(once(POPULATION))[metric][0])
        for scores in next(pairs(many, handicap, 1, 0))
    )
    return ours - theirs if metric in LOWER_IS_BETTER else theirs - ours


def promotions(
    recipe: Recipe, settings: PromotionConfig, retrains: int, seed: int, handicap: float = 0.0
) -> int:
    """Count how often the gate's test passes the first of a pair."""
    return sum(
        compare(ours, theirs, settings, enough_draws(settings.alpha, 0, seed + number)).shown
        for number, (ours, theirs) in enumerate(pairs(recipe, handicap, retrains, seed))
    )


def counted_promotions(
    least: np.ndarray, gain: float, share: float, retrains: int, seed: int
) -> int:
    """The same of accuracy, all retrains at once: ``least`` is the region of rejection.

    Of each image both models are right or wrong, or, with a chance of ``share``, one of them.
    """
    table = [(share + gain) / 2, (share - gain) / 2, 1 - share]
    draw = np.random.default_rng(seed)
    wins, losses, _ = draw.multinomial(len(least) - 1, table, retrains).T
    return int(np.sum(wins >= least[wins + losses]))
