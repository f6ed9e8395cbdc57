"""report.md: every part that there is, and a user's words as CommonMark shows them."""

from __future__ import annotations

import html
import re

import pytest

from tasks.evaluate.card import model_card
from tasks.evaluate.page import html_page
from tasks.evaluate.report import markdown
from tasks.evaluate.tables import escape_markdown, markdown_table
from tasks.evaluate.wording import NOTHING, counted, shown, wording

PARTS = (
    "## Figures",
    "## Classes",
    "## Slices",
    "## Calibration, rejection and novelty",
    "## Robustness",
    "## Speed",
    "## Notes on the data",
    "## What training decided on its way",
)
MARKUP = (
    "*a*",
    "_a_",
    "__a__",
    "`a`",
    "[a](http://b)",
    "![a](b)",
    "<b>a</b>",
    "a|b",
    "~~a~~",
    "$a$",
)


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("## ")]


def test_every_part_is_in_it(make_sample):
    sample = make_sample()
    text = markdown(*sample.parts())
    assert headings(text) == list(PARTS)
    for words in (
        "| accuracy | ",
        "| site A 1 | 50 | 62.00% | 57.00% to 67.00% | 62.00% (56.00% to 68.00%) | "
        "0.6200 (0.5500 to 0.6900) | 0.4000 (0.3200 to 0.4800) |",
        "(0.930 to 0.970) | ",
        "(0.830 to 0.870) |",
        "| mean ROC AUC | 0.9530 | 0.9330 to 0.9730 |",
        "Temperature 1.400",
        "confidence of 0.8000",
        "above -3.200",
        "Mean accuracy 60.00% on 100 test images",
        "as they are, 90.00%.",
        "| gaussian noise | 80.00% | 70.00% | 60.00% | 50.00% | 40.00% |",
        "12.30 ms",
        "| near duplicates | warn | warned | 2 images |",
        "- warning of site A",
        "- note of site A",
    ):
        assert words in text
    assert "secret" not in text


def test_what_is_missing_is_left_out(make_sample):
    text = markdown(*make_sample(whole=False).parts())
    assert headings(text) == ["## Figures", "## Classes"]


def test_several_labels_have_their_counts_and_areas(make_sample):
    sample = make_sample(multi_label=True)
    counts = " | ".join(map(str, sample.report.class_confusion[0]))
    text = markdown(*sample.parts())
    assert f"| {counts} |" in text
    assert "| ROC AUC | average precision | TN |" in text
    plain = markdown(*make_sample(multi_label=True, whole=False).parts())
    assert "| average precision | TN |" in plain


@pytest.mark.parametrize("write", [markdown, html_page, model_card])
def test_a_slice_without_any_label_has_dashes(make_sample, write):
    config, prepared, model, report = make_sample(multi_label=True).parts()
    bare = {"balanced_accuracy": None, "macro_f1": None, "estimates": ()}
    slices = tuple(one.model_copy(update=bare) for one in report.slices)
    text = write(config, prepared, model, report.model_copy(update={"slices": slices}))
    cells = text.replace("</td><td>", " | ")
    assert cells.count(f"{NOTHING} | {NOTHING} | 0.4000") == len(slices)


def with_areas_of(sample, drawn: int | None):
    """Return the parts of a sample whose mean areas are of so many resamples; None: of none."""
    ends = {"low": None, "high": None} if drawn is None else {}
    estimates = tuple(
        one.model_copy(update={"resamples": drawn} | ends) if "mean_" in one.name else one
        for one in sample.report.estimates
    )
    return (*sample.parts()[:3], sample.report.model_copy(update={"estimates": estimates}))


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (400, "; of ROC AUC and average precision 400, since more take minutes."),
        (None, "; ROC AUC and average precision have none, which would take minutes."),
        (1000, "."),
    ],
)
def test_areas_of_fewer_resamples_are_told(make_sample, drawn, words):
    text = markdown(*with_areas_of(make_sample(), drawn))
    assert f"\nIntervals are of 1,000 bootstrap resamples of the test images{words}\n" in text


def test_the_page_shows_the_interval_of_each_figure(make_sample):
    text = html_page(*with_areas_of(make_sample(), 400))
    assert "resamples of the test images; of ROC AUC and average precision 400, since" in text
    for words in (
        "<td>62.00%<small>56.00% 68.00%</small></td>",
        "<td>0.6200<small>0.5500 0.6900</small></td>",
        "<td>0.4000<small>0.3200 0.4800</small></td>",
        "<small>0.930 0.970</small>",
        "<small>0.830 0.870</small>",
        "<td>0.9530</td><td>0.9330 to 0.9730</td>",
    ):
        assert words in text.replace(NOTHING, " ")


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_shown_as_it_is(name: str):
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = parser.render("\n".join(markdown_table([("name",), (name,)])))
    cell = re.search("<td>(.*?)</td>", page)[1]
    assert "<" not in cell
    assert html.unescape(cell) == name


def test_a_name_is_one_printable_line():
    assert escape_markdown("a\nb\udce9\x1b") == "a b\\udce9\\x1b"
    assert escape_markdown("a\\b$") == "a&#92;b&#36;"
    assert escape_markdown("val_accuracy") == "val_accuracy"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.97224, "97.22%"),
        ("log_loss", 0.123456, "0.1235"),
        ("top_5", 0.5, "50.00%"),
        ("top5_accuracy", 0.5, "50.00%"),
        ("unheard_of", 0.5, "0.5000"),
    ],
)
def test_a_figure_is_written_by_its_kind(name: str, value: float, text: str):
    assert shown(name, value) == text
    assert ("5" in wording(name).label) == name.startswith("top")


def test_a_threshold_that_nothing_reaches_is_told_in_words(make_sample):
    sample = make_sample()
    nothing = sample.report.rejection.model_copy(update={"threshold": 2.0, "test_error": None})
    report = sample.report.model_copy(update={"rejection": nothing})
    parts = (sample.config, sample.prepared, sample.model, report)
    assert "no image would be answered" in markdown(*parts)
    assert "no image would be answered" in html_page(*parts)
    assert "### Recommendations" not in model_card(*parts)


@pytest.mark.parametrize(
    ("n", "unit", "words"),
    [(1, "class", "1 class"), (0, "class", "0 classes"), (2000, "image", "2,000 images")],
)
def test_things_are_counted_in_their_plural(n: int, unit: str, words: str):
    assert counted(n, unit) == words
