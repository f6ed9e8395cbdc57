"""The main job on images with any number of labels: from a manifest to a served champion."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageDraw
from sklearn.metrics import average_precision_score

NAMES = ("disc", "square", "triangle")
RATES = (0.5, 0.4, 0.35)  # how often each shape is in an image, whatever else is
COLOURS = ((230, 40, 40), (40, 40, 230), (40, 220, 40))
SIDE, SHAPE = 32, 12  # px


def draw(present: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return shapes at random places on grey noise, one over the other where they meet."""
    noise = rng.integers(60, 110, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    for kind in np.flatnonzero(present):
        x, y = (int(v) for v in rng.integers(0, SIDE - SHAPE, size=2))
        box = (x, y, x + SHAPE, y + SHAPE)
        if kind == 0:
            pen.ellipse(box, fill=COLOURS[kind])
        elif kind == 1:
            pen.rectangle(box, fill=COLOURS[kind])
        else:
            corners = [(x, y + SHAPE), (x + SHAPE // 2, y), (x + SHAPE, y + SHAPE)]
            pen.polygon(corners, fill=COLOURS[kind])
    return image


def write_manifest(folder: Path, n: int, seed: int) -> Path:
    """Write ``n`` images and labels.csv, whose cells hold ``disc;triangle`` and the like."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    present = rng.random((n, len(NAMES))) < RATES
    cells = [";".join(np.array(NAMES)[row]) for row in present]
    paths = [f"{i:03}.png" for i in range(n)]
    for path, row in zip(paths, present, strict=True):
        draw(row, rng).save(folder / path)
    pd.DataFrame({"path": paths, "label": cells}).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


@dataclass
class Done:
    """A finished run: where, how it was started, and what it gave back as JSON."""

    folder: Path
    arguments: tuple[str, ...]
    answer: dict


@pytest.fixture(scope="module")
def done(home: Path, repository: Path, tmp_path_factory) -> Done:
    """Run the shipped config on 200 small images with the shipped backbone, a few epochs."""
    import contextlib
    import io

    from flows.cli import main

    folder = tmp_path_factory.mktemp("several")
    write_manifest(folder / "shapes", 200, seed=0)
    shutil.copy(repository / "configs" / "multi_label.yaml", folder)
    arguments = (
        "multi_label.yaml",
        "data.path=shapes/labels.csv",
        "data.label_separator=;",
        "model.architecture=graft_tiny",
        "model.weights=graft:tiny-cifar10",
        "training.epochs=6",
        "training.learning_rate=3e-3",
        "training.device=cpu",
        "training.precision=float32",
        "training.augment=flip",
    )
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("GRAFT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        code = main(["run", *arguments, "--json"])
    assert code == 0
    return Done(folder, arguments, json.loads(out.getvalue()))


@pytest.fixture
def there(done: Done, monkeypatch: pytest.MonkeyPatch) -> Done:
    monkeypatch.chdir(done.folder)
    monkeypatch.setenv("GRAFT_CACHE", str(done.folder / "cache"))
    return done


def test_the_shapes_are_learned(there: Done):
    report = there.answer["report"]
    assert there.answer["decision"]["promoted"]
    frame = pd.read_parquet(report["predictions"])
    truth = np.array([[name in cell.split(";") for name in NAMES] for cell in frame["label"]])
    probabilities = frame[[f"p_{name}" for name in NAMES]].to_numpy()
    precision = average_precision_score(truth, probabilities, average="macro")
    assert report["mean_average_precision"] == pytest.approx(precision)
    assert precision > truth.mean() + 0.4  # chance: how often the labels are there
    assert report["accuracy"] == pytest.approx((frame["label"] == frame["prediction"]).mean())


def test_check_counts_labels_and_images(there: Done, graft):
    result = graft("check", *there.arguments, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    manifest = pd.read_csv("shapes/labels.csv", keep_default_na=False)
    for name in NAMES:
        expected = manifest["label"].str.contains(name).sum()
        assert sum(answer["classes"][name].values()) == expected
    assert sum(answer["no_label"].values()) == (manifest["label"] == "").sum()
    table = graft("check", *there.arguments).out
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    sizes = [int(n) for n in rows["all"]]
    assert sum(sizes) == len(manifest)
    assert sizes == pytest.approx([140, 20, 40], abs=3)


def test_predict_gives_all_labels_of_an_image(there: Done, graft):
    rng = np.random.default_rng(7)
    cases = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]] * 5, dtype=bool)
    paths = [f"new{i}.png" for i in range(len(cases))]
    for path, present in zip(paths, cases, strict=True):
        draw(present, rng).save(path)
    result = graft("predict", *paths, "--model", "models:/multi_label@champion", "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["predictions"]
    found = np.array([[name in row["label"].split(";") for name in NAMES] for row in rows])
    assert (found == cases).mean() > 0.8
    assert {row.sum() for row in found} >= {1, 2}  # one label, and several at once
    for row, labels in zip(rows, found, strict=True):
        assert [row[f"p_{name}"] > 0.5 for name in NAMES] == labels.tolist()


def test_evaluate_scores_the_champion_as_the_run_did(there: Done, graft):
    arguments = (*there.arguments, "--model", "models:/multi_label@champion")
    result = graft("evaluate", *arguments, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    for key in ("accuracy", "mean_average_precision", "hamming_loss", "micro_f1", "log_loss"):
        assert answer[key] == pytest.approx(there.answer["report"][key], abs=1e-6)


def test_a_model_of_several_labels_is_not_scored_on_data_of_one(there: Done, graft):
    table = pd.read_csv("shapes/labels.csv")
    one = table[table["label"].isin(NAMES)]
    one.to_csv("shapes/one.csv", index=False)
    changes = ("data.path=shapes/one.csv", "data.multi_label=false")
    arguments = (*there.arguments, *changes, "--model", "models:/multi_label@champion")
    result = graft("evaluate", *arguments)
    assert result.code == 6
    assert "gives an image any number of labels" in result.message
    assert "data.multi_label=true" in result.message


def test_mlflow_knows_the_figures(there: Done):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{there.folder / 'mlruns' / 'mlflow.db'}")
    run = client.get_run(there.answer["decision"]["run_id"])
    report = there.answer["report"]
    for name in ("mean_average_precision", "micro_f1", "hamming_loss", "accuracy"):
        assert run.data.metrics[f"test_{name}"] == pytest.approx(report[name])


def test_a_cell_teaches_another_of_its_comparison(there: Done, graft):
    settings: dict[str, dict] = {}
    for word in there.arguments[1:]:
        key, _, value = word.partition("=")
        section, name = key.split(".")
        settings.setdefault(section, {})[name] = yaml.safe_load(value)
    settings["data"] |= {"kind": "manifest", "multi_label": True}
    settings["preprocess"] = {"resize": SIDE, "crop": SIDE}
    settings["training"]["epochs"] = 1
    pupil = {"strategy.kind": "distill", "strategy.teacher": "cell:full"}
    grid = {"base": settings, "seeds": [0], "strategies": {"full": {}, "distill": pupil}}
    named = {"name": "taught", "datasets": {"shapes": {}}, "backbones": {"tiny": {}}}
    Path("taught.yaml").write_text(yaml.safe_dump(grid | named))
    result = graft("compare", "taught.yaml", "--json")
    assert result.code == 0, result.message
    full, distill = json.loads(result.out)["outcomes"]
    models = {
        model["strategy"]: model
        for path in Path("mlruns/runs/taught").glob("cells/*/cell.json")
        for model in [json.loads(path.read_text())["model"]]
    }
    assert (full["failure"], distill["failure"]) == (None, None)
    assert models["distill"]["teacher_sha256"] == models["full"]["sha256"]
