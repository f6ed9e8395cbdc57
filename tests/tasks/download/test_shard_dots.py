"""Images with dots in their names: packed whole, and in tars of others never lost unsaid."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download.shard_dots import MOST
from tasks.download.shard_tar import Entry, read_entries
from tasks.download.shard_write import write_shards
from tasks.errors import DataError


def entries(*names: str) -> list[Entry]:
    """Return what is read of a tar of such files, each with its own name in it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            content = b'{"label": "x"}' if name.endswith(".json") else name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    file.seek(0)
    return list(read_entries(file, "The tar"))


@pytest.mark.parametrize(
    "names",
    [
        ("a.b.jpg", "a.b.cls"),
        ("a.b.jpg",),
        ("a.jpg", "a.cls", "x/b.2.JPG", "x/b.2.cls"),
        ("b.2020.01.jpg", "b.2020.01.json", "c.jpg", "c.cls"),
        ("a.jpg", "a.cls", "a.1.jpg", "a.1.cls"),
        ("a.1.cls", "a.1.jpg", "a.cls", "a.jpg"),
        tuple(f"a.{n}.jpg" for n in range(MOST + 1)),
    ],
    ids=lambda names: names[0] + str(len(names)),
)
def test_an_image_that_no_sample_would_have_is_named(names: tuple[str, ...]):
    with pytest.raises(DataError, match=r"that no sample would have.*\nWrite the tar") as raised:
        entries(*names)
    assert any(repr(name) in str(raised.value) for name in names if name.lower().endswith("jpg"))


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("a.jpg", "a.cls", "a.mask.png", "b.depth.png", "b.jpg", "b.cls"), ["a.jpg", "b.jpg"]),
        (("v1.2/a.jpg", "v1.2/a.cls"), ["v1.2/a.jpg"]),
        (("._a.jpg", ".b.png", "a.jpg", "a.cls"), ["a.jpg"]),
        (("__meta__.json", "__x__/a.jpg", "a.jpg", "a.cls"), ["a.jpg"]),
        (("__0001.jpg", "__0001.cls"), ["__0001.jpg"]),
        (("README.v2.txt", "info.v2.json", "a.jpg", "a.cls", "a.x.json"), ["a.jpg"]),
    ],
    ids=str,
)
def test_parts_of_other_kinds_are_passed_over(names: tuple[str, ...], images: list[str]):
    assert [entry.image.decode() for entry in entries(*names)] == images


def test_files_with_dots_are_packed_with_their_names(tree, tmp_path: Path):
    source = tree(*(f"{name}/x.{number}.y.png" for name in "ab" for number in range(10)))
    config = DataConfig(kind="folder", path=str(source))
    made = write_shards(config, 0, tmp_path / "cache", str(tmp_path / "shards"))
    found = []
    for shard in made.index.shards:
        with (tmp_path / "shards" / shard.name).open("rb") as file:
            found += [(entry.path, entry.image) for entry in read_entries(file, shard.name)]
    wanted = [(str(p.relative_to(source)), p.read_bytes()) for p in source.rglob("*.png")]
    assert sorted(found) == sorted(wanted)
