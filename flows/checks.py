"""``graft check``: everything a run would stumble over, found without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group

from flows.answer import Answer
from flows.check_findings import Findings, count, look, show
from flows.shards_check import check_shards
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.download.source import download
from tasks.errors import GraftError
from tasks.finetune.fit import check_machine
from tasks.finetune.rehearsal import rehearse
from tasks.finetune.strategy import describe_stages
from tasks.index import ImageRecord, read_index
from tasks.preprocess.check import Looked
from tasks.preprocess.checks import (
    Selection,
    check_files,
    check_pictures,
    dropping,
    refuse_emptied,
)
from tasks.preprocess.findings import refuse
from tasks.preprocess.verdict import absent_classes, ignored_files, refuse_lost
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.register.bounds import refuse_unknown_figures
from tasks.register.warm_start import fetch_named, fetch_teacher
from tasks.values import Backbone, RawDataset


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
        refuse_unknown_figures(config, None if raw is None else found.classes)
    with found.keeping():
        check_machine(config.training)
    return _answer(found)


def _check_data(config: RunConfig, raw: RawDataset, found: Findings) -> None:
    """Check images, splits and what they hold, each for itself: one fault must not hide another."""
    found.data |= {"digest": raw.digest, "ignored": raw.ignored, "ignored_count": raw.ignored_count}
    found.warnings += ignored_files(raw)
    found.classes = raw.classes
    if raw.shards is not None:
        check_shards(config, raw, found)
        return
    records = read_index(raw.index)
    chosen = _choose(config, raw, records)
    if isinstance(chosen, GraftError):
        looked = look(config, raw, records, found)
        found.problems.append(chosen)
        count(raw.classes, {"images": looked.usable}, config.data.multi_label, found)
        return
    wanted = {record.path for split in chosen.splits.values() for record in split}
    looked = look(config, raw, [r for r in records if r.path in wanted], found)
    _check_splits(config, chosen, looked, found)


def _choose(
    config: RunConfig, raw: RawDataset, records: list[ImageRecord]
) -> Selection | GraftError:
    """Return the splits, or why there are none, which is told after what is wrong with images."""
    try:
        return check_files(records, raw.classes, config.data, config.seed)
    except GraftError as error:
        return error


def _check_splits(config: RunConfig, chosen: Selection, looked: Looked, found: Findings) -> None:
    """Check what the splits hold, and show what a run would pack."""
    usable = {record.path for record in looked.usable}
    readable = {name: [r for r in each if r.path in usable] for name, each in chosen.splits.items()}
    with found.keeping():
        refuse_lost(chosen.splits, readable, chosen.classes)
    hashes = looked.hashes or None  # none where reading them broke off
    kept = check_pictures(chosen, readable, hashes, config.data)
    found.classes = kept.classes
    count(kept.classes, kept.splits, config.data.multi_label, found)
    show(kept.findings, found)
    with found.keeping():
        refuse(kept.findings)
    with found.keeping():
        refuse_emptied(readable, kept.splits, kept.classes, dropping(kept.findings))
    found.warnings += absent_classes(kept.splits, kept.classes)


def _check_weights(config: RunConfig, raw: RawDataset | None, cache: Path, found: Findings) -> None:
    registered = fetch_named(config, cache)
    spec = input_spec(config.model, config.preprocess, registered)
    found.data["input"] = spec.model_dump(mode="json")
    backbone = load_pretrained(config, found.classes, registered, cache)
    _describe(backbone, found)
    with found.keeping():
        teacher = fetch_teacher(config, cache)
        rehearse(config, backbone, found.classes, raw is not None and raw.multi_label, teacher)


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
    return Answer(data, facts, Group(*found.tables) if found.tables else None, first)
