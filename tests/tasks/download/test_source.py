"""The whole room: real data, what is kept in the cache, and that digests are those of the files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from tasks.artifacts import sha256_bytes, sha256_file
from tasks.config import DataConfig
from tasks.download.listing import ListedImage, Listing
from tasks.download.source import download, hashed_records
from tasks.errors import ConfigError, DataError, ResourceError
from tasks.index import digest_records, read_index
from tasks.presence import is_present
from tasks.values import RawDataset

Tree = Callable[..., Path]
FILES = ("train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "test/a/1.png")


def folder_config(path: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"kind": "folder", "path": str(path), **values})


def test_hymenoptera(shared: Path, tmp_path: Path):
    archive = shared / "data" / "hymenoptera.zip"
    raw = download(folder_config(archive, test="val"), tmp_path)
    records = read_index(raw.index)
    assert raw.classes == ("ants", "bees")
    assert raw.counts == {"train": 244, "test": 153}
    assert raw.ignored == ("train/ants/imageNotFound.gif",)
    with zipfile.ZipFile(archive) as opened:
        for record in records:
            assert record.sha256 == sha256_bytes(opened.read(record.path))
    for split, folder in (("train", "train"), ("test", "val")):
        oracle = ImageFolder(str(raw.root / folder))
        found = [(str(raw.root / r.path), r.label) for r in records if r.split == split]
        assert sorted(found) == sorted(oracle.samples)


def test_hymenoptera_by_name_has_no_test(shared: Path, tmp_path: Path):
    raw = download(folder_config(shared / "data" / "hymenoptera.zip"), tmp_path)
    assert raw.counts == {"train": 244, "val": 153}


def test_cifar10_small(shared: Path, tmp_path: Path):
    raw = download(folder_config(shared / "data" / "cifar10-small.zip"), tmp_path)
    counts = Counter((record.split, record.label) for record in read_index(raw.index))
    assert raw.counts == {"train": 5000, "test": 1000}
    assert counts == {
        (split, label): n for split, n in (("train", 500), ("test", 100)) for label in range(10)
    }


def test_facts_survive_json_and_the_digest_is_over_the_records(tree: Tree, tmp_path: Path):
    raw = download(folder_config(tree(*FILES)), tmp_path / "cache")
    assert RawDataset.model_validate_json(raw.model_dump_json()) == raw
    assert raw.digest == digest_records(raw.classes, read_index(raw.index))


def test_same_content_elsewhere_has_the_same_digest(tree: Tree, tmp_path: Path, pack, snapshot):
    folder = tree(*FILES)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    archive = pack(tmp_path / "data.tar.gz", snapshot(folder).items())
    digests = {
        download(folder_config(path), tmp_path / "cache").digest
        for path in (folder, moved, archive)
    }
    assert len(digests) == 1


def test_changed_file_is_seen_whatever_its_size_and_time(tree: Tree, tmp_path: Path):
    folder = tree(*FILES)
    first = download(folder_config(folder), tmp_path / "cache")
    file = folder / FILES[0]
    times, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = download(folder_config(folder), tmp_path / "cache")
    assert first.digest != second.digest
    changed = set(read_index(second.index)) - set(read_index(first.index))
    assert [(record.path, record.sha256) for record in changed] == [(FILES[0], sha256_file(file))]


def test_unchanged_folder_writes_the_same_index(tree: Tree, tmp_path: Path, snapshot):
    config = folder_config(tree(*FILES))
    first = download(config, tmp_path / "cache")
    before = snapshot(tmp_path)
    assert download(config, tmp_path / "cache") == first
    assert snapshot(tmp_path) == before


def test_unchanged_archive_is_not_read_again(tree: Tree, tmp_path: Path, pack, snapshot):
    archive = pack(tmp_path / "data.zip", snapshot(tree(*FILES)).items())
    first = download(folder_config(archive), tmp_path / "cache")
    file = first.root / FILES[0]
    file.write_bytes(bytes(file.stat().st_size))  # reading would see this
    assert download(folder_config(archive), tmp_path / "cache") == first
    named = download(folder_config(archive, val="test"), tmp_path / "cache")
    assert named.counts == {"train": 4, "val": 1}


@pytest.mark.parametrize("damage", ["facts.json", "index.csv"])
def test_damaged_index_is_made_again(damage: str, tree: Tree, tmp_path: Path, pack, snapshot):
    archive = pack(tmp_path / "data.zip", snapshot(tree(*FILES)).items())
    first = download(folder_config(archive), tmp_path / "cache")
    kept = snapshot(tmp_path)
    if damage == "facts.json":
        first.index.with_name(damage).write_text("{")
    else:
        first.index.unlink()
    assert download(folder_config(archive), tmp_path / "cache") == first
    assert snapshot(tmp_path) == kept


def test_cache_that_moved_still_serves(tree: Tree, tmp_path: Path, pack, snapshot):
    archive = pack(tmp_path / "data.zip", snapshot(tree(*FILES)).items())
    download(folder_config(archive), tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "moved")
    raw = download(folder_config(archive), tmp_path / "moved")
    assert raw.root.is_relative_to(tmp_path / "moved")
    assert (raw.root / FILES[0]).is_file()


def test_archive_with_a_wrapper(tree: Tree, tmp_path: Path, pack, snapshot):
    files = {f"top/{name}": content for name, content in snapshot(tree(*FILES)).items()}
    raw = download(folder_config(pack(tmp_path / "d.tar.xz", files.items())), tmp_path / "cache")
    assert raw.root.name == "top"
    assert read_index(raw.index)[0].path == "test/a/1.png"


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "not there"),
    "text": (lambda path: path.write_text("nothing"), "cannot be unpacked"),
    "no image": (lambda path: zip_of(path, {"a/1.txt": b""}), "no image file"),
    "zip slip": (lambda path: zip_of(path, {"../../1.png": b""}), "leads out"),
    "one class": (lambda path: zip_of(path, {"a/1.png": b"", "a/2.png": b""}), "one class"),
}


def zip_of(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", BAD)
def test_bad_archive_leaves_no_index(name: str, tree: Tree, tmp_path: Path, snapshot):
    make, words = BAD[name]
    cache = tmp_path / "cache"
    good = download(folder_config(tree(*FILES)), cache)
    make(tmp_path / "data.zip")
    before = snapshot(cache / "raw")
    with pytest.raises(DataError, match=words) as caught:
        download(folder_config(tmp_path / "data.zip"), cache)
    assert str(caught.value).count("\n") <= 1
    assert snapshot(cache / "raw") == before
    assert good.index.is_file()
    assert not list(cache.rglob(".*"))


def test_wrong_digest_of_a_local_archive(tmp_path: Path):
    zip_of(tmp_path / "data.zip", {"a/1.png": b""})
    with pytest.raises(DataError, match="has sha256"):
        download(folder_config(tmp_path / "data.zip", sha256="0" * 64), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import ResourceError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with EFBIG
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    download(DataConfig(kind="folder", path=sys.argv[1]), Path(sys.argv[2]))
except ResourceError as error:
    sys.exit(str(error))
"""


