"""Which weights a retraining starts from: the champion's, or those that its config names.

Never by the test images: the better of two by those, put before the gate by the same ones, would be
let by twice as often as it should.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient

from tasks.artifacts import cache_folder, sha256_parts
from tasks.config import RunConfig
from tasks.errors import TrackingError
from tasks.evaluate.calibration import fit_temperature, scaled
from tasks.evaluate.evaluate import score_weights
from tasks.evaluate.score import Scores
from tasks.index import read_index
from tasks.register.client import connect, tracking_errors
from tasks.register.contest import image_keys, read_learned
from tasks.register.files import SHA256
from tasks.register.gate import CLEAN_TEST, class_obstacle
from tasks.register.learned import Learned
from tasks.register.paired import compare, enough_draws
from tasks.register.registry import fetch_version, find_champion
from tasks.register.sameness import VALIDATION
from tasks.retry import PASSING
from tasks.values import FineTunedModel, PreparedDataset, RegisteredModel
from tasks.work import Choice

SET_ASIDE = "graft.set_aside"  # MLflow run tag: why its candidate was not registered

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """A champion, and the images that it and the versions before it learned from."""

    model: RegisteredModel
    learned: Learned | None  # None: it does not say
    validation: str | None  # digest of the images that chose it, where none of them trained it


def find_start(config: RunConfig) -> Champion | None:
    """Fetch the present champion of ``promotion.model``, if there is one.

    Raises ``TrackingError`` as ``tasks.register.registry.fetch`` does.
    """
    client = connect()
    with tracking_errors(f"fetching the champion of {config.promotion.model}"):
        version = find_champion(client, config.promotion.model)
        if version is None:
            return None
        model = fetch_version(version, cache_folder(config.output.cache))
        return Champion(model, read_learned(version), version.tags.get(VALIDATION))


def warm_config(config: RunConfig, champion: Champion) -> RunConfig:
    """Return ``config``, started from this very version, whoever is champion later."""
    model = config.model.model_copy(update={"weights": champion.model.uri, "sha256": None})
    return config.model_copy(update={"model": model})


def start_obstacle(
    config: RunConfig, champion: Champion | None, prepared: PreparedDataset
) -> str | None:
    """Return why the champion is no start for ``config`` on these images, or ``None`` if it is."""
    if champion is None:
        return "There is no champion yet."
    model, uri = champion.model, champion.model.uri
    if config.strategy.kind == "scratch":
        return "strategy.kind=scratch starts from no weights."
    if model.architecture != config.model.architecture:
        return f"The champion {uri} is a {model.architecture}, not a {config.model.architecture}."
    if model.multi_label != prepared.multi_label or model.classes != prepared.classes:
        said = class_obstacle(prepared.classes, model.classes) or "It takes other labels."
        named = said[said.find("(") : said.rfind(")") + 1] or "one label or several an image"
        return f"The labels are not those of the champion {uri} {named}."
    if champion.learned is None:
        return f"The champion {uri} does not say which images it learned from."
    seen = champion.learned.count_seen(read_index(prepared.test.index))
    if seen:
        return (
            f"The champion {uri} learned from {seen:,} of the {prepared.test.n:,} test images of "
            f"today, so the gate would refuse what starts from it. {CLEAN_TEST}"
        )
    return None


def choose_start(
    config: RunConfig,
    champion: Champion,
    warm: tuple[FineTunedModel, PreparedDataset],
    original: tuple[FineTunedModel, PreparedDataset],
) -> Choice | None:
    """Compare two candidates on the validation images that did not train the champion.

    Those are all where they are the ones that chose it, and else those that it has not learned
    from.

    It is the paired comparison that the gate uses, of ``promotion.metric``, each at the
    temperature that fits it. The better value is chosen, and the original start where they are
    equal: neither is in service, so there is nothing to defend, and the gate still tests what comes
    of it on images that had no part in this. ``None`` where too few images are left to compare by.
    Raises as ``score_weights``.
    """
    (ours, packed), (theirs, same) = warm, original
    fresh_n = _fresh(champion, packed)
    if image_keys(packed.val) != image_keys(same.val) or not fresh_n.any():
        return None
    settings = config.promotion.model_copy(update={"rule": "superiority"})
    draws = enough_draws(settings.alpha, config.evaluation.bootstrap, config.seed)
    ours_scores = _only(_scores(config, ours, packed), fresh_n)
    theirs_scores = _only(_scores(config, theirs, same), fresh_n)
    found = compare(ours_scores, theirs_scores, settings, draws)
    if not found.finite:  # a figure of a class that no image is left of
        return None
    return Choice(
        start="champion" if found.gain > 0 else "original",
        metric=found.metric,
        from_champion=found.ours,
        from_original=found.theirs,
        gain=found.gain,
        wins=found.wins,
        losses=found.losses,
        n=found.n,
        p_value=found.p_value,
    )


def set_aside(run_id: str, why: str) -> None:
    """Say on the MLflow run of a candidate that it was not chosen; raises ``TrackingError``."""
    with tracking_errors("noting which candidate was chosen"):
        connect().set_tag(run_id, SET_ASIDE, why)


def choice_words(choice: Choice) -> str:
    """Return in a line which candidate was chosen, and by which figures."""
    chosen, other = "the champion", "the original weights"
    values = choice.from_champion, choice.from_original
    if choice.start == "original":
        chosen, other, values = other, chosen, values[::-1]
    how = "better" if choice.gain else "equal, and so preferred"
    return (
        f"the start from {chosen} is {how}: {choice.metric} {values[0]:.4f} against "
        f"{values[1]:.4f} from {other}, on {choice.n:,} validation images "
        f"(p = {choice.p_value:.3g})"
    )


def clean_validation(model: FineTunedModel, prepared: PreparedDataset) -> str | None:
    """Return a digest of the validation images, if what ``model`` started from saw none of them.

    As far as versions say: a start that was chosen by the same images, and that did not train on
    them either, is as good. ``None`` else, and where a version cannot say, which is logged: the
    model is trained by now. Raises ``TransientTrackingError``.
    """
    digest = validation_digest(prepared)
    if model.backbone_sha256 is None:
        return digest
    client = connect()
    try:
        with tracking_errors("looking for the version that the weights come from"):
            clean = _none_saw(client, model.backbone_sha256, prepared, digest)
    except PASSING:
        raise
    except TrackingError as error:
        why = str(error).splitlines()[0]
        log.warning("whether the start trained on the validation images is not known: %s", why)
        return None
    return digest if clean else None


def _none_saw(client: MlflowClient, sha256: str, prepared: PreparedDataset, digest: str) -> bool:
    """Tell whether no version with these weights trained on the validation images."""
    records = read_index(prepared.val.index)
    for version in client.search_model_versions(f"tags.`{SHA256}` = '{sha256}'"):
        if version.tags.get(VALIDATION) == digest:
            continue
        learned = read_learned(version)
        if learned is None or learned.count_seen(records):
            return False
    return True


def validation_digest(prepared: PreparedDataset) -> str:
    """Digest which images the validation split holds, in whatever order."""
    return sha256_parts(*sorted(record.sha256 for record in read_index(prepared.val.index)))


def _fresh(champion: Champion, prepared: PreparedDataset) -> npt.NDArray[np.bool_]:
    """Return which validation images (n,) did not train the champion."""
    records = read_index(prepared.val.index)
    if champion.validation == validation_digest(prepared):
        return np.ones(len(records), dtype=bool)
    assert champion.learned is not None  # or it is no start
    return ~champion.learned.seen(records)


def _scores(config: RunConfig, model: FineTunedModel, prepared: PreparedDataset) -> Scores:
    scores = score_weights(config, model, prepared.val)
    if not config.evaluation.calibrate:
        return scores
    return scaled(scores, fit_temperature(scores).temperature)


def _only(scores: Scores, kept_n: npt.NDArray[np.bool_]) -> Scores:
    """Return the scores of some of the images."""
    return replace(
        scores,
        probabilities_nc=scores.probabilities_nc[kept_n],
        labels_n=scores.labels_n[kept_n],
        predictions_n=scores.predictions_n[kept_n],
        energy_n=scores.energy_n[kept_n],
    )
