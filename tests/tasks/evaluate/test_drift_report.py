"""A check for drift as Markdown, with and without what only some checks have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.evaluate.drift_report import drift_markdown, save_unusual
from tasks.monitorvalues import ClassShare, DriftReport, ShiftTest, UnusualImage

ONE = UnusualImage(path="far/away.png", strangeness=3.0, prediction="b", confidence=0.625)


@pytest.fixture
def plain(tmp_path: Path) -> DriftReport:
    """Return a check of a model that calls nothing novel and gives several labels an image."""
    return DriftReport(
        name="watch",
        model="models:/small/1",
        asked_for="models:/small@champion",
        folder=tmp_path,
        run_id="0" * 32,
        experiment_id="1",
        alert=False,
        reason="nothing is shown to differ",
        found=40,
        n=40,
        copies=0,
        bad=0,
        seen=None,
        images_digest="a" * 64,
        alpha=0.01,
        checks_a_day=1,
        false_alarms_a_year=3.65,
        seconds=1.0,
        reference_n=200,
        reference_from="base",
        reference_digest="b" * 64,
        dimension=64,
        tests=(ShiftTest(name="kernel", statistic=0.001, p_value=0.4, level=0.01),),
        permutations=99,
        novel_above=None,
        novel_reference=None,
        novel_new=None,
        shares=(ClassShare(name="a", reference=0.5, new=0.25),),
        share_distance=None,
        unusual=(),
    )


def test_what_was_not_measured_has_no_row(plain: DriftReport):
    text = drift_markdown(plain)
    for words in ("called novel by energy", "shares differ by", "Least like the reference"):
        assert words not in text
    assert "200 images, 64 features, made from base" in text
    assert "no difference shown" in text
    more = {"novel_above": 1.0, "novel_reference": 0.05, "novel_new": 0.5, "share_distance": 0.25}
    text = drift_markdown(plain.model_copy(update={**more, "unusual": (ONE,)}))
    (novel,) = (line for line in text.splitlines() if "called novel by energy" in line)
    assert novel.index("50") < novel.index(", of the reference 5")
    (differ,) = (line for line in text.splitlines() if "shares differ by" in line)
    assert "25" in differ
    assert "## Least like the reference\n\n![](unusual.png)\n" in text
    assert "far/away.png" in text.partition("Least like")[2]


def test_a_picture_is_written_where_there_are_any(plain: DriftReport):
    save_unusual(plain, [])
    assert list(plain.folder.iterdir()) == []
    save_unusual(plain.model_copy(update={"unusual": (ONE,)}), [np.zeros((8, 8, 3), np.uint8)])
    with Image.open(plain.folder / "unusual.png") as picture:
        assert picture.height > picture.width > 200  # one column, and its title
