"""An exported file on the test images, by its own runtime, beside the network it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts import sha256_file
from tasks.config import RunConfig
from tasks.errors import EvaluationError
from tasks.evaluate.assess import Subject, assess, report_of, timed
from tasks.evaluate.calibration import scaled
from tasks.evaluate.exported import AGREEMENT, ExportedFile, Format, agreement, open_file
from tasks.evaluate.score import Scores
from tasks.evaluate.scorer import Scorer, open_scorer
from tasks.measures import Speed
from tasks.values import EvaluationReport, PreparedDataset, RegisteredModel


@dataclass(frozen=True)
class ScoredExport:
    """An exported file and its source on the same test images, both on the CPU."""

    scores: Scores
    report: EvaluationReport  # of the file; no image is explained
    source_scores: Scores
    source_speed: Speed | None  # of the network in torch; None where nothing is timed
    float_speed: Speed | None  # of the float32 file that an int8 one was made from
    agreement: float  # greatest difference of a probability


def score_export(
    config: RunConfig,
    prepared: PreparedDataset,
    model: RegisteredModel,
    kind: Format,
    written: ExportedFile,
) -> ScoredExport:
    """Score an exported file of ``model`` and the model itself on the test images.

    Both with the model's temperature, by the code that scores every run. Raises
    ``EvaluationError`` when the file does not run, and when a float file differs from the network
    by more than ``AGREEMENT`` in a probability; ``ResourceError`` when memory runs out.
    """
    training = config.training.model_copy(update={"device": "cpu"})
    evaluation = config.evaluation.model_copy(update={"explained_images": 0})
    config = config.model_copy(update={"training": training, "evaluation": evaluation})
    with open_scorer(config, model) as scorer:
        wanted = scaled(scorer.score(prepared.test), model.temperature)
        speed = timed(config, scorer, model.weights)
        file = model.model_copy(
            update={"weights": written.path, "sha256": sha256_file(written.path)}
        )
        own = _scorer(kind, written.path, scorer)
        scores, report = _assessed(Subject(config, prepared, file, own), speed)
        found = agreement(scores, wanted)
        if kind != "int8" and not found <= AGREEMENT:  # NaN is no agreement
            raise EvaluationError(
                f"{kind} of {model.uri} differs from the network by {found:.3g} in a probability, "
                f"more than {AGREEMENT:g}.\nNothing is written; try another --format."
            )
        from_float = None
        if written.from_float is not None:
            of_float = _scorer("onnx", written.from_float, scorer)
            from_float = _as_large(timed(config, of_float, written.from_float), speed)
    return ScoredExport(scores, report, wanted, speed, from_float, found)


def _scorer(kind: Format, path: Path, like: Scorer) -> Scorer:
    return Scorer(open_file(kind, path), like.spec, like.device, like.batch_size, like.parameters)


def _assessed(subject: Subject, source: Speed | None) -> tuple[Scores, EvaluationReport]:
    """Return what every run's report says; nothing is written."""
    folder = subject.model.weights.parent
    scores, parts = assess(subject, folder)
    parts["speed"] = _as_large(parts["speed"], source)
    return scores, report_of(subject, scores, parts, folder)


def _as_large(speed: Speed | None, source: Speed | None) -> Speed | None:
    """Give a file, which torch cannot look into, its source's arithmetic."""
    if speed is None or source is None:
        return None
    return speed.model_copy(update={"gflops": source.gflops})
