"""Two versions side by side, from runs written by hand."""

from __future__ import annotations

import io
import json
import sqlite3
from math import comb
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from tasks.errors import TrackingError
from tasks.evaluate.evaluate import score_weights
from tasks.register.contest import image_keys
from tasks.register.differences import LISTED, _run, compare_versions
from tasks.register.facts import dataset_inputs
from tasks.values import ClassReport, EvaluationReport

NAME = "m"
CLASSES = ("blue", "green", "red")
COUNTS = ("both_right", "only_first", "only_second", "both_wrong")
LABELS = np.arange(90) % 3


def report(folder, test_digest: str, accuracy: float) -> EvaluationReport:
    return EvaluationReport(
        folder=folder,
        model_sha256="0" * 64,
        test_digest=test_digest,
        n=90,
        accuracy=accuracy,
        accuracy_low=0.5,
        accuracy_high=1,
        balanced_accuracy=0.5,
        macro_f1=0.5,
        log_loss=0.5,
        top5_accuracy=None,
        classes=tuple(
            ClassReport(name=name, n=30, precision=0.5, recall=accuracy, f1=0.5) for name in CLASSES
        ),
        confusion=(),
        predictions=folder / "predictions.parquet",
        report=folder / "report.json",
        seconds=1,
        images_per_second=90,
    )


def predictions(guesses: np.ndarray, older: bool, other_images: bool) -> bytes:
    """Return the file of a run that guessed so; two images share one path, as odd names can."""
    names = np.array(CLASSES)
    start = 1000 * other_images
    frame = pd.DataFrame(
        {
            "path": ["twice.png" if i in (0, 3) else f"{i}.png" for i in range(len(guesses))],
            "label": names[LABELS],
            "prediction": names[guesses],
            "correct": guesses == LABELS,
            "confidence": 0.5,
            "sha256": [f"{i:064x}" for i in range(start, start + len(guesses))],
        }
    )
    frame = frame.drop(columns="sha256") if older else frame
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    return file.getvalue()


@pytest.fixture
def version(store, make_config, prepared, tmp_path):
    """Return what makes a version whose run guessed the test images in a given way."""
    experiment = store.create_experiment("e", artifact_location=(tmp_path / "files").as_uri())
    store.create_registered_model(NAME)

    def make(
        guesses: np.ndarray,
        seed: int,
        test_digest: str = "a" * 64,
        older: bool = False,
        other_images: bool = False,
    ) -> str:
        run_id = store.create_run(experiment).info.run_id
        config = make_config()
        params = {"seed": str(seed), "training.epochs": "2"} | (
            {"strategy.kind": "scratch"} if seed == 0 else {}
        )
        store.log_batch(run_id, params=[Param(*item) for item in params.items()])
        test = prepared.test.model_copy(update={"digest": test_digest})
        inputs = dataset_inputs(config, prepared.model_copy(update={"test": test}))
        store.log_inputs(run_id, datasets=inputs)
        folder = tmp_path / run_id
        folder.mkdir()
        written = report(folder, test_digest, float((guesses == LABELS).mean()))
        (folder / "report.json").write_text(json.dumps(written.model_dump(mode="json")))
        (folder / "predictions.parquet").write_bytes(predictions(guesses, older, other_images))
        store.log_artifacts(run_id, str(folder))
        made = store.create_model_version(NAME, source="file:///x", run_id=run_id)
        return str(made.version)

    return make


def wrong_at(*rows: int) -> np.ndarray:
    guesses = LABELS.copy()
    guesses[list(rows)] = (guesses[list(rows)] + 1) % 3
    return guesses


@pytest.mark.parametrize("older", [False, True])
def test_config_figures_and_single_images_are_put_side_by_side(store, version, older: bool):
    only_second, both = range(25), range(80, 84)  # right there only, wrong in both
    first = version(wrong_at(*only_second, *both), seed=0, older=older)
    version(wrong_at(*both, 89), seed=1)
    store.set_registered_model_alias(NAME, "challenger", "2")
    found = compare_versions(NAME, first, "challenger")
    assert (found.first, found.second, found.notes) == (1, 2, ())
    assert found.config == {"seed": ("0", "1"), "strategy.kind": ("scratch", None)}
    assert found.data == {}
    assert found.metrics["accuracy"] == (61 / 90, 85 / 90)
    assert found.metrics["recall[red]"] == (61 / 90, 85 / 90)
    assert found.metrics["n"] == (90, 90)
    flips = found.flips
    assert (flips.both_right, flips.only_first, flips.only_second, flips.both_wrong) == (
        60,
        1,
        25,
        4,
    )
    # binomial, written out: 1 or fewer of 26, twice
    assert flips.p_value == pytest.approx(2 * (comb(26, 0) + comb(26, 1)) / 2**26)
    assert len(flips.images) == LISTED
    assert [(flip.path, flip.label, flip.first, flip.second) for flip in flips.images[:4]] == [
        ("twice.png", "blue", "green", "blue"),
        ("1.png", "green", "red", "green"),
        ("2.png", "red", "blue", "red"),
        ("twice.png", "blue", "green", "blue"),
    ]


