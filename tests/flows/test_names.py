"""Classes and files of every odd name that a file system takes: through check, run and predict."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.words import printable

CAFE = unicodedata.normalize("NFC", "café")
CLASSES = (
    CAFE,
    unicodedata.normalize("NFD", CAFE),  # looks the same, and is another
    "Cat",
    "cat",  # the same where letters' case is no matter
    "-rf",
    "#1",
    "100% sure",
    "=1+1",
    "a b  c",
    'it\'s "so" <b>bold & more',
    "a,b;c|d",
    "${x} {y} `z`",
    "例え🐈",
    "שלום",
    "é" * 127,  # 254 bytes; 255 is the longest
    "n" * 255,
)
FILES = ("-rf.png", "#1.png", "50%.png", "new\nline.png", 'it\'s "so".png', "n" * 251 + ".png")
ALSO = ("A.png", "a.png", CAFE + ".png", unicodedata.normalize("NFD", CAFE) + ".png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Write images under all these names, and beside them what is none: hidden, empty, links."""
    root = tmp_path / "odd names"
    generator = np.random.default_rng(0)
    for label in CLASSES:
        folder = root / label
        folder.mkdir(parents=True)
        for name in FILES + (ALSO if label == "cat" else ()):
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"no image")
    (root / "cat" / ".x.png").write_bytes(b"no image")
    (root / "cat" / "empty").mkdir()
    (root / "cat" / "loop").symlink_to(root)
    (root / "cat" / "self.png").symlink_to(root / "cat" / "self.png")
    return root


def test_every_name_comes_through(
    workspace: Path, registry_copy, photos: Path, tmp_path: Path, graft
):
    given = (f"data.path={photos}", "promotion.model=odd", f"output.folder={tmp_path}/runs")
    checked = graft("check", "good.yaml", *given, "--json")
    assert checked.code == 0, checked.err
    found = json.loads(checked.out)
    assert list(found["classes"]) == sorted(CLASSES)
    assert found["ignored_count"] == 2  # the links; what is hidden is not looked at
    assert graft("check", "good.yaml", *given).code == 0  # as a table as well

    ran = graft("run", "good.yaml", *given, "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)["report"]
    assert [row["name"] for row in report["classes"]] == sorted(CLASSES)
    frame = pd.read_parquet(report["predictions"])
    there = {printable(str(path.relative_to(photos))) for path in photos.rglob("*.png")}
    assert set(frame["path"]) <= there
    assert [path.partition("/")[0] for path in frame["path"]] == list(frame["label"])

    page = (Path(report["folder"]) / "report.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold &amp; more" in page

    paths = [str(photos / "-rf" / name) for name in FILES]
    guessed = graft("predict", *paths, "--model", "models:/odd/1", "--json")
    assert guessed.code == 0, guessed.err
    answers = json.loads(guessed.out)["predictions"]
    assert [answer["path"] for answer in answers] == paths
    assert {answer["label"] for answer in answers} <= set(CLASSES)


def test_a_file_that_begins_with_a_dash_is_no_option(
    workspace: Path, photos: Path, graft, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/mlruns/mlflow.db")
    monkeypatch.chdir(photos / "cat")
    assert graft("predict", "--model", "models:/small/1", "--", "-rf.png").code == 0
    result = graft("predict", "--model", "models:/small/1", "-rf.png")
    assert result.code == 2
    assert "No such option: -r" in result.message


def test_folders_in_a_circle_alone_are_told(workspace: Path, tmp_path: Path, graft):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    result = graft("check", "good.yaml", f"data.path={one}")
    assert result.code == 3
    assert str(one) in result.message
    assert len(result.message.splitlines()) <= 2
