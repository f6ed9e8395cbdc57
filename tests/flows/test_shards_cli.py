"""``graft shards``: packs once, indexes, and what it makes is checked and trained from."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from flows.shards_cli import _next_command

pytestmark = pytest.mark.usefixtures("unchanged")
FROM = "data.kind=shards"


@pytest.fixture
def shards(workspace: Path, tmp_path: Path, graft) -> str:
    """Return a folder of the good photos, as shards of at most ten."""
    target = str(tmp_path / "shards")
    result = graft("shards", "good.yaml", "--output", target, "--images-a-shard", "10")
    assert result.code == 0, result.err
    return target


def test_photos_are_packed_once_and_said_where(workspace: Path, tmp_path: Path, graft):
    command = ("shards", "good.yaml", "--output", str(tmp_path / "shards"), "--json")
    first = json.loads(graft(*command).out)
    assert (first["new"], first["images"]) == (True, {"train": 28, "val": 4, "test": 8})
    assert (first["height"], first["width"], first["classes"]) == (32, 32, ["blue", "red"])
    assert first["bytes"] == sum(p.stat().st_size for p in tmp_path.glob("shards/*.tar"))
    assert json.loads(graft(*command).out) == first | {"new": False}
    other = graft(*command, "seed=1")
    assert other.code == 3
    assert "holds other shards already" in other.message


def test_an_index_is_made_of_shards_that_are_there(shards: str, workspace: Path, graft):
    index = Path(shards) / "graft-shards.json"
    before = index.read_bytes()
    index.unlink()
    given = ("good.yaml", FROM, f"data.path={shards}")
    result = graft("check", *given)
    assert result.code == 3
    assert "graft shards CONFIG --index" in result.message
    result = graft("shards", *given, "--index")
    assert result.code == 0, result.err
    assert f"data.path={shards}" in result.out
    assert index.read_bytes() == before


def test_check_counts_all_splits_and_reads_no_training_shard(shards: str, workspace: Path, graft):
    for path in Path(shards).glob("train-*.tar"):
        path.unlink()
    result = graft("check", "good.yaml", FROM, f"data.path={shards}", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["ok"]) == (0, True)
    assert answer["classes"]["red"] == {"train": 14, "val": 2, "test": 4}
    assert answer["shards"] == {"train": 3, "val": 1, "test": 1}
    assert {each["name"] for each in answer["checks"]} >= {"exact_duplicates", "class_drift"}
    assert any("Training images are streamed" in warning for warning in answer["warnings"])
    assert "all    28     4    8" in graft("check", "good.yaml", FROM, f"data.path={shards}").out


def test_check_finds_test_images_that_are_trained_on(shards: str, workspace: Path, graft):
    """A prefix of a test image among those of training is what a leak looks like without a pass."""
    folder = Path(shards)
    trained, tested = folder / "train.digests.bin", folder / "test.digests.bin"
    trained.write_bytes(tested.read_bytes()[:8] + trained.read_bytes()[8:])
    index = json.loads((folder / "graft-shards.json").read_text())
    index["prefixes"]["train"] = hashlib.sha256(trained.read_bytes()).hexdigest()
    (folder / "graft-shards.json").write_text(json.dumps(index))
    result = graft("check", "good.yaml", FROM, f"data.path={shards}")
    assert result.code == 3
    assert "exact_duplicates: 1 image(s) are in two splits" in result.message


def test_images_that_have_no_folder_are_packed_below_the_working_folder(
    workspace: Path, tmp_path: Path, graft, monkeypatch
):
    """As docs/scale.md has it for CIFAR-10; ``Path("")`` would be that folder."""
    monkeypatch.chdir(tmp_path)
    digits = ("data.kind=digits", "data.path=null", "data.checks.near_duplicates=off")
    config = str(workspace / "good.yaml")
    result = graft("shards", config, *digits, "--output", "packed/digits", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["url"] == str(tmp_path / "packed" / "digits")


def test_the_next_command_works_as_it_is_printed(workspace: Path, tmp_path: Path, graft):
    """A shell reads it; what the config says of the images' file and splits is not in the way."""
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", workspace / "photos"))
    settings = yaml.safe_load((workspace / "good.yaml").read_text())
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    settings["data"] |= {"val_fraction": 0.2, "sha256": sha256, "path": str(archive)}
    config, shards = tmp_path / "photo's.yaml", tmp_path / "photo's shards"
    config.write_text(yaml.safe_dump(settings))
    typed = ("seed=3", "data.val_fraction=0.25", "data.checks.near_duplicates=off", "name=other")
    result = graft("shards", str(config), "--output", str(shards), *typed)
    assert result.code == 0, result.err
    words = shlex.split(result.out.partition("\ntrain ")[2].splitlines()[0])
    assert words[:2] == ["graft", "run"]
    index = hashlib.sha256((shards / "graft-shards.json").read_bytes()).hexdigest()
    assert f"data.sha256={index}" in words
    kept = [word for word in words if word in typed]
    assert kept == ["seed=3", "data.checks.near_duplicates=off", "name=other"]
    result = graft("check", *words[2:])
    assert result.code == 0, result.err


