"""What each figure of a report is called, what it means, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.measures import Estimate
from tasks.values import EvaluationReport

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Wording:
    """A figure in words; ``share`` ones are written in percent."""

    label: str
    meaning: str
    share: bool = False


_WORDS = {
    "accuracy": Wording("accuracy", "Share of the test images that are classified right.", True),
    "balanced_accuracy": Wording(
        "balanced accuracy",
        "Mean over the classes of the share that is found, so that a rare class counts as much "
        "as a common one.",
        True,
    ),
    "macro_f1": Wording(
        "macro F1",
        "Mean over the classes of F1, which is high only where few are missed and few are called "
        "so wrongly.",
    ),
    "micro_f1": Wording("micro F1", "F1 over all labels of all images together."),
    "mean_roc_auc": Wording(
        "mean ROC AUC",
        "Mean over the classes of the chance that an image of the class gets a higher probability "
        "for it than one of another; 0.5 is chance.",
    ),
    "mean_average_precision": Wording(
        "mean average precision",
        "Mean over the classes of how well each one's probability puts its images first; 1 is "
        "perfect. Of small classes resampled test sets look better than the set itself: the "
        "interval may lie above it.",
    ),
    "hamming_loss": Wording("Hamming loss", "Share of all labels that are wrong."),
    "log_loss": Wording(
        "log loss",
        "Mean surprise at the truth, in nats; lower is better, and sure errors cost most.",
    ),
    "brier": Wording(
        "Brier score",
        "Mean squared distance of the probabilities from the truth; lower is better.",
    ),
    "ece": Wording(
        "calibration error",
        "How far stated confidence is from the share that is right (ECE); of several labels, over "
        "all labels of all images, the probability of each from the share that is there. Lower is "
        "better. "
        "Resampled test sets look worse than the set itself: the interval may lie above it.",
        True,
    ),
}


def wording(name: str) -> Wording:
    """Return the words for a figure's name; a name that has none stands for itself."""
    top = name.removeprefix("top").removesuffix("_accuracy").strip("_")
    if name.startswith("top") and top.isdigit():
        meaning = f"Share of the images whose class is among the {top} most probable."
        return Wording(f"top-{top} accuracy", meaning, share=True)
    return _WORDS.get(name, Wording(name, ""))


def shown(name: str, value: float | None) -> str:
    """Return a figure as it is written: a share in percent, others with four decimals."""
    if value is None:
        return NOTHING
    return percent(value) if wording(name).share else f"{value:.4f}"


def decimals(value: float | None) -> str:
    """Return a figure with three decimals; a dash where there is none."""
    return NOTHING if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Return a share in percent; a dash where there is none."""
    return NOTHING if value is None else f"{100 * value:.2f}%"


def counted(n: int, unit: str) -> str:
    """Return a number of things, of which ``unit`` names one."""
    many = f"{unit}es" if unit.endswith("s") else f"{unit}s"
    return f"{n:,} {unit if n == 1 else many}"


def interval(name: str, low: float | None, high: float | None) -> str:
    """Return an interval in words, or nothing where none was computed."""
    return "" if low is None or high is None else f"{shown(name, low)} to {shown(name, high)}"


def ranged(value: float | None, one: Estimate | None, show: Callable[[float | None], str]) -> str:
    """Return a figure as ``show`` writes it and, in brackets, its interval where there is one."""
    if one is None or one.low is None:
        return show(value)
    return f"{show(value)} ({show(one.low)} to {show(one.high)})"


def whole_figures(report: EvaluationReport) -> tuple[Estimate, ...]:
    """Return the figures of the whole test set, with their intervals where there are any.

    Those of single classes, such as ``recall[cat]``, stand with their classes.
    """
    if report.estimates:
        return tuple(estimate for estimate in report.estimates if "[" not in estimate.name)
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "top5_accuracy")
    several = ("mean_average_precision", "micro_f1", "hamming_loss")
    values = {name: getattr(report, name) for name in (*names, *several)}
    return tuple(
        Estimate(name=name, value=value, low=None, high=None)
        for name, value in values.items()
        if value is not None
    )