def test_other_test_images_are_said_and_not_compared(version):
    first = version(wrong_at(), seed=0)
    second = version(wrong_at(3), seed=0, test_digest="b" * 64, other_images=True)
    found = compare_versions(NAME, first, second)
    assert found.config == {}
    assert found.data == {"test digest": ("a" * 64, "b" * 64)}
    assert found.flips is None
    assert found.notes == ("The two were tested on different images, so no image is compared.",)


def test_of_an_older_run_it_is_not_claimed_that_the_images_differ(version):
    first = version(wrong_at(), seed=0, older=True)
    second = version(wrong_at(3), seed=0, test_digest="b" * 64)
    found = compare_versions(NAME, first, second)
    assert found.flips is None
    (note,) = found.notes
    assert "is not known: a run of an older graft (of version 1) kept no digest" in note


def test_the_same_files_are_compared_whatever_the_size_they_are_scored_at(
    store, strong, strong24, tmp_path
):
    runs = strong, strong24
    assert strong.prepared.test.digest != strong24.prepared.test.digest  # pixels, cut to size
    experiment = store.create_experiment("e", artifact_location=(tmp_path / "files").as_uri())
    store.create_registered_model(NAME)
    for run in runs:
        run_id = store.create_run(experiment).info.run_id
        for file in (run.report.report, run.report.predictions):
            store.log_artifact(run_id, str(file))
        store.create_model_version(NAME, source="file:///x", run_id=run_id)
    found = compare_versions(NAME, "1", "2")
    scores = [score_weights(run.config, run.model, run.prepared.test) for run in runs]
    right = [
        dict(zip(image_keys(run.prepared.test), each.correct_n, strict=True))
        for run, each in zip(runs, scores, strict=True)
    ]
    only_first = sum(right[0][key] and not right[1][key] for key in right[0])
    only_second = sum(right[1][key] and not right[0][key] for key in right[0])
    assert found.notes == ()
    assert (found.flips.only_first, found.flips.only_second) == (only_first, only_second)
    assert sum(vars(found.flips)[name] for name in COUNTS) == len(right[0]) == strong.report.n


def test_what_a_run_has_not_left_is_said(store, version, tmp_path):
    first = version(wrong_at(), seed=0)
    second = version(wrong_at(3), seed=0)
    run_id = store.get_model_version(NAME, second).run_id
    (kept,) = (tmp_path / "files").glob(f"{run_id}/artifacts")
    (kept / "report.json").write_text("{}")
    (kept / "predictions.parquet").unlink()
    store.create_model_version(NAME, source="file:///x")
    found = compare_versions(NAME, first, second)
    assert found.flips is None
    assert found.metrics["accuracy"] == (1.0, None)
    assert found.notes == (
        "report.json of version 2 was written by another version of graft.",
        "The run of version 2 has no predictions.parquet.",
    )
    assert (
        compare_versions(NAME, "3", "3").notes == ("There is no run of version 3 in MLflow.",) * 2
    )
    (kept / "predictions.parquet").write_bytes(b"broken")
    words = r"predictions.parquet of version 2 cannot be read.*\nIts run's files are damaged"
    with pytest.raises(TrackingError, match=words) as caught:
        compare_versions(NAME, first, second)
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_names_and_versions_are_told_with_what_there_is(version):
    version(wrong_at(), seed=0)
    for name, which, words in (("n", "1", "There is: m"), (NAME, "4", "Versions of m: 1")):
        with pytest.raises(TrackingError, match=words):
            compare_versions(name, which, "1")


def test_only_a_run_that_is_not_there_is_taken_for_none(store, tmp_path):
    run = store.create_run(store.create_experiment("e"))
    of = SimpleNamespace
    assert _run(store, of(run_id=run.info.run_id)).info.run_id == run.info.run_id
    assert _run(store, of(run_id=None)) is None
    assert _run(store, of(run_id="0" * 32)) is None
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute("ALTER TABLE runs RENAME TO elsewhere")
    with pytest.raises(MlflowException, match="no such table"):
        _run(store, of(run_id="0" * 32))