def test_disk_that_takes_no_more_is_a_resource_error(tmp_path: Path, repository: Path):
    zip_of(tmp_path / "data.zip", {"a/1.png": bytes(500), "a/2.png": bytes(5000)})
    arguments = [sys.executable, "-c", FULL_DISK, tmp_path / "data.zip", tmp_path / "cache"]
    ended = subprocess.run(arguments, cwd=repository, capture_output=True, text=True, check=False)
    assert "The disk is full while writing" in ended.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_images_that_are_gone_by_the_time_they_are_hashed_are_counted_and_named(tree: Tree):
    root = tree("a/1.png", "b/1.png")
    images = [ListedImage(f"{name}/{k}.png", name, "", "") for name in "ab" for k in (1, 2)]
    with pytest.raises(DataError, match=r"^2 images cannot be read: .*a/2.png, .*b/2.png.\nCheck"):
        hashed_records(Listing(root, tuple(images), (), 0), ("a", "b"))


def test_core_imports_without_the_heavy_packages(repository: Path):
    code = (
        "import sys, tasks.download.source\n"
        "heavy = 'torch pandas pyarrow sklearn scipy prefect mlflow'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", code]
    ended = subprocess.run(arguments, cwd=repository, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_images_that_the_cache_lost_are_there_again(tree: Tree, tmp_path: Path, pack, snapshot):
    archive = pack(tmp_path / "data.zip", snapshot(tree(*FILES)).items())
    for config in (folder_config(archive), DataConfig(kind="digits")):
        first = download(config, tmp_path / "cache")
        lost = first.root / read_index(first.index)[0].path
        whole = snapshot(tmp_path)
        lost.unlink()
        assert not is_present(first)  # so that the flow asks for them again
        assert is_present(download(config, tmp_path / "cache"))
        lost.unlink()
        first.index.unlink()  # a new index must not miss them
        assert download(config, tmp_path / "cache") == first
        assert snapshot(tmp_path) == whole


def test_cache_behind_a_link(tree: Tree, tmp_path: Path, pack, snapshot):
    archive = pack(tmp_path / "data.zip", snapshot(tree(*FILES)).items())
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = folder_config(archive, train="train", val="test")
    raw = download(config, tmp_path / "link")
    assert raw.counts == {"train": 4, "val": 1}
    assert raw == download(config, tmp_path / "real")


def test_folder_that_is_no_utf8_is_refused_in_words(tree: Tree, tmp_path: Path, snapshot):
    odd = tmp_path / os.fsdecode(b"odd \xff")
    tree(*FILES, root=odd.name)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"odd \\udcff is no UTF-8"):
        download(folder_config(odd), tmp_path / "cache")
    with pytest.raises(ConfigError, match="no UTF-8"):
        download(folder_config(tree(*FILES)), odd / "cache")
    tree(root="data")
    assert snapshot(odd) == {
        name.partition("/")[2]: content
        for name, content in before.items()
        if name.startswith(odd.name)
    }


def test_cache_that_is_a_file_is_a_resource_error(tree: Tree, tmp_path: Path, pack, snapshot):
    archive = pack(tmp_path / "data.zip", snapshot(tree(*FILES)).items())
    (tmp_path / "cache").write_bytes(b"")
    for config in (folder_config(archive), folder_config(tree(*FILES)), DataConfig(kind="digits")):
        with pytest.raises(ResourceError, match="Cannot write"):
            download(config, tmp_path / "cache")


def test_files_left_out_are_counted_and_the_first_named(tree: Tree, tmp_path: Path):
    names = [f"train/a/{number:02d}.gif" for number in range(25)]
    raw = download(folder_config(tree(*FILES, *names)), tmp_path / "cache")
    assert (raw.ignored_count, raw.ignored) == (25, tuple(names[:20]))


def test_hashing_holds_no_more_than_the_list_of_digests(tmp_path: Path):
    (tmp_path / "one.png").write_bytes(b"image")
    n = 5_000
    images = tuple(ListedImage("one.png", "a", "train", "") for _ in range(n))
    listing = Listing(tmp_path, images, (), 0)
    hashed_records(listing, ("a",))  # whatever is imported and cached by the first
    tracemalloc.start()
    try:
        records = hashed_records(listing, ("a",))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {record.sha256 for record in records} == {sha256_bytes(b"image")}
    assert len(records) == n
    assert (peak - held) / n < 700  # bytes an image; all handed out at once it was 1,900
