"""What ``graft compare`` does and prints; heavy imports wait in the functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.answer import Answer, Cells
from flows.console import shown
from flows.server import start_server, using
from tasks.compareconfig import CompareConfig, Place
from tasks.configfile import load_config
from tasks.errors import GraftError

if TYPE_CHECKING:
    from tasks.evaluate.comparison import Comparison, Outcome


def compare(path: Path, overrides: Sequence[str]) -> Answer:
    """Run the flow ``compare`` in this process; raises ``GraftError``.

    The first failure of a cell is the answer's problem: its exit code is the command's.
    """
    config = load_config(path, overrides, CompareConfig)
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown():
        from flows import compare as module

        with using(server):
            comparison = module.compare(config)
    return _answer(comparison)


def _answer(comparison: Comparison) -> Answer:
    facts = [
        ("supported", comparison.supported or f"none yet: {comparison.reference} lacks figures"),
        ("report", str(comparison.folder / "comparison.md")),
        ("plot", str(comparison.folder / "comparison.png")),
        ("cells", str(comparison.folder / "cells.csv")),
    ]
    failed = [outcome for outcome in comparison.outcomes if outcome.failure is not None]
    problem = _problem(failed, len(comparison.outcomes)) if failed else None
    return Answer(comparison.model_dump(mode="json"), facts, _table(comparison), problem)


def _table(comparison: Comparison) -> Cells:
    from tasks.evaluate.comparison_report import difference_words, spread_words

    against = f"val to {comparison.reference} (t p, Wilcoxon p)"
    table = Cells("data", "backbone", "strategy", "val", "test", against, "seconds")
    for row in comparison.rows:
        table.add(
            row.dataset,
            row.backbone,
            row.strategy,
            spread_words(row.val),
            spread_words(row.test),
            difference_words(row.val_difference),
            f"{row.seconds:.1f}",
        )
    return table


def _problem(failed: list[Outcome], cells: int) -> GraftError:
    """Return the first failure that is no other's fault, as the kind of error of its exit code."""
    from flows.grid import TeacherError

    first = min(failed, key=lambda outcome: _kind(outcome) == TeacherError.__name__)
    assert first.failure is not None
    title = Place(first.dataset, first.backbone, first.strategy, first.seed).title
    kinds = {kind.exit_code: kind for kind in GraftError.__subclasses__()}
    kind = kinds.get(first.failure.exit_code, GraftError)
    words = first.failure.message.partition("\n")[0]
    return kind(
        f"{len(failed)} of {cells} cells failed; {title}: {words}\n"
        "Mend it and start again: only what failed is run then."
    )


def _kind(outcome: Outcome) -> str:
    return outcome.failure.kind if outcome.failure is not None else ""
