"""Temperature scaling (Guo et al. 2017): make a network as sure as it is right.

With several labels an image, each label of each image is a decision of its own between two
classes, and one temperature serves all. Log loss and calibration error are over these decisions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from tasks.evaluate.decisions import (
    Rows,
    calibration_error,
    divided,
    log_losses,
    per_image,
    right_n,
    slopes,
    sureness,
)
from tasks.evaluate.score import Scores
from tasks.measures import Calibration, Declined

LOWEST, HIGHEST = 0.01, 100.0  # a temperature outside is a sign of a broken network
EXACT = 1e-6  # of the temperature's logarithm
FOLDS = 5

log = logging.getLogger(__name__)


def fit_temperature(val: Scores) -> Calibration:
    """Return the temperature that minimises the log loss of ``val``, and what it changed.

    The loss is convex in the inverse temperature, so the one minimum between 0.01 and 100 is found.
    It has none where every decision is right, as it falls all the way to temperature 0: then
    n decisions are taken to say no more than Laplace's rule of succession does, and the
    temperature is the lowest with a mean confidence of at most (n + 1) / (n + 2), or 1 if the
    network is surer than that as it is.

    The temperature stays 1, and the log says why, where the minimum is at a bound, and where it is
    no better than 1 for images that it was not fitted on: the log loss of five folds, each at the
    temperature of the other four, must be lower than at 1 (cross-validatory choice; Stone 1974).
    One wrong image alone can thus move no temperature that the others would not.
    """
    every = np.arange(len(val.labels_n))
    before, ece = float(log_losses(val, 1.0, every).mean()), calibration_error(val)
    fitted = _fit(val, every)
    declined = _declined(val, fitted)
    after = val if declined else scaled(val, fitted)
    loss = before if declined else float(log_losses(val, fitted, every).mean())
    return Calibration(
        temperature=1.0 if declined else fitted,
        declined=declined,
        fitted=fitted if declined else None,
        val_log_loss_before=before / per_image(val),
        val_log_loss=loss / per_image(val),
        val_ece_before=ece,
        val_ece=ece if after is val else calibration_error(after),
    )


def scaled(scores: Scores, temperature: float) -> Scores:
    """Return ``scores`` with the probabilities of logits that are divided by ``temperature``.

    softmax(log p / T) is softmax(z / T), as log p is z less a constant of the image; a label's
    logit is logit(p). What float32 rounds to 0 (or, of a label, to 1) counts as in
    ``Scores.log_loss``. Predictions stay as they are, also where rounding makes two classes
    equally probable, and so does the energy.
    """
    if temperature == 1:
        return scores
    return replace(scores, probabilities_nc=divided(scores, temperature))


def _declined(val: Scores, fitted: float) -> Declined | None:
    """Return why ``fitted`` is not to be served; None where it is."""
    if fitted == 1:
        return None
    if fitted in (LOWEST, HIGHEST):
        log.warning(
            "the temperature stays 1: fitted, it stopped at its bound, %g, as how sure the network "
            "is has next to nothing to do with its errors on validation",
            fitted,
        )
        return "bound"
    if _gain(val) > 0:
        _tell_flawless(val, fitted)
        return None
    log.info(
        "the temperature stays 1: %.4f, fitted on %d validation images, is no better for images "
        "that it was not fitted on",
        fitted,
        len(val.labels_n),
    )
    return "held_out"


def _tell_flawless(val: Scores, fitted: float) -> None:
    n = per_image(val) * len(val.labels_n)
    if right_n(val).sum() == n:
        log.info("none of %d validation decisions is wrong: the temperature is %.4f", n, fitted)


def _gain(val: Scores) -> float:
    """Return by how much held-out log loss falls, in nats over all images; 0 with one image."""
    n = len(val.labels_n)
    folds = min(FOLDS, n)
    if folds < 2:
        return 0.0
    # errors first, so that no fold has more than one above its share (stratified; Kohavi 1995)
    fold_n = np.empty(n, np.int64)
    fold_n[np.argsort(right_n(val), kind="stable")] = np.arange(n) % folds
    gain = 0.0
    for fold in range(folds):
        held, others = np.flatnonzero(fold_n == fold), np.flatnonzero(fold_n != fold)
        temperature = _fit(val, others)
        if temperature not in (LOWEST, HIGHEST):
            fallen = log_losses(val, 1.0, held) - log_losses(val, temperature, held)
            gain += float(fallen.sum())
    return gain


def _fit(val: Scores, rows: Rows) -> float:
    """Return the temperature of some rows of ``val``, or the bound where it lies beyond."""
    if right_n(val)[rows].min() == per_image(val):
        return _cautious(val, rows)
    # the loss rises with 1 / T where this is above 0
    return _root(lambda temperature: float(slopes(val, temperature, rows).sum()), HIGHEST)


def _cautious(flawless: Scores, rows: Rows) -> float:
    """Return the temperature where no decision is wrong."""
    n = per_image(flawless) * len(rows)

    def excess(temperature: float) -> float:
        return float(sureness(flawless, temperature, rows).sum()) / n - (n + 1) / (n + 2)

    return _root(excess, 1.0)


def _root(falling: Callable[[float], float], highest: float) -> float:
    """Return where a function of the temperature that falls goes through 0, or the bound."""
    from scipy.optimize import brentq

    at = cache(lambda exponent: falling(math.exp(exponent)))  # each may pass through every image
    low, high = math.log(LOWEST), math.log(highest)
    if at(high) >= 0:
        return highest
    if at(low) <= 0:
        return LOWEST
    return math.exp(brentq(at, low, high, xtol=EXACT))
