"""Export a version, and let nothing out that the gate does not let by."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import cache_folder, disk_errors, folder_atomic, write_atomic
from tasks.config import RunConfig
from tasks.errors import ConfigError, EvaluationError
from tasks.evaluate.export_scores import ScoredExport, score_export
from tasks.evaluate.exported import SPEC_FILE, ExportedFile, ExportSpec, Format, write_file
from tasks.evaluationconfig import PromotionConfig
from tasks.index import read_index
from tasks.measures import Speed
from tasks.register.client import connect, tracking_errors
from tasks.register.contest import image_keys, learned_by
from tasks.register.facts import graft_version
from tasks.register.figures import figures
from tasks.register.gate import Contender, Verdict, decide
from tasks.register.paired import enough_draws
from tasks.register.registry import find_version
from tasks.register.stored_exports import store_export
from tasks.register.versions import TEST_DIGEST
from tasks.use import in_use
from tasks.values import Certainty, PreparedDataset, RegisteredModel, Value

EXPORT_FILE = "export.json"

log = logging.getLogger(__name__)


class ExportReport(Value):
    """export.json: an exported file that passed the gate, and by which figures."""

    spec: ExportSpec
    test_digest: str
    n: int
    accuracy: float
    source_accuracy: float
    metric: str  # what the gate compared; what follows is of it
    value: float
    source_value: float
    difference: float  # above 0 is better than the source
    difference_low: float
    difference_high: float
    margin: float
    p_value: float
    level: float
    wins: int  # images that only the exported file gets right
    losses: int
    reasons: tuple[str, ...]
    checks: tuple[str, ...]
    size_mib: float
    source_size_mib: float
    float_size_mib: float | None  # of the float32 file behind an int8 one
    speed: Speed | None
    source_speed: Speed | None
    float_speed: Speed | None
    figures: dict[str, float]  # all that a floor or a limit can name


def export_version(
    config: RunConfig,
    prepared: PreparedDataset,
    model: RegisteredModel,
    kind: Format,
    target: Path,
    register: bool = False,
) -> ExportReport:
    """Export ``model`` into the new folder ``target`` if the file passes the gate.

    The file is scored by its own runtime on the test images and challenges the version that it was
    made from: floors, limits and test images of ``promotion``, and non_inferiority at
    ``promotion.margin`` whatever ``promotion.rule`` is. With ``register`` the folder goes to the
    version's run as well, under exports/FORMAT, and the version is tagged with the digest.

    Raises ``EvaluationError`` with every reason where it is refused, where the network cannot be
    exported, and where a float file does not agree with it; ``ConfigError`` without the extra;
    ``TrackingError`` where MLflow fails. Then there is no ``target``.
    """
    client = connect(create=False)
    with tracking_errors(f"reading {model.uri}"):
        version = find_version(client, model.uri)
    cache = cache_folder(config.output.cache)
    with (
        disk_errors(str(cache)),
        TemporaryDirectory(dir=cache, prefix=".export-") as scratch,
        in_use([Path(scratch)]),
    ):
        written = write_file(model, kind, Path(scratch), prepared.val, config.seed)
        scored = score_export(config, prepared, model, kind, written)
        named = {"size_mib": _mib(written.path), **figures(scored.report)}
        verdict = _verdict(config, prepared, model, version, scored, named)
        report = _report(config.promotion, model, kind, written, scored, verdict, named)
        _publish(written.path, report, target)
    if register:
        try:
            store_export(client, version, report.spec, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    log.info("%s of %s is in %s", kind, model.uri, target)
    return report


def _verdict(
    config: RunConfig,
    prepared: PreparedDataset,
    model: RegisteredModel,
    version: ModelVersion,
    scored: ScoredExport,
    named: dict[str, float],
) -> Verdict:
    """Return what the gate says of the file against its source."""
    with tracking_errors(f"reading what {model.uri} learned from"):
        learned = learned_by(version)
    images, digest = image_keys(prepared.test), prepared.test.digest
    known = (model.version, model.classes, model.multi_label, images)
    seen = learned.seen_of(read_index(prepared.test.index))
    challenger = Contender(*known, scored.scores, named, digest, seen=seen)
    source = Contender(
        *known,
        scored.source_scores,
        test_digest=digest,
        registered_digest=version.tags.get(TEST_DIGEST),
        is_champion=False,  # a file challenges the version it was made from
    )
    settings = config.promotion.model_copy(update={"rule": "non_inferiority"})
    draws = enough_draws(settings.alpha, config.evaluation.bootstrap, config.seed)
    return decide(challenger, source, settings, draws)


def _report(
    settings: PromotionConfig,
    model: RegisteredModel,
    kind: Format,
    written: ExportedFile,
    scored: ScoredExport,
    verdict: Verdict,
    named: dict[str, float],
) -> ExportReport:
    """Return what is written beside the file; raises ``EvaluationError`` where it is refused."""
    found = verdict.comparison
    if not verdict.promoted or found is None:
        raise EvaluationError(
            f"{kind} of {model.uri} is refused: {' '.join(verdict.reasons)}\n"
            "Nothing is written; another --format, or other promotion.margin, floors or limits, "
            "may do."
        )
    return ExportReport(
        spec=_spec(model, kind, written.path.name, scored),
        test_digest=scored.report.test_digest,
        n=scored.report.n,
        accuracy=scored.scores.accuracy,
        source_accuracy=scored.source_scores.accuracy,
        metric=found.metric,
        value=found.ours,
        source_value=found.theirs,
        difference=found.gain,
        difference_low=found.low,
        difference_high=found.high,
        margin=settings.margin,
        p_value=found.p_value,
        level=found.level,
        wins=found.wins,
        losses=found.losses,
        reasons=verdict.reasons,
        checks=verdict.checks,
        size_mib=_mib(written.path),
        source_size_mib=_mib(model.weights),
        float_size_mib=None if written.from_float is None else _mib(written.from_float),
        speed=scored.report.speed,
        source_speed=scored.source_speed,
        float_speed=scored.float_speed,
        figures=named,
    )


def _spec(model: RegisteredModel, kind: Format, file: str, scored: ScoredExport) -> ExportSpec:
    side = model.input.crop
    return ExportSpec(
        **{name: getattr(model, name) for name in Certainty.model_fields},
        format=kind,
        file=file,
        sha256=scored.report.model_sha256,
        source=model.uri,
        source_sha256=model.sha256,
        architecture=model.architecture,
        classes=model.classes,
        multi_label=model.multi_label,
        label_separator=model.label_separator,
        input=model.input,
        input_shape=("batch", 3, side, side),
        agreement=scored.agreement,
        graft_version=graft_version(),
    )


def _publish(file: Path, report: ExportReport, target: Path) -> None:
    """Write the folder ``target`` whole; raises ``ConfigError`` where another made it meanwhile."""
    described = report.model_dump_json(indent=2).encode()
    with folder_atomic(target) as folder:
        shutil.copyfile(file, folder / report.spec.file)
        write_atomic(folder / SPEC_FILE, report.spec.model_dump_json(indent=2).encode())
        write_atomic(folder / EXPORT_FILE, described)
    there = target / EXPORT_FILE
    if not there.is_file() or there.read_bytes() != described:
        raise ConfigError(
            f"{target} was made by another process meanwhile, and is left as it is.\n"
            "Name a new folder for the export."
        )


def _mib(path: Path) -> float:
    return path.stat().st_size / 2**20
