"""Temperature scaling (Guo et al. 2017): make a network as sure as it is right.

With several labels an image, each label of each image is a decision of its own between two
classes, and one temperature serves all. Log loss and calibration error are over these decisions.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tasks.evaluate.reliability import expected_calibration_error, reliability
from tasks.evaluate.score import Scores
from tasks.measures import Calibration

LOWEST, HIGHEST = 0.01, 100.0  # a temperature outside is a sign of a broken network
EXACT = 1e-6  # of the temperature's logarithm

log = logging.getLogger(__name__)


def fit_temperature(val: Scores) -> Calibration:
    """Return the temperature that minimises the log loss of ``val``, and what it changed.

    The loss is convex in the inverse temperature, so the one minimum between 0.01 and 100 is found.
    It has none where every decision is right, as it falls all the way to temperature 0: then
    n decisions are taken to say no more than Laplace's rule of succession does, and the
    temperature is the lowest with a mean confidence of at most (n + 1) / (n + 2), or 1 if the
    network is surer than that as it is. Bounds that are met are logged.
    """
    decisions = _decisions(val)
    flawless = bool(decisions.correct_n.all())
    temperature = _cautious(decisions) if flawless else _most_likely(decisions)
    after = scaled(decisions, temperature)
    return Calibration(
        temperature=temperature,
        val_log_loss_before=decisions.log_loss,
        val_log_loss=after.log_loss,
        val_ece_before=expected_calibration_error(reliability(decisions)),
        val_ece=expected_calibration_error(reliability(after)),
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
    probabilities_mk = (_log_probabilities(_decisions(scores)) / temperature).softmax(dim=1)
    if scores.multi_label:
        probabilities_mk = probabilities_mk[:, 1].reshape(scores.probabilities_nc.shape)
    return replace(scores, probabilities_nc=probabilities_mk.float().numpy())


def _decisions(scores: Scores) -> Scores:
    """Return scores of one label: with several, a row for each label of each image, no and yes."""
    if not scores.multi_label:
        return scores
    smallest = np.finfo(np.float32).eps
    yes_m = np.clip(scores.probabilities_nc.ravel(), smallest, 1 - smallest)
    return Scores(
        probabilities_nc=np.column_stack((1 - yes_m, yes_m)),
        labels_n=scores.labels_n.ravel(),
        predictions_n=scores.predictions_n.ravel(),
        seconds=scores.seconds,
        energy_n=np.repeat(scores.energy_n, scores.probabilities_nc.shape[1]),
    )


def _log_probabilities(decisions: Scores) -> Tensor:
    """Return float64 (n, c): logits up to a constant of each row."""
    exact_nc = torch.from_numpy(decisions.probabilities_nc).double()
    return exact_nc.clamp_min_(torch.finfo(torch.float32).tiny).log_()


def _most_likely(decisions: Scores) -> float:
    from scipy.optimize import minimize_scalar

    logits_nc = _log_probabilities(decisions)
    labels_n = torch.from_numpy(decisions.labels_n)
    low, high = math.log(LOWEST), math.log(HIGHEST)
    found: float = minimize_scalar(
        lambda exponent: cross_entropy(logits_nc * math.exp(-exponent), labels_n).item(),
        bounds=(low, high),
        method="bounded",
        options={"xatol": EXACT},
    ).x
    if min(found - low, high - found) < 10 * EXACT:
        log.warning(
            "the temperature stopped at its bound, %g: how sure the network is has next to nothing "
            "to do with its errors on validation",
            LOWEST if found < 0 else HIGHEST,
        )
    return math.exp(found)


def _cautious(decisions: Scores) -> float:
    """Return the temperature where no decision is wrong."""
    from scipy.optimize import brentq

    n = len(decisions.labels_n)
    logits_nc = _log_probabilities(decisions)

    def excess(exponent: float) -> float:
        confidence_n = (logits_nc * math.exp(-exponent)).softmax(dim=1).amax(dim=1)
        return confidence_n.mean().item() - (n + 1) / (n + 2)

    low = math.log(LOWEST)
    if excess(0.0) >= 0:
        exponent = 0.0
    else:
        exponent = brentq(excess, low, 0.0, xtol=EXACT) if excess(low) > 0 else low
    log.info(
        "none of %d validation decisions is wrong, which would send the temperature to 0: it "
        "stops at %.4f",
        n,
        math.exp(exponent),
    )
    return math.exp(exponent)
