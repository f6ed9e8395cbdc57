"""``graft check``: everything a run would stumble over, found without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.answer import Answer, Cells, Rows
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.download.source import download
from tasks.errors import GraftError
from tasks.finetune.device import pick_device
from tasks.finetune.rehearsal import rehearse
from tasks.finetune.strategy import describe_stages
from tasks.index import ImageRecord, count_labels, read_index
from tasks.preprocess.check import check_images
from tasks.preprocess.leaks import check_leaks
from tasks.preprocess.splits import assign_splits
from tasks.preprocess.verdict import ignored_files, refuse_bad, refuse_lost, thin_classes
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.values import Backbone, RawDataset, SplitName

Splits = Mapping[SplitName, list[ImageRecord]]


class Findings:
    """What was found so far; every problem is kept, so that all are shown at once."""

    def __init__(self) -> None:
        self.problems: list[GraftError] = []
        self.warnings: list[str] = []
        self.data: dict[str, Any] = {}
        self.facts: Rows = []
        self.table: Cells | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the block's error and go on."""
        try:
            yield
        except GraftError as error:
            self.problems.append(error)


def check(path: Path, overrides: Sequence[str]) -> Answer:
    """Check config, data, weights and device; raises ``ConfigError`` where there is no config."""
    config = load_config(path, overrides)
    cache = cache_folder(config.output.cache)
    found = Findings()
    raw: RawDataset | None = None
    with found.keeping():
        raw = download(config.data, cache)
    if raw is not None:
        _check_data(config, raw, found)
    with found.keeping():
        _check_weights(config, raw, cache, found)
    with found.keeping():
        pick_device(config.training.device)
    return _answer(found)


def _check_data(config: RunConfig, raw: RawDataset, found: Findings) -> None:
    """Check images, splits and leaks, each for itself: one fault must not hide another."""
    found.data |= {"digest": raw.digest, "ignored": raw.ignored, "ignored_count": raw.ignored_count}
    found.warnings += ignored_files(raw)
    records = read_index(raw.index)
    usable = _check_images(config, raw, records, found)
    splits: Splits | None = None
    with found.keeping():
        splits = assign_splits(records, raw.classes, config.data, config.seed)
    if splits is None:
        _count(raw, {"images": usable}, found)
    else:
        _check_splits(config, raw, splits, set(usable), found)


def _check_images(
    config: RunConfig, raw: RawDataset, records: list[ImageRecord], found: Findings
) -> list[ImageRecord]:
    """Decode every image, name all that are bad, and return the records of the others."""
    usable = records
    with found.keeping():
        usable, bad = check_images(raw)
        found.data["bad_images"] = [image.model_dump() for image in bad]
        what = "bad image" if config.data.on_bad_image == "fail" else "left out"
        found.facts += [(what, f"{image.path}: {image.reason}") for image in bad]
        refuse_bad(bad, len(records), config.data)
    return usable


def _check_splits(
    config: RunConfig, raw: RawDataset, splits: Splits, usable: set[ImageRecord], found: Findings
) -> None:
    kept = {name: [r for r in split if r in usable] for name, split in splits.items()}
    counts = _count(raw, kept, found)
    with found.keeping():
        refuse_lost(splits, counts, raw.classes)
    with found.keeping():
        found.warnings += check_leaks(splits, raw.classes, config.data)
    found.warnings += thin_classes(counts, raw.classes)


def _count(
    raw: RawDataset, columns: Mapping[Any, list[ImageRecord]], found: Findings
) -> dict[Any, list[int]]:
    """Count the images of each class in each column, for the table and for JSON."""
    labels = {name: count_labels(records) for name, records in columns.items()}
    counts = {name: [n[label] for label in range(len(raw.classes))] for name, n in labels.items()}
    found.table = Cells("class", *counts)
    found.data["classes"] = {}
    for name, *numbers in zip(raw.classes, *counts.values(), strict=True):
        found.data["classes"][name] = dict(zip(counts, numbers, strict=True))
        found.table.add(name, *(f"{n:,}" for n in numbers))
    if raw.multi_label:
        none = {name: sum(not r.labels for r in records) for name, records in columns.items()}
        found.data["no_label"] = none
        found.table.add("(no label)", *(f"{n:,}" for n in none.values()))
    found.table.add("all", *(f"{len(records):,}" for records in columns.values()))
    return counts


def _check_weights(config: RunConfig, raw: RawDataset | None, cache: Path, found: Findings) -> None:
    registered = fetch_named(config, cache)
    spec = input_spec(config.model, config.preprocess, registered)
    found.data["input"] = spec.model_dump(mode="json")
    # without data any number of classes shows whether the weights are whole
    classes = raw.classes if raw is not None else ("one", "other")
    backbone = load_pretrained(config, classes, registered, cache)
    _describe(backbone, found)
    with found.keeping():
        teacher = fetch_teacher(config, cache)
        rehearse(config, backbone, classes, raw is not None and raw.multi_label, teacher)


def _describe(backbone: Backbone, found: Findings) -> None:
    shown = {"architecture", "source", "sha256", "parameters", "head", "other_heads"}
    stages = [
        {"stage": number, "modules": modules}
        for number, modules in enumerate(backbone.stages, start=1)
    ]
    found.data["backbone"] = backbone.model_dump(mode="json", include=shown) | {"stages": stages}
    source = f"{backbone.architecture} from {backbone.source}"
    heads = ", ".join(backbone.heads)
    found.facts += [
        ("backbone", f"{source}, {backbone.parameters:,} parameters, head {heads}"),
        ("stages", describe_stages(backbone)),
    ]


def _answer(found: Findings) -> Answer:
    first = found.problems[0] if found.problems else None
    facts = found.facts + [("warning", warning) for warning in found.warnings]
    facts += [("problem", str(other).replace("\n", " ")) for other in found.problems[1:]]
    if first is None:
        facts.append(("ready", "config, data, weights and device are fit for graft run"))
    data = found.data | {
        "ok": first is None,
        "warnings": found.warnings,
        "problems": [str(problem) for problem in found.problems],
    }
    return Answer(data, facts, found.table, first)
