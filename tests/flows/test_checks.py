"""``graft check``: it calls ready what a run can do, and lists all that is wrong at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tasks.errors import ResourceError
from tests.flows.conftest import small_config

SHIPPED = "model.weights=graft:tiny-cifar10"
pytestmark = pytest.mark.usefixtures("unchanged")


@pytest.fixture
def photos(workspace: Path, tmp_path: Path) -> Path:
    """Return a copy of the good photos: 20 of blue and of red."""
    return shutil.copytree(workspace / "photos", tmp_path / "photos")


def spoil(folder: Path, n: int | None = None) -> list[Path]:
    """Make the first ``n`` images of a class unreadable, each in its own way."""
    paths = sorted(folder.iterdir())[:n]
    for path in paths:
        path.write_text(f"{path} is no image")
    return paths


def test_check_counts_classes_and_trains_nothing(workspace: Path, graft):
    result = graft("check", "good.yaml", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["ok"]) == (0, True)
    assert {name: sum(n.values()) for name, n in answer["classes"].items()} == {
        "blue": 20,
        "red": 20,
    }
    assert answer["backbone"]["architecture"] == "graft_tiny"


def test_check_refuses_a_limit_that_nothing_measures(workspace: Path, graft):
    limit = 'promotion.limits={"size_mib": 1}'
    assert graft("check", "good.yaml", limit).code == 0
    result = graft("check", "good.yaml", limit, "evaluation.latency_runs=0")
    assert result.code == 2
    assert "names size_mib (evaluation.latency_runs is 0)" in result.message


def test_check_shows_every_problem(workspace: Path, tmp_path: Path, graft):
    result = graft("check", "good.yaml", "data.path=nowhere", "model.architecture=resnet999")
    assert result.code == 3
    assert "nowhere" in result.message
    assert "resnet999" in result.out


def test_bad_images_hide_neither_a_leak_nor_a_missing_device(photos: Path, graft):
    for split in ("train", "test"):
        shutil.copytree(photos, photos.parent / "split" / split)
    (bad,) = spoil(photos.parent / "split" / "train" / "red", 1)
    folder = f"data.path={photos.parent / 'split'}"
    result = graft("check", "good.yaml", folder, "model.architecture=resnet999")
    assert result.code == 3
    assert "1 of 80 images cannot be used" in result.message
    assert f"bad image   train/red/{bad.name}: " in result.out
    assert "exact_duplicates: 39 image(s) are in two splits: " in result.out
    assert "resnet999" in result.out
    problems = json.loads(graft("check", "good.yaml", folder, "--json").out)["problems"]
    assert ["cannot be used" in problems[0], "exact_duplicates" in problems[1]] == [True, True]


def test_bad_images_are_named_and_classes_counted_where_no_split_can_be_made(photos: Path, graft):
    for path in sorted((photos / "red").iterdir())[2:]:
        path.unlink()
    (bad,) = spoil(photos / "blue", 1)
    result = graft("check", "good.yaml", f"data.path={photos}", "--json")
    answer = json.loads(result.out)
    assert result.code == 3
    assert [image["path"] for image in answer["bad_images"]] == [f"blue/{bad.name}"]
    assert "Too few training images" in answer["problems"][1]
    assert answer["classes"] == {"blue": {"images": 19}, "red": {"images": 2}}


def test_every_bad_image_is_named_not_the_first_twenty(photos: Path, graft):
    paths = spoil(photos / "blue", 12) + spoil(photos / "red", 12)
    result = graft("check", "good.yaml", f"data.path={photos}")
    assert "24 of 40 images" in result.message
    assert all(f"{path.relative_to(photos)}: " in result.out for path in paths)


def test_images_left_out_by_policy_are_not_counted(photos: Path, graft):
    spoil(photos / "red", 3)
    skip = ("data.on_bad_image=skip", f"data.path={photos}")
    result = graft("check", "good.yaml", *skip)
    assert (result.code, result.out.count("left out    red/")) == (0, 3)
    answer = json.loads(graft("check", "good.yaml", *skip, "--json").out)
    assert sum(answer["classes"]["red"].values()) == 17


def test_a_class_without_a_readable_image_is_refused_as_a_run_refuses_it(photos: Path, graft):
    spoil(photos / "red")
    settings = ("good.yaml", "data.on_bad_image=skip", f"data.path={photos}")
    checked, ran = graft("check", *settings), graft("run", *settings)
    assert (checked.code, ran.code) == (3, 3)
    assert checked.message == ran.message
    assert "No readable image is left of class 'red' in train" in checked.message


def test_files_that_are_no_images_by_name_are_shown(photos: Path, graft):
    (photos / "red" / "notes.txt").write_text("not a picture")
    result = graft("check", "good.yaml", f"data.path={photos}")
    assert result.code == 0
    assert "warning     1 file(s) are not images by name and were left out: " in result.out
    assert "notes.txt" in result.out


def test_every_check_of_the_data_is_a_row_whatever_came_of_it(photos: Path, graft):
    for split, first in (("train", 0), ("val", 10), ("test", 15)):
        for name in ("red", "blue"):
            (photos.parent / "split" / split / name).mkdir(parents=True)
            for path in sorted((photos / name).iterdir())[first : first + (10 if not first else 5)]:
                shutil.copy(path, photos.parent / "split" / split / name)
    source = photos.parent / "split"
    near = sorted((source / "train" / "red").iterdir())[0]
    Image.open(near).resize((64, 64)).save(source / "test" / "red" / "near.png")
    held = sorted((source / "val" / "blue").iterdir())[0]
    same = shutil.copy(held, source / "test" / "blue" / "same.png")
    arguments = ("check", "good.yaml", f"data.path={source}", "data.checks.near_duplicates=drop")
    result, answer = graft(*arguments), json.loads(graft(*arguments, "--json").out)
    assert result.code == 3
    assert result.message.startswith("graft: exact_duplicates: 1 image(s) are in two splits: ")
    rows = {row["name"]: row for row in answer["checks"]}
    assert {name: (row["status"], row["found"]) for name, row in rows.items()} == {
        "exact_duplicates": ("failed", 1),
        "near_duplicates": ("dropped", 1),
        "conflicting_labels": ("ok", 0),
        "group_leakage": ("ok", 0),
        "class_drift": ("ok", 0),
        "tiny_classes": ("warned", 1),
    }
    assert answer["classes"]["red"]["train"] == 9
    assert rows["exact_duplicates"]["examples"][0].endswith(f"test/blue/{Path(same).name} (test)")
    for name, row in rows.items():
        (line,) = (line for line in result.out.splitlines() if line.strip().startswith(name))
        assert line.split()[:2] == [name, row["policy"]]
        assert all(example in line for example in row["examples"][:1])


def test_a_class_that_is_dropped_is_no_class_of_the_data(photos: Path, graft):
    """The champion knows two classes; a third with one image is no reason to refuse the data."""
    (photos / "zebra").mkdir()
    Image.effect_noise((32, 32), 90).convert("RGB").save(photos / "zebra" / "0.png")
    Image.effect_noise((32, 32), 90).convert("RGB").save(photos / "zebra" / "1.png")
    settings = ("good.yaml", f"data.path={photos}", "data.checks.tiny_class=3")
    drop = (*settings, "data.checks.tiny_classes=drop")
    assert "Too few training images" in graft("check", *settings).message
    answer = json.loads(graft("check", *drop, "--json").out)
    assert answer["classes"].keys() == {"blue", "red"}
    evaluated = graft("evaluate", *drop, "--model", "models:/small@champion", "--json")
    assert evaluated.code == 0, evaluated.message
    assert json.loads(evaluated.out)["n"] == sum(n["test"] for n in answer["classes"].values())


def test_the_stages_are_listed_from_one_on(workspace: Path, graft):
    assert "stages      1 stem, 2 stage1, 3 stage2, 4 stage3\n" in graft("check", "good.yaml").out
    resnet = ("model.architecture=resnet18", "--json")
    stages = json.loads(graft("check", "good.yaml", *resnet).out)["backbone"]["stages"]
    assert stages[0] == {"stage": 1, "modules": ["conv1", "bn1"]}
    assert stages[-1] == {"stage": 5, "modules": ["layer4"]}


def test_more_frozen_stages_than_there_are_is_not_ready(workspace: Path, graft):
    weights = next((workspace / "mlruns" / "runs").glob("*/model.safetensors"))
    partial = ("strategy.kind=partial", "strategy.frozen_stages=99", f"model.weights={weights}")
    result = graft("check", "good.yaml", *partial)
    assert result.code == 2
    assert "has 4 stages:\n1 stem," in result.message
    assert "ready" not in result.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is missing")
def test_a_device_that_is_not_there_is_not_ready(workspace: Path, graft):
    result = graft("check", "good.yaml", "training.device=cuda")
    assert result.code == 8
    assert "training.device" in result.message
    assert "ready" not in result.out


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        (
            ["training.devices=3"],
            2,
            "training.batch_size=8 is not a multiple of training.devices=3",
        ),
        (["training.nodes=2"], 2, "training.nodes=2, and nobody waits on the other machines"),
        (["training.device=cuda", "training.devices=4"], 8, "training.devices=4, and this machine"),
    ],
)
def test_what_this_machine_cannot_train_is_refused_before_anything_is_fetched(
    workspace: Path, graft, monkeypatch, settings, code, words
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    checked = graft("check", "good.yaml", *settings)
    ran = graft("run", "good.yaml", "data.path=nowhere", *settings)
    assert (checked.code, ran.code) == (code, code)
    assert words in checked.message
    assert words in ran.message
    assert "ready" not in checked.out


def test_a_run_whose_training_is_over_needs_no_device_for_it(workspace: Path, monkeypatch):
    from flows.candidate import begin

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = small_config(training={"device": "cuda"})
    with pytest.raises(ResourceError, match=r"training\.device is cuda"):
        begin(config)
    assert begin(config, trains=False).config == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["strategy.kind=lp_ft", "training.epochs=1"], "training.epochs=2"),
        (["strategy.kind=full", "training.optimizer=muon"], "matrices"),
        (["training.epochs=4", "training.warmup_epochs=3", "strategy.kind=lp_ft"], "'probe' has 2"),
        (["strategy.kind=distill", "strategy.teacher=models:/nobody@champion"], "nobody"),
        (["strategy.kind=distill", "strategy.teacher=nobody"], "models:/"),
    ],
)
def test_what_a_training_would_refuse_is_not_ready(workspace: Path, graft, settings, words):
    result = graft("check", "good.yaml", SHIPPED, *settings)
    assert result.code != 0
    assert words in result.message


@pytest.mark.parametrize("kind", ["gradual_unfreeze", "wise_ft", "soup", "lora", "l2_sp"])
def test_a_strategy_that_fits_is_ready(workspace: Path, graft, kind):
    result = graft("check", "good.yaml", SHIPPED, f"strategy.kind={kind}", "training.epochs=3")
    assert result.code == 0, result.message
