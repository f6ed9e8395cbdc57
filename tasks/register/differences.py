"""What two versions of a registered model differ in: config, data, figures, and single images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from pydantic import ValidationError

from tasks.errors import TrackingError
from tasks.register.client import connect, tracking_errors
from tasks.register.figures import figures
from tasks.register.moves import pick
from tasks.register.paired import mcnemar_exact
from tasks.register.registry import NOTHING_THERE, find_model
from tasks.register.versions import TEST_DIGEST
from tasks.values import EvaluationReport

if TYPE_CHECKING:
    import pandas as pd

PREDICTIONS = "predictions.parquet"
REPORT = "report.json"
LISTED = 20  # flips
SHA256 = "sha256"  # of the image file; runs of an older graft do not have it
IMAGE, NAMED = [SHA256, "label"], ["path", "label"]  # what tells two images apart

Pair = tuple[object, object]  # of the first version and of the second; None: not there


@dataclass(frozen=True)
class Flip:
    """An image that only one of the two versions gets right."""

    path: str
    label: str
    first: str  # prediction of the first version
    second: str


@dataclass(frozen=True)
class Flips:
    """How two versions do on the same test images, one by one."""

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    p_value: float  # two-sided exact McNemar test
    images: tuple[Flip, ...]  # the first ``LISTED`` flips


@dataclass(frozen=True)
class Difference:
    """What differs between two versions; ``metrics`` holds all that either report has."""

    name: str
    first: int
    second: int
    config: dict[str, Pair]
    data: dict[str, Pair]
    metrics: dict[str, Pair]
    flips: Flips | None
    notes: tuple[str, ...]  # what could not be compared, and why


@dataclass
class _Side:
    """One version and what its run has left."""

    number: int
    test_digest: str | None
    params: dict[str, object] = field(default_factory=dict)
    data: dict[str, object] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)
    predictions: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)


def compare_versions(name: str, first: str, second: str) -> Difference:
    """Compare two versions of ``name``, each named by number or alias.

    Images are compared one by one where both runs scored the same test images, at whatever size:
    matched by file digest and label, or by path and label where a run of an older graft did not
    keep those and the packed pixels were the same. What a run has not left is said in ``notes``.
    Raises ``TrackingError`` when there is no such version or MLflow fails.
    """
    client = connect(create=False)
    with tracking_errors(f"comparing versions of {name}"):
        find_model(client, name)
        one, two = (_side(client, pick(client, name, which)) for which in (first, second))
        notes = [*one.notes, *two.notes]
        return Difference(
            name=name,
            first=one.number,
            second=two.number,
            config=_unlike(one.params, two.params),
            data=_unlike(one.data, two.data),
            metrics=_pairs(one.figures, two.figures),
            flips=_flips(one, two, notes),
            notes=tuple(notes),
        )


def _pairs(one: Mapping[str, object], two: Mapping[str, object]) -> dict[str, Pair]:
    return {key: (one.get(key), two.get(key)) for key in (*one, *(k for k in two if k not in one))}


def _unlike(one: Mapping[str, object], two: Mapping[str, object]) -> dict[str, Pair]:
    return {key: pair for key, pair in _pairs(one, two).items() if pair[0] != pair[1]}


def _side(client: MlflowClient, version: ModelVersion) -> _Side:
    side = _Side(int(version.version), version.tags.get(TEST_DIGEST))
    run = _run(client, version)
    if run is None:
        side.notes.append(f"There is no run of version {side.number} in MLflow.")
        return side
    side.params = dict(run.data.params)
    side.data = _data(run)
    with tempfile.TemporaryDirectory() as folder:
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        for name, read in ((REPORT, _read_report), (PREDICTIONS, _read_predictions)):
            if name in files:
                read(side, Path(client.download_artifacts(run.info.run_id, name, folder)))
            else:
                side.notes.append(f"The run of version {side.number} has no {name}.")
    return side


def _run(client: MlflowClient, version: ModelVersion) -> Run | None:
    if not version.run_id:
        return None
    try:
        return client.get_run(version.run_id)
    except MlflowException as error:
        if error.error_code not in NOTHING_THERE:
            raise
        return None


def _data(run: Run) -> dict[str, object]:
    """Return the facts of each split: its digest, its images, and how many each class has."""
    facts: dict[str, object] = {}
    for given in run.inputs.dataset_inputs if run.inputs else ():
        context = {tag.key: tag.value for tag in given.tags}.get(MLFLOW_DATASET_CONTEXT, "data")
        profile = json.loads(given.dataset.profile or "{}")
        facts[f"{context} source"] = given.dataset.name
        for key in ("digest", "images"):
            facts[f"{context} {key}"] = profile.get(key)
        for label, count in profile.get("classes", {}).items():
            facts[f"{context} images of {label}"] = count
    return facts


def _read_report(side: _Side, file: Path) -> None:
    try:
        report = EvaluationReport.model_validate_json(file.read_bytes())
    except ValidationError:
        side.notes.append(
            f"{REPORT} of version {side.number} was written by another version of graft."
        )
        return
    side.figures = {"n": report.n, **figures(report)}
    side.test_digest = report.test_digest


def _read_predictions(side: _Side, file: Path) -> None:
    import pandas as pd
    from pyarrow.parquet import read_schema

    try:
        known = [SHA256] if SHA256 in read_schema(file).names else []
        columns = [*NAMED, "prediction", "correct", *known]
        side.predictions = pd.read_parquet(file, columns=columns)
    except (OSError, ValueError) as error:  # what pyarrow raises is a ValueError as well
        raise TrackingError(
            f"{PREDICTIONS} of version {side.number} cannot be read: {error}".splitlines()[0]
            + "\nIts run's files are damaged; evaluate the model again."
        ) from error


def _flips(one: _Side, two: _Side, notes: list[str]) -> Flips | None:
    ours, theirs = one.predictions, two.predictions
    if ours is None or theirs is None:
        return None
    frames = {one.number: ours, two.number: theirs}
    older = [str(number) for number, frame in frames.items() if SHA256 not in frame]
    if older and (one.test_digest != two.test_digest or one.test_digest is None):
        notes.append(
            "Whether the two were tested on the same images is not known: a run of an older graft "
            f"(of version {' and '.join(older)}) kept no digest of each. No image is compared."
        )
        return None
    both = _matched(ours, theirs, NAMED if older else IMAGE)
    if not len(both) == len(ours) == len(theirs):
        notes.append("The two were tested on different images, so no image is compared.")
        return None
    return _counted(both)


def _matched(one: pd.DataFrame, two: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return a row for each image that is in both; ``path`` is the first version's."""
    # two files may have one printable path and label, or the same bytes
    first, second = (each.assign(nth=each.groupby(key).cumcount()) for each in (one, two))
    both = first.merge(second, on=[*key, "nth"], suffixes=("_first", "_second"))
    return both.rename(columns={"path_first": "path"})


def _counted(both: pd.DataFrame) -> Flips:
    first_n, second_n = both["correct_first"].to_numpy(), both["correct_second"].to_numpy()
    only_first, only_second = int((first_n & ~second_n).sum()), int((~first_n & second_n).sum())
    return Flips(
        both_right=int((first_n & second_n).sum()),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int((~first_n & ~second_n).sum()),
        p_value=mcnemar_exact(only_second, only_first),
        images=tuple(
            Flip(row.path, row.label, row.prediction_first, row.prediction_second)
            for row in both[first_n != second_n].head(LISTED).itertuples()
        ),
    )
