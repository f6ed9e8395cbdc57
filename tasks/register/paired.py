"""Two models on the same test images: whether one is shown to be better, or not to be worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.evaluate.image_values import image_values
from tasks.evaluate.resample import draw_counts, once, weigher
from tasks.evaluate.score import Scores
from tasks.evaluationconfig import PromotionConfig
from tasks.register.power import (
    detectable,
    detectable_resampled,
    non_inferior_wins,
    score_statistic,
    size,
    superior_wins,
    wins_from,
)

Floats = npt.NDArray[np.float64]

LOWER_IS_BETTER = ("log_loss", "brier")
TAIL = 100  # resamples expected beyond the level, so that its quantile is no accident


@dataclass(frozen=True)
class Draws:
    """The resamples of a paired bootstrap: both models are measured on the same ones."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Comparison:
    """What a test of the challenger against the champion found; gains are in its favour."""

    metric: str
    ours: float
    theirs: float
    gain: float  # above 0 is better, also where the figure is a loss
    low: float  # interval of the gain, at about 1 - alpha
    high: float
    p_value: float
    level: float  # p must be under it
    shown: bool
    wins: int  # images that only the challenger gets right
    losses: int
    n: int
    theirs_accuracy: float
    detectable: float | None  # smallest true gain that is shown in 80% of cases
    method: str
    resamples: int = 0  # 0: exact

    @property
    def finite(self) -> bool:
        """Tell whether both figures are numbers."""
        return math.isfinite(self.ours) and math.isfinite(self.theirs)


def compare(ours: Scores, theirs: Scores, settings: PromotionConfig, draws: Draws) -> Comparison:
    """Test ``promotion.metric`` by ``promotion.rule`` on two scorings of the same images.

    A challenger that is no better (superiority), or worse by the margin (non_inferiority), passes
    with a chance of at most alpha / 2: of accuracy exactly so, for any number of images.
    """
    same = settings.metric == "micro_f1" and not ours.multi_label  # of one label, the accuracy
    if settings.metric == "accuracy" or same:
        return _compare_accuracy(ours, theirs, settings)
    return _compare_resampled(ours, theirs, settings, draws)


def enough_draws(alpha: float, at_least: int, seed: int) -> Draws:
    """Return as many resamples as a one-sided level of ``alpha`` / 2 needs."""
    return Draws(max(at_least, math.ceil(2 * TAIL / alpha)), seed)


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


def non_inferiority_exact(wins: int, losses: int, n: int, margin: float) -> float:
    """Return the exact unconditional p-value of H0: the true gain is -``margin`` or less.

    Outcomes are ordered by Tango's score statistic, and p is the greatest chance of one as far
    out, over all shares of images told apart (Sidik 2003, Stat. Med. 22:265).
    """
    statistic = float(score_statistic(np.array(wins), np.array(losses), n, -margin))
    return size(wins_from(n, -margin, statistic), margin)


