"""Whether new images look like those that a registered model was measured on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.artifacts import cache_folder, sha256_bytes
from tasks.config import RunConfig
from tasks.download.source import download
from tasks.errors import ConfigError, DataError, EvaluationError
from tasks.evaluate.drift_report import save_unusual, write_drift
from tasks.evaluate.reference import Outlook, ReferenceSample, look_at
from tasks.evaluate.score import Scores
from tasks.evaluate.scorer import Scorer
from tasks.evaluate.two_sample import TwoSampleTest, classifier_test, kernel_test
from tasks.evaluate.watch_report import p_words
from tasks.monitorconfig import MonitorConfig
from tasks.monitorvalues import ClassShare, DriftReport, ShiftTest, UnusualImage
from tasks.outputs import confidence, named
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.prepare import prepare
from tasks.register.newimages import NewImages, common_facts, opened, packed
from tasks.register.watching import Watched, WatchRun, fetch_watched, read_reference
from tasks.retry import with_retries
from tasks.values import RegisteredModel

LEAST_REFERENCE = 8  # images: half of them, and as many, teach the classifier


@dataclass(frozen=True)
class _Compared:
    """The two sides and what the tests say of them."""

    reference: Outlook
    origin: Literal["version", "base"]
    scores: Scores  # of the new images
    new: Outlook
    tests: tuple[ShiftTest, ...]
    strangest: tuple[int, ...]  # rows of new images, the strangest first
    strangeness: tuple[float, ...]


def check_drift(config: MonitorConfig, run: WatchRun, folder: Path) -> DriftReport:
    """Test new images against the reference of the model; write the report into ``folder``.

    Raises ``ConfigError`` where there is no reference and no ``config.base``, ``DataError`` for
    too few images, and as the rooms that fetch, decode and score.
    """
    start = time.monotonic()
    watched = with_retries(fetch_watched, config.model, cache_folder(config.output.cache))
    with (
        packed(config, config.images, watched) as images,
        opened(config, watched.model) as scorer,
    ):
        _check_number(config, images)
        compared = _compare(config, watched, images, scorer)
        report = DriftReport(
            **common_facts(config, run, folder, watched, images),
            **_verdict(compared),
            **_sides(watched.model, compared),
            permutations=config.permutations,
            unusual=_unusual(watched.model, images, compared),
            seconds=time.monotonic() - start,
        )
        pictures = PackedImages(images.split).images_nhwc
        save_unusual(report, [pictures[row] for row in compared.strangest])
    write_drift(report)
    with_retries(run.finished, report, _metrics(report))
    return report


def _check_number(config: MonitorConfig, images: NewImages) -> None:
    if images.split.n < config.minimum_images:
        raise DataError(
            f"{images.split.n} images of {config.images.path} can be used, too few to test.\n"
            f"Wait for more; minimum_images is {config.minimum_images}."
        )


def _compare(
    config: MonitorConfig, watched: Watched, images: NewImages, scorer: Scorer
) -> _Compared:
    reference, origin = _reference(config, watched, scorer)
    scores, new = look_at(scorer, images.split, np.ones(images.split.n, dtype=bool))
    found = {name: _tested(name, config, reference, new) for name in config.tests}
    tests = tuple(
        ShiftTest(
            name=name,
            statistic=one.statistic,
            p_value=one.p_value,
            level=config.level,
            bandwidth=one.bandwidth,
        )
        for name, one in found.items()
    )
    surest = min(tests, key=lambda one: one.p_value).name
    strangeness_m = found[surest].strangeness_m
    rows = np.argsort(-strangeness_m, kind="stable")[: config.unusual_images]
    return _Compared(
        reference,
        origin,
        scores,
        new,
        tests,
        tuple(rows.tolist()),
        tuple(strangeness_m[rows].tolist()),
    )


def _tested(name: str, config: MonitorConfig, reference: Outlook, new: Outlook) -> TwoSampleTest:
    if name == "kernel":
        return kernel_test(reference.features_nd, new.features_nd, config.permutations, config.seed)
    return classifier_test(reference.features_nd, new.features_nd, config.seed)


def _reference(
    config: MonitorConfig, watched: Watched, scorer: Scorer
) -> tuple[Outlook, Literal["version", "base"]]:
    """Return the reference that the version carries, else that of ``config.base``'s images."""
    uri, found = watched.model.uri, with_retries(read_reference, watched.version)
    if found is not None:
        return _enough(found, uri), "version"
    if config.base is None:
        raise ConfigError(
            f"{uri} carries no reference: an older graft registered it.\n"
            "Set base to the config of its run, or register the model again."
        )
    return _enough(_from_base(config.base, watched.model, scorer), uri), "base"