def test_no_query_that_was_typed_is_printed():
    weights = "model.weights=https://x.org/a.pth?"
    typed = [" model.sha256 =0", f"{weights}token=planted", weights + "${secret:S}", "data.path=x"]
    said = _next_command(Path("c.yaml"), typed, ["data.path=s"])
    kept = [*shlex.split(said)[3:]]
    assert kept == ["model.sha256=0", f"{weights}…", weights + "${secret:S}", "data.path=s"]


def test_images_may_lie_in_a_folder_with_a_colon(workspace: Path, tmp_path: Path, graft):
    """Only of shards is it taken for an address, as ``pipe:`` is."""
    images, target = workspace / "photos:2020", str(tmp_path / "shards")
    shutil.copytree(workspace / "photos", images)
    try:
        given = ("shards", "good.yaml", "data.path=photos:2020", "--output")
        result = graft(*given, target)
        assert result.code == 0, result.err
        result = graft(*given, "./photos:2020/x")
        assert (result.code, "among the images" in result.message) == (2, True)
    finally:
        shutil.rmtree(images)


def test_what_was_not_finished_is_not_indexed(shards: str, workspace: Path, graft):
    folder = Path(shards)
    (folder / "graft-shards.json").rename(folder / "graft-shards.unfinished")
    before = sorted(folder.iterdir())
    result = graft("shards", "good.yaml", FROM, f"data.path={shards}", "--index")
    assert result.code == 3
    assert "Run that to its end, or remove the folder." in result.message
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ((), 2, "takes either --output FOLDER or --index"),
        (("--output", "x", "--index"), 2, "takes either --output FOLDER or --index"),
        (("--index",), 2, "Only data.kind=shards is indexed"),
        (("--output", "pipe:touch planted"), 2, "is no folder of shards"),
        (("--output", "s3://key:planted@bucket/x"), 2, "holds a login"),
        (("--output", "x", "--images-a-shard", "0"), 2, "greater than or equal to 1"),
        (("--output", "x", FROM, "data.path=s3://key:planted@bucket/x"), 2, "a login or query"),
        (("--output", "x", FROM, "data.path=nowhere"), 2, "are shards already"),
        (("--index", FROM, "data.path=nowhere"), 3, "has no shard of train, val, test"),
        (("--output", "good.yaml/x"), 8, "Cannot write"),
        (("--output", "x" * 300), 3, "File name too long"),
        (("--output", "photos/x", "data.path=" + "x" * 300), 3, "too long"),
        (("--output", "file://{here}/photos/x"), 2, "lies in data.path, among the images"),
        (("--output", "photos/x", "data.path=file://{here}/photos"), 2, "lies in data.path"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_two_lines(given, code, words, workspace: Path, graft):
    given = [word.replace("{here}", str(workspace)) for word in given]
    result = graft("shards", "good.yaml", *given)
    assert result.code == code, result.err
    assert words in result.message
    assert "planted@" not in result.err
    assert len(result.message.splitlines()) <= 2
    assert not (workspace / "planted").exists()
    assert not (workspace / "x").exists()