def score_interval(wins: int, losses: int, n: int, alpha: float) -> tuple[float, float]:
    """Return the score interval of the gain in accuracy at 1 - ``alpha`` (Tango 1998)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    far = float(norm.isf(alpha / 2))
    here = (wins - losses) / n

    def above(gain: float, sign: int) -> float:
        statistic = score_statistic(np.array(wins), np.array(losses), n, gain)
        return sign * float(statistic) - far

    def bound(sign: int) -> float:  # 1: the lower one
        if here == -sign:
            return here
        return float(brentq(above, -sign, here, args=(sign,)))  # where the score has no end

    return bound(1), bound(-1)


def _compare_accuracy(ours: Scores, theirs: Scores, settings: PromotionConfig) -> Comparison:
    wins, losses = _told_apart(ours, theirs)
    n, alpha = len(ours.labels_n), settings.alpha
    if settings.rule == "superiority":
        method, p_value, level = "exact McNemar", mcnemar_exact(wins, losses), alpha
        region, lowest = superior_wins(n, alpha), 0.0
        shown = p_value < level and wins > losses
    else:
        method, level = "exact unconditional score test", alpha / 2
        p_value = non_inferiority_exact(wins, losses, n, settings.margin)
        region, lowest = non_inferior_wins(n, settings.margin, level), -settings.margin
        shown = p_value < level
    low, high = score_interval(wins, losses, n, alpha)
    return Comparison(
        metric=settings.metric,
        ours=ours.accuracy,
        theirs=theirs.accuracy,
        gain=(wins - losses) / n,
        low=low,
        high=high,
        p_value=p_value,
        level=level,
        shown=shown,
        wins=wins,
        losses=losses,
        n=n,
        theirs_accuracy=theirs.accuracy,
        detectable=detectable(region, (wins + losses) / n, lowest),
        method=method,
    )


def _told_apart(ours: Scores, theirs: Scores) -> tuple[int, int]:
    """Return how many images only one of the two gets right: ours, theirs."""
    here_n, there_n = ours.correct_n, theirs.correct_n
    return int(np.sum(here_n & ~there_n)), int(np.sum(~here_n & there_n))


def _compare_resampled(
    ours: Scores, theirs: Scores, settings: PromotionConfig, draws: Draws
) -> Comparison:
    """Compare by a paired bootstrap: p is the share of resamples that speak against ours."""
    metric = settings.metric
    here, there, gain, gains_b = _gains(ours, theirs, metric, draws)
    allowed = 0.0 if settings.rule == "superiority" else settings.margin
    images = telling_images(ours, theirs, metric)
    level = strict_level(settings.alpha / 2, images)
    against = int(np.sum(~(gains_b > -allowed)))  # what is not a number is against
    p_value = (1 + against) / (len(gains_b) + 1)
    known_k = gains_b[~np.isnan(gains_b)]
    low, high = np.quantile(known_k, [level, 1 - level]) if len(known_k) else (math.nan, math.nan)
    wins, losses = _told_apart(ours, theirs)
    spread = level > 0 and len(np.unique(known_k)) > 1
    return Comparison(
        metric=metric,
        ours=here,
        theirs=there,
        gain=gain,
        low=float(low),
        high=float(high),
        p_value=p_value,
        level=level,
        shown=p_value < level,
        wins=wins,
        losses=losses,
        n=len(ours.labels_n),
        theirs_accuracy=theirs.accuracy,
        detectable=detectable_resampled(known_k - gain, level, allowed) if spread else None,
        method=f"paired bootstrap ({len(gains_b):,} resamples; the gain rests on {images:.0f} "
        "images)",
        resamples=len(gains_b),
    )


def _gains(
    ours: Scores, theirs: Scores, metric: str, draws: Draws
) -> tuple[float, float, float, Floats]:
    """Return both figures, the gain, and the gain of each resample (b,)."""
    n = len(ours.labels_n)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    here, there = weigher(ours, (metric,)), weigher(theirs, (metric,))
    plain = [float(weigh(once(n))[metric][0]) for weigh in (here, there)]
    chunks = [
        sign * (here(counts_bn)[metric] - there(counts_bn)[metric])
        for counts_bn in draw_counts(n, draws.resamples, draws.seed)
    ]
    return plain[0], plain[1], sign * (plain[0] - plain[1]), np.concatenate(chunks)


def telling_images(ours: Scores, theirs: Scores, metric: str) -> float:
    """Return how many images, of equal weight, the difference between the two rests on.

    The participation ratio of what each adds to it: few where a few images, or small classes,
    make all the difference.
    """
    name = metric
    if metric not in LOWER_IS_BETTER:
        name = "hamming_loss" if ours.multi_label else "accuracy"
    parts_n = image_values(ours, name) - image_values(theirs, name)
    if not ours.multi_label and metric in ("balanced_accuracy", "macro_f1"):
        parts_n /= np.bincount(ours.labels_n)[ours.labels_n]
    squares_n = np.square(parts_n - parts_n.mean())
    fourth = float(np.sum(np.square(squares_n)))
    return float(np.sum(squares_n)) ** 2 / fourth if fourth > 0 else 0.0


def strict_level(level: float, images: float) -> float:
    """Return the level at which a percentile of resamples of so many images errs by ``level``.

    A bootstrap finds too little spread in few images: Hesterberg's expanded percentile interval
    (2015, Am. Stat. 69:371, section 5) makes up for that, as Student's t does for a mean.
    """
    from scipy.stats import norm, t

    if images < 2:
        return 0.0
    return float(norm.sf(t.isf(level, images - 1) * math.sqrt(images / (images - 1))))
