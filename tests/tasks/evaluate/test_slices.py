"""Slices: figures of a part are those of the part alone, from the manifest to the table."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sk

from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import EvaluationError
from tasks.evaluate.card import model_card
from tasks.evaluate.estimates import estimate
from tasks.evaluate.page import html_page
from tasks.evaluate.report import markdown
from tasks.evaluate.slices import FIGURES, VALUES, left_out, slice_table, subset
from tasks.index import ImageRecord, read_index
from tasks.measures import Slice, SlicesLeftOut
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec


def records_of(*columns: list[str]) -> list[ImageRecord]:
    rows = zip(*columns, strict=True)
    return [ImageRecord(f"{i}.png", 0, "test", "", "0" * 64, row) for i, row in enumerate(rows)]


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_row_is_its_part_alone(random_scores, multi_label):
    scores = random_scores(90, 3, multi_label)
    sites = ["north"] * 20 + ["south"] * 45 + [""] * 25
    sexes = ["f", "m"] * 45
    got = slice_table(scores, records_of(sites, sexes), ("site", "sex"), 40, 0.9, 3)
    assert [(row.column, row.value, row.n) for row in got] == [
        ("site", "south", 45),
        ("site", "", 25),
        ("site", "north", 20),
        ("sex", "f", 45),
        ("sex", "m", 45),
    ]
    for row in got:
        part = subset(scores, np.array(sites if row.column == "site" else sexes) == row.value)
        alone = {one.name: one for one in estimate(part, 40, 0.9, 3)}
        assert row.accuracy == sk.accuracy_score(part.labels_n, part.predictions_n)
        assert (row.low, row.high) == (alone["accuracy"].low, alone["accuracy"].high)
        assert [one.name for one in row.estimates] == list(FIGURES)
        for one in row.estimates:
            assert getattr(row, one.name) == one.value
            assert one == alone[one.name]
        assert Slice.model_validate_json(row.model_dump_json()) == row


def test_a_subset_keeps_every_field(random_scores):
    scores = random_scores(10, 3)
    scores.energy_n[:] = np.arange(10)
    part = subset(scores, np.arange(10) % 2 == 1)
    assert part.energy_n.tolist() == [1, 3, 5, 7, 9]
    assert np.array_equal(part.probabilities_nc, scores.probabilities_nc[1::2])
    assert np.array_equal(part.labels_n, scores.labels_n[1::2])
    assert np.array_equal(part.predictions_n, scores.predictions_n[1::2])
    assert (part.seconds, part.multi_label) == (scores.seconds, scores.multi_label)


def test_one_image_and_no_resamples(random_scores):
    (row,) = slice_table(random_scores(1, 2), records_of(["x"]), ("column",), 0, 0.95, 0)
    assert (row.n, row.low, row.high) == (1, None, None)
    assert {one.low for one in row.estimates} == {None}
    (row,) = slice_table(random_scores(1, 2), records_of(["x"]), ("column",), 9, 0.95, 0)
    assert all(one.low == one.value == one.high for one in row.estimates)
    assert row.low == row.high == row.accuracy


def test_a_slice_without_a_label_has_no_means_over_labels(scores_of):
    scores = scores_of([[0.1, 0.2], [0.9, 0.1]], [[0, 0], [1, 0]])
    bare, labelled = slice_table(scores, records_of(["a", "b"]), ("column",), 5, 0.95, 0)
    assert bare.macro_f1 is bare.balanced_accuracy is None
    assert bare.accuracy == labelled.accuracy == labelled.macro_f1 == 1.0
    assert Slice.model_validate_json(bare.model_dump_json()) == bare


def test_the_most_frequent_values_are_kept_and_the_rest_is_said(random_scores, caplog):
    n = 2 * VALUES + 3
    values = ["common"] * (VALUES + 1) + [f"rare {i:03}" for i in range(n - VALUES - 1)]
    with caplog.at_level(logging.WARNING):
        got = slice_table(random_scores(n, 2), records_of(values), ("site",), 0, 0.95, 0)
        (rest,) = left_out(records_of(values), ("site",))
    assert (rest.column, rest.values, rest.n) == ("site", 3, 3)
    assert left_out(records_of(values[:VALUES]), ("site",)) == ()
    assert len(got) == VALUES
    assert (got[0].value, got[0].n, got[1].value) == ("common", VALUES + 1, "rare 000")
    assert "site: its 50 most frequent values are reported, 3 with 3 images are not" in caplog.text


@pytest.mark.parametrize("write", [html_page, model_card, markdown])
def test_every_form_says_what_has_no_row(write, make_sample):
    config, prepared, model, report = make_sample().parts()
    rest = SlicesLeftOut(column=report.slices[0].column, values=1200, n=4321)
    told = "and 1,200 other values, 4,321 images: only the commonest values have a row."
    assert told not in write(config, prepared, model, report)
    more = report.model_copy(update={"slices_left_out": (rest,)})
    assert told in write(config, prepared, model, more)


def test_no_columns_no_rows(random_scores):
    records = [record._replace(slices=()) for record in records_of(["x"] * 5)]
    assert slice_table(random_scores(5, 2), records, (), 10, 0.95, 0) == ()


def test_an_index_of_other_columns_is_refused(random_scores):
    with pytest.raises(EvaluationError, match=r"does not hold data.slice_columns \(site, sex\)"):
        slice_table(random_scores(2, 2), records_of(["a", "b"]), ("site", "sex"), 0, 0.95, 0)


def test_values_go_from_the_manifest_to_the_test_split(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", "ab"[i % 2], f"patient {i // 4}", f"site {i // 4 % 3}"))
    table = pd.DataFrame(rows, columns=["path", "label", "group", "site"])
    table.to_csv(tmp_path / "labels.csv", index=False)
    config = DataConfig(
        kind="manifest", path=str(tmp_path / "labels.csv"), slice_columns=("site", "group")
    )
    raw = download(config, tmp_path / "cache")
    spec = InputSpec(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
    prepared = prepare(config, 0, raw, spec, tmp_path / "cache")
    expected = {path: (site, group) for path, _, group, site in rows}
    for split in (prepared.train, prepared.val, prepared.test):
        records = read_index(split.index)
        assert records
        assert {r.path: r.slices for r in records} == {r.path: expected[r.path] for r in records}
    # what a report is about does not change because more is asked of it
    plain = config.model_copy(update={"slice_columns": ()})
    bare = prepare(plain, 0, download(plain, tmp_path / "cache"), spec, tmp_path / "cache")
    assert bare.test.digest == prepared.test.digest
    assert {r.slices for r in read_index(bare.test.index)} == {()}
