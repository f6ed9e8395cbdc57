"""``graft check``: everything a run would stumble over, found without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.commands import Answer
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.download.source import download
from tasks.errors import DataError, GraftError
from tasks.index import ImageRecord, read_index
from tasks.preprocess.check import check_images
from tasks.preprocess.leaks import check_leaks
from tasks.preprocess.splits import assign_splits
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.values import RawDataset, RegisteredModel, SkippedImage


class Findings:
    """What was found so far; every problem is kept, so that all are shown at once."""

    def __init__(self) -> None:
        self.problems: list[GraftError] = []
        self.warnings: list[str] = []
        self.data: dict[str, Any] = {}
        self.table: Table | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the block's error and go on."""
        try:
            yield
        except GraftError as error:
            self.problems.append(error)


def check(path: Path, overrides: Sequence[str]) -> Answer:
    """Check config, data and weights; raises ``ConfigError`` where there is no config."""
    config = load_config(path, overrides)
    cache = cache_folder(config.output.cache)
    found = Findings()
    raw: RawDataset | None = None
    with found.keeping():
        raw = download(config.data, cache)
        _check_data(config, raw, found)
    with found.keeping():
        _check_weights(config, raw, cache, found)
    return _answer(found)


def _check_data(config: RunConfig, raw: RawDataset, found: Findings) -> None:
    found.data["digest"] = raw.digest
    bad = check_images(raw)
    found.data["bad_images"] = [image.model_dump() for image in bad]
    splits = assign_splits(read_index(raw.index), raw.classes, config.data, config.seed)
    found.data["classes"] = _counts(raw.classes, splits)
    found.table = _table(found.data["classes"])
    found.warnings += check_leaks(splits, raw.classes, config.data)
    if bad and config.data.on_bad_image == "fail":
        raise DataError(_listed(bad))
    found.warnings += [f"{image.path} is left out: {image.reason}" for image in bad]


def _counts(
    classes: tuple[str, ...], splits: dict[Any, list[ImageRecord]]
) -> dict[str, dict[str, int]]:
    labels = {split: Counter(r.label for r in records) for split, records in splits.items()}
    return {
        name: {split: labels[split][position] for split in splits}
        for position, name in enumerate(classes)
    }


def _listed(bad: Sequence[SkippedImage]) -> str:
    listed = "; ".join(f"{image.path} ({image.reason})" for image in bad)
    return f"{len(bad)} images cannot be used (data.on_bad_image=skip leaves them out):\n{listed}"


def _check_weights(config: RunConfig, raw: RawDataset | None, cache: Path, found: Findings) -> None:
    registered = _registered(config, cache)
    spec = input_spec(config.model, config.preprocess, registered)
    found.data["input"] = spec.model_dump(mode="json")
    # without data any number of classes shows whether the weights are whole
    classes = raw.classes if raw is not None else ("one", "other")
    backbone = load_pretrained(config, classes, registered, cache)
    found.data["backbone"] = backbone.model_dump(
        mode="json", include={"architecture", "source", "sha256", "parameters", "head"}
    )


def _registered(config: RunConfig, cache: Path) -> RegisteredModel | None:
    uri = config.model.weights or ""
    if not uri.startswith("models:/"):
        return None
    from tasks.register.registry import fetch  # MLflow takes seconds to import

    return fetch(uri, cache)


def _table(counts: dict[str, dict[str, int]]) -> Table:
    splits = list(next(iter(counts.values())))
    table = Table("class", *splits, box=None)
    for name, numbers in counts.items():
        table.add_row(name, *(f"{numbers[split]:,}" for split in splits))
    totals = (sum(numbers[split] for numbers in counts.values()) for split in splits)
    table.add_row("all", *(f"{total:,}" for total in totals))
    return table


def _answer(found: Findings) -> Answer:
    first = found.problems[0] if found.problems else None
    facts = [("warning", warning) for warning in found.warnings]
    facts += [("problem", str(other).replace("\n", " ")) for other in found.problems[1:]]
    if first is None:
        facts.append(("ready", "config, data and weights are fit for graft run"))
    data = found.data | {
        "ok": first is None,
        "warnings": found.warnings,
        "problems": [str(problem) for problem in found.problems],
    }
    return Answer(data, facts, found.table, first)