def _enough(reference: Outlook, uri: str) -> Outlook:
    if reference.n < LEAST_REFERENCE:
        raise EvaluationError(
            f"The reference of {uri} has {reference.n} images; a test needs {LEAST_REFERENCE}.\n"
            "Hold out more images for validation and test."
        )
    return reference


def _from_base(base: RunConfig, model: RegisteredModel, scorer: Scorer) -> Outlook:
    """Take the reference of the test and validation images of a run, as the run would have."""
    cache = cache_folder(base.output.cache)
    raw = with_retries(download, base.data, cache)
    prepared = prepare(base.data, base.seed, raw, model.input, cache)
    if prepared.classes != model.classes or prepared.multi_label != model.multi_label:
        raise EvaluationError(
            f"base has other classes than {model.uri}.\nName the config that it was trained by."
        )
    splits = [prepared.test, prepared.val]
    sample = ReferenceSample(splits, base.seed)
    for split in splits:
        sample.score(scorer, split)
    taken = sample.taken()
    if taken is None:
        raise EvaluationError(f"base gives no reference for {model.uri}: see the warning above.")
    return taken


def _verdict(compared: _Compared) -> dict[str, object]:
    told = ", ".join(f"{one.name} test p {p_words(one.p_value)}" for one in compared.tests)
    level = compared.tests[0].level
    alert = any(one.rejected for one in compared.tests)
    each = "each at" if len(compared.tests) > 1 else "at"
    words = "differ" if alert else "are not shown to differ"
    reason = f"The new images {words} from the reference: {told} ({each} {level:g})."
    return {"alert": alert, "reason": reason, "tests": compared.tests}


def _sides(model: RegisteredModel, compared: _Compared) -> dict[str, object]:
    """Return what is told of the two sides apart from the tests."""
    reference, new = compared.reference, compared.new
    before_c, now_c = reference.chosen_c / reference.n, new.chosen_c / new.n
    shares = tuple(
        ClassShare(name=name, reference=float(before), new=float(now))
        for name, before, now in zip(model.classes, before_c, now_c, strict=True)
    )
    limit = model.novel_above
    return {
        "reference_n": reference.n,
        "reference_from": compared.origin,
        "reference_digest": sha256_bytes(reference.to_bytes()),
        "dimension": reference.features_nd.shape[1],
        "novel_above": limit,
        "novel_reference": None if limit is None else float(np.mean(reference.energy_n > limit)),
        "novel_new": None if limit is None else float(np.mean(new.energy_n > limit)),
        "shares": shares,
        "share_distance": None if model.multi_label else float(np.abs(before_c - now_c).sum() / 2),
    }


def _unusual(
    model: RegisteredModel, images: NewImages, compared: _Compared
) -> tuple[UnusualImage, ...]:
    rows = list(compared.strangest)
    records, scores = images.records, compared.scores
    separator = model.label_separator if model.multi_label else None
    words = named(scores.predictions_n[rows], model.classes, separator)
    sure_n = confidence(scores.probabilities_nc[rows], model.multi_label)
    return tuple(
        UnusualImage(
            path=records[row].path, strangeness=strangeness, prediction=word, confidence=float(sure)
        )
        for row, strangeness, word, sure in zip(
            rows, compared.strangeness, words, sure_n, strict=True
        )
    )


def _metrics(report: DriftReport) -> dict[str, float]:
    values = {"images": report.n, "alert": float(report.alert), "bad_images": report.bad}
    for one in report.tests:
        values |= {f"{one.name}_statistic": one.statistic, f"{one.name}_p_value": one.p_value}
    optional = {"novel_share": report.novel_new, "class_share_distance": report.share_distance}
    return values | {name: value for name, value in optional.items() if value is not None}
