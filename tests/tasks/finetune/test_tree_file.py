"""Nests of tensors on disk: what comes back, what is left, and what is refused."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tasks.artifacts import sha256_bytes, sha256_file
from tasks.errors import ResourceError
from tasks.finetune import tree_file
from tasks.finetune.tree_file import DamagedError, read_tree, remove_tree, tree_bytes, write_tree

PLAIN = {
    "none": None, 3: [True, 2, 0.1, float("inf"), "text"], "empty": {}, "pair": (1, ("a", [])),
    "$tensor": "a key of the format's own", "$pairs": [], "$tuple": (),
}  # fmt: skip


def there(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(one: object, other: object) -> bool:
    """Compare with types: a tuple is no list, and True is not 1."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        laid = one.dtype == other.dtype and one.stride() == other.stride()
        return laid and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_what_was_written_comes_back_with_its_types(tmp_path: Path):
    weights = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tree = PLAIN | {
        "laid out": [weights, torch.randn(4, 3).t()],
        "kinds": (torch.arange(5), torch.tensor(True), torch.randn(3).bfloat16(), torch.zeros(0)),
        "shared": [weights, weights[0]],
    }
    write_tree(tmp_path, "point", tree)
    assert same(read_tree(tmp_path, "point"), tree)


def test_a_parameter_comes_back_as_a_tensor_that_needs_no_gradient(tmp_path: Path):
    write_tree(tmp_path, "point", [torch.ones(2, requires_grad=True)])
    (found,) = read_tree(tmp_path, "point")
    assert not found.requires_grad
    assert found.tolist() == [1, 1]


def test_two_tensors_of_one_memory_come_back_apart(tmp_path: Path):
    whole = torch.arange(6.0)
    write_tree(tmp_path, "point", {"whole": whole, "again": whole, "part": whole[2:4]})
    found = read_tree(tmp_path, "point")
    found["whole"].zero_()
    assert found["again"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["part"].tolist() == [2, 3]


def test_a_tensor_that_shares_nothing_is_not_copied():
    whole, tensors = torch.arange(6.0), {}
    tree_file._plain([whole, whole[2:4]], tensors, set())
    assert tensors["0"].data_ptr() == whole.data_ptr()
    assert tensors["1"].data_ptr() != whole[2:4].data_ptr()


def test_the_files_are_named_and_signed_as_documented(tmp_path: Path):
    write_tree(tmp_path, "point", {"a": torch.ones(3)})
    digest, body = (tmp_path / "point.json").read_bytes().split(b"\n")
    assert digest.decode() == sha256_bytes(body)
    named = json.loads(body)["tensors"]
    assert there(tmp_path) == [f"point-{named[:16]}.safetensors", "point.json"]
    assert sha256_file(tmp_path / f"point-{named[:16]}.safetensors") == named


def test_what_an_older_graft_has_written_is_read(tmp_path: Path):
    save_file({"0": torch.arange(4.0).reshape(2, 2)}, tmp_path / "scratch")
    digest = sha256_file(tmp_path / "scratch")
    (tmp_path / "scratch").rename(tmp_path / f"point-{digest[:16]}.safetensors")
    tensor = {"$tensor": "0", "stride": [1, 2]}
    tree = {"$pairs": [[7, {"$tuple": [True, [tensor]]}]]}
    body = json.dumps({"tensors": digest, "tree": tree}).encode()
    (tmp_path / "point.json").write_bytes(sha256_bytes(body).encode() + b"\n" + body)
    expected = {7: (True, [torch.tensor([[0.0, 1.0], [2.0, 3.0]]).t().contiguous().t()])}
    assert same(read_tree(tmp_path, "point"), expected)


def test_the_one_before_goes_and_what_is_of_others_stays(tmp_path: Path):
    (tmp_path / "other-1.safetensors").touch()
    for value in (1.0, 2.0, 2.0):
        write_tree(tmp_path, "point", [torch.full((3,), value)])
        assert len(there(tmp_path)) == 3
        assert read_tree(tmp_path, "point")[0].tolist() == [value] * 3
    remove_tree(tmp_path, "point")
    remove_tree(tmp_path, "point")  # nothing was there
    assert there(tmp_path) == ["other-1.safetensors"]
    assert read_tree(tmp_path, "point") is None


def test_the_size_is_that_of_the_tensors():
    tree = {"a": torch.zeros(3), "b": [torch.zeros(2, 2, dtype=torch.uint8), (torch.zeros(1),)]}
    assert tree_bytes(tree) == 12 + 4 + 4
    assert tree_bytes({"a": "text", "b": 7}) == 0


def test_no_object_is_written(tmp_path: Path):
    with pytest.raises(AssertionError, match="Path is no plain value"):
        write_tree(tmp_path, "point", [tmp_path])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {"changed": flip, "empty": lambda path: path.write_bytes(b""), "a folder": as_folder}


@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, damage: str, suffix: str):
    write_tree(tmp_path, "point", [torch.ones(3)])
    (path,) = tmp_path.glob(f"point*{suffix}")
    DAMAGES.get(damage, Path.unlink)(path)
    if (damage, suffix) == ("gone", ".json"):
        assert read_tree(tmp_path, "point") is None
        return
    with pytest.raises(DamagedError) as caught:
        read_tree(tmp_path, "point")
    assert str(caught.value) == str(path)


def test_tensors_that_are_signed_and_none_are_refused(tmp_path: Path):
    body = json.dumps({"tensors": sha256_bytes(b"none"), "tree": []}).encode()
    (tmp_path / "point.json").write_bytes(sha256_bytes(body).encode() + b"\n" + body)
    (tmp_path / f"point-{sha256_bytes(b'none')[:16]}.safetensors").write_bytes(b"none")
    with pytest.raises(DamagedError, match="safetensors"):
        read_tree(tmp_path, "point")


def test_a_full_disk_is_said_and_leaves_the_one_before(tmp_path: Path):
    write_tree(tmp_path, "point", ["before"])
    before = there(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ResourceError) as caught:
            write_tree(tmp_path, "point", [torch.zeros(10_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"full while writing {tmp_path / 'point.json'}" in str(caught.value)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert caught.value.__cause__.strerror == "File too large"
    assert there(tmp_path) == before
    assert read_tree(tmp_path, "point") == ["before"]


def test_what_safetensors_says_else_is_raised_as_it_is(tmp_path: Path, monkeypatch):
    places = []

    def odd(_: object, place: str) -> None:
        places.append(Path(place))
        raise SafetensorError("no system's error")

    monkeypatch.setattr("safetensors.torch.save_file", odd)
    with pytest.raises(SafetensorError, match="no system's error"):
        write_tree(tmp_path, "point", [torch.ones(1)])
    assert there(tmp_path) == []
    (place,) = places
    assert place.parent == tmp_path  # on the disk that it is renamed on
    assert place.name.startswith(".point.")  # what a killed process leaves is swept by its dot


def test_a_stop_when_the_tensors_have_just_taken_their_place_is_that_stop(tmp_path, monkeypatch):
    def stopped_after(path: Path, target: Path) -> None:
        path.rename(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped_after)
        with pytest.raises(KeyboardInterrupt):
            write_tree(tmp_path, "point", [torch.ones(1)])
    assert read_tree(tmp_path, "point") is None
    remove_tree(tmp_path, "point")
    assert there(tmp_path) == []
