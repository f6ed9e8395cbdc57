"""Floors and limits on figures that no report of a config can hold: refused before training."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.evaluate.corruption_kinds import KINDS
from tasks.evaluate.corruptions import NONE, SEVERITIES
from tasks.evaluate.resample import TOP
from tasks.register.figures import NAMED, OF_CLASS, OF_CURVE, OF_SLICE, OF_SPEED
from tasks.words import listed

_BOTH = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "brier",
         "mean_roc_auc", "mean_average_precision")  # fmt: skip
_CORRUPTED = (
    f"accuracy[{NONE}:0]",
    *(f"accuracy[{kind}:{n}]" for kind in KINDS for n in SEVERITIES),
)
_TOP5 = 5  # classes, of which more there must be for top5_accuracy


def refuse_unknown_figures(config: RunConfig, classes: Sequence[str] | None) -> None:
    """Raise ``ConfigError`` for floors and limits whose figure no report of ``config`` can have.

    ``classes`` are those of the data; without them any name in brackets may be one. What depends
    on the test images, a class or a slice without any, is the gate's to refuse.
    """
    promotion = config.promotion
    bounds = {"floors": promotion.floors, "limits": promotion.limits}
    known = set(_possible(config, classes))
    wrong = [
        f"promotion.{kind} names {name} ({_reason(name, config, known)})"
        for kind, names in bounds.items()
        for name in names
        if name not in known and not _may_be(name, config, classes)
    ]
    if wrong:
        raise ConfigError(
            f"{listed(wrong)}: no report of this config has that figure.\n"
            "Name a figure of docs/promotion.md, or set what measures it."
        )


def _possible(config: RunConfig, classes: Sequence[str] | None) -> Iterator[str]:
    """Yield the names that a report can have, slices left out."""
    yield from _BOTH
    yield "ece"
    if config.data.multi_label:
        yield "hamming_loss"
    else:
        yield from (f"top_{k}" for k in TOP if classes is None or k < len(classes))
        if classes is None or len(classes) > _TOP5:
            yield "top5_accuracy"
    for names, setting in _measured(config).items():
        if setting is None:
            yield from names
    for name in (*OF_CLASS, *OF_CURVE):
        yield from (f"{name}[{each}]" for each in classes or ())


def _measured(config: RunConfig) -> dict[tuple[str, ...], str | None]:
    """Return what has to be asked for, with the setting that does not; None where it does."""
    settings = config.evaluation
    return {
        OF_SPEED: None if settings.latency_runs else "evaluation.latency_runs is 0",
        ("test_coverage", "test_error"): (
            "evaluation.rejection_error is null" if settings.rejection_error is None else None
        ),
        ("test_flagged", "noise_auroc"): (
            None if settings.novelty else "evaluation.novelty is false"
        ),
        _CORRUPTED: None if settings.robustness_images else "evaluation.robustness_images is 0",
    }


def _may_be(name: str, config: RunConfig, classes: Sequence[str] | None) -> bool:
    """Tell whether a name is of a slice by one of the columns, or of a class not yet known."""
    figure, _, what = name.removesuffix("]").partition("[")
    columns = config.data.slice_columns
    if figure in OF_SLICE and any(what.startswith(f"{column}=") for column in columns):
        return True
    return classes is None and bool(what) and figure in (*OF_CLASS, *OF_CURVE)


def _reason(name: str, config: RunConfig, known: set[str]) -> str:
    for names, setting in _measured(config).items():
        if name in names and setting is not None:
            return setting
    figure, _, what = name.partition("[")
    if "=" in what and figure in OF_SLICE:
        columns = config.data.slice_columns
        return f"data.slice_columns has {listed(columns)}"
    near = difflib.get_close_matches(name, sorted(known), NAMED)
    return f"the nearest are {', '.join(near)}" if near else "none has a name like that"
