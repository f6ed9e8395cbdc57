"""A comparison in words, as the gate gives them for a reason."""

from __future__ import annotations

import json

from tasks.evaluationconfig import PromotionConfig
from tasks.register.paired import LOWER_IS_BETTER, Comparison

LONGEST_TAG = 5000  # characters that every MLflow store takes


def comparison_words(
    found: Comparison, against: str, several: bool, settings: PromotionConfig
) -> str:
    """Return what the test against the model so called found, and what it could have found.

    ``several``: an image has any number of labels.
    """
    if not found.finite:
        return (
            f"{found.metric} is not a number: {found.ours:.4g} here, {found.theirs:.4g} of "
            f"{against}."
        )
    metric = found.metric
    whole = " with all labels right" if several and metric == "accuracy" else ""
    sign = "<" if found.p_value < found.level else ">="
    return (
        f"{_headline(found, against, settings)}: {metric} {_figure(found.ours, metric)} against "
        f"{_figure(found.theirs, metric)} of {found.n:,} test images{whole}, a gain of "
        f"{_gain(found.gain, metric)} ({100 * (1 - settings.alpha):g}% interval "
        f"{_signed(found.low, metric)} to {_gain(found.high, metric)}); {found.wins:,} right only "
        f"here, {found.losses:,} right only there; {found.method} p = {found.p_value:.4g} {sign} "
        f"{found.level:.4g}. {_power(found)}"
    )


def fitting(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many of ``lines`` as a tag holds as JSON, and how many more there are."""
    kept, found = len(lines), lines
    while len(json.dumps(found)) > LONGEST_TAG:
        kept -= 1
        found = (*lines[:kept], f"And {len(lines) - kept} more.")
    return found


def _headline(found: Comparison, against: str, settings: PromotionConfig) -> str:
    if settings.rule == "superiority":
        return f"Better than {against}" if found.shown else f"Not shown to be better than {against}"
    shown = "Not worse" if found.shown else "Not shown not to be worse"
    return f"{shown} than {against} by {_figure(settings.margin, found.metric)} or more"


def _power(found: Comparison) -> str:
    if found.detectable is None:
        return "Too few images tell the two apart to show any gain."
    told = "by the resamples" if found.resamples else "exactly"
    apart = (found.wins + found.losses) / found.n
    return (
        f"A true gain of {_gain(found.detectable, found.metric)} or more would be shown in 80% of "
        f"cases (worked out {told}, with {apart:.2%} of the images told apart)."
    )


def _figure(value: float, metric: str) -> str:
    return f"{value:.4f}" if metric in LOWER_IS_BETTER else f"{value:.2%}"


def _signed(value: float, metric: str) -> str:
    return f"{value:+.4f}" if metric in LOWER_IS_BETTER else f"{100 * value:+.2f}"


def _gain(value: float, metric: str) -> str:
    return _signed(value, metric) + ("" if metric in LOWER_IS_BETTER else " points")
