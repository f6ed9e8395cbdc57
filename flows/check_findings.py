"""What ``graft check`` has found so far, and how it is counted and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flows.answer import Cells, Rows
from tasks.config import RunConfig
from tasks.errors import GraftError
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.check import Looked, check_images
from tasks.preprocess.findings import Finding
from tasks.preprocess.verdict import refuse_bad
from tasks.values import RawDataset


class Findings:
    """What was found so far; every problem is kept, so that all are shown at once."""

    def __init__(self) -> None:
        self.problems: list[GraftError] = []
        self.warnings: list[str] = []
        self.data: dict[str, Any] = {}
        self.facts: Rows = []
        # without data any classes show whether the weights are whole
        self.classes: tuple[str, ...] = ("one", "other")
        self.tables: list[Cells] = []

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the block's error and go on."""
        try:
            yield
        except GraftError as error:
            self.problems.append(error)


def look(config: RunConfig, raw: RawDataset, records: list[ImageRecord], found: Findings) -> Looked:
    """Decode every image that a run would, and name all that are bad."""
    looked = Looked(records, [], {})
    with found.keeping():
        looked = check_images(raw.root, records, config.data.checks.near_duplicates != "off")
        found.data["bad_images"] = [image.model_dump() for image in looked.bad]
        what = "bad image" if config.data.on_bad_image == "fail" else "left out"
        found.facts += [(what, f"{image.path}: {image.reason}") for image in looked.bad]
        refuse_bad(looked.bad, len(records), config.data)
    return looked


def show(findings: Sequence[Finding], found: Findings) -> None:
    """Put every check of the data into a table, and into JSON, whatever came of it."""
    found.data["checks"] = [finding.facts() for finding in findings]
    table = Cells("check", "policy", "found", "unit", "status", "first example")
    for each in findings:
        row = (each.check, each.policy, f"{each.found:,}", each.unit, each.status)
        table.add(*row, *each.examples[:1])
        found.warnings += each.warnings()
    found.tables.append(table)


def count(
    classes: tuple[str, ...],
    columns: Mapping[Any, list[ImageRecord]],
    multi_label: bool,
    found: Findings,
) -> None:
    """Count the images of each class in each column, for the table and for JSON."""
    labels = {name: count_labels(records) for name, records in columns.items()}
    counts = {name: [n[label] for label in range(len(classes))] for name, n in labels.items()}
    table = count_table(classes, counts, found)
    if multi_label:
        none = {name: sum(not r.labels for r in records) for name, records in columns.items()}
        found.data["no_label"] = none
        table.add("(no label)", *(f"{n:,}" for n in none.values()))
    table.add("all", *(f"{len(records):,}" for records in columns.values()))


def count_table(
    classes: tuple[str, ...], counts: Mapping[Any, Sequence[int]], found: Findings
) -> Cells:
    """Show how many images each class has in each column, and return the table."""
    table = Cells("class", *counts)
    found.data["classes"] = {}
    for name, *numbers in zip(classes, *counts.values(), strict=True):
        found.data["classes"][name] = dict(zip(counts, numbers, strict=True))
        table.add(name, *(f"{n:,}" for n in numbers))
    found.tables.append(table)
    return table
