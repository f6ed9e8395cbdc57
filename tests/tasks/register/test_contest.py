"""Which images are behind a new version: those of its start and of its teacher, as they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tasks.artifacts import sha256_bytes
from tasks.register.contest import inherited_images, learned_by, read_learned
from tasks.register.files import SHA256
from tasks.register.learned import LEARNED, LEARNED_FILE, PARTLY, Learned
from tests.tasks.register.conftest import images_of

A, B, C, D = (digit * 64 for digit in "abcd")


@dataclass(frozen=True)
class Store:
    """A registry of versions that have a list of images and nothing else."""

    add: Callable[..., Path]
    behind: Callable[..., tuple[list[int], bool]]


def listed(learned: Learned) -> list[int]:
    return sorted(images_of(learned))


@pytest.fixture
def lists(store, strong, tmp_path) -> Store:
    store.create_registered_model("m")

    def add(sha256: str, images: list[int] | None, **tags: str) -> Path:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        file = folder / LEARNED_FILE
        file.parent.mkdir(parents=True)
        if images is not None:
            Learned((np.array(images, np.uint64),)).write(file)
            tags[LEARNED] = sha256_bytes(file.read_bytes())
        store.create_model_version("m", folder.as_uri(), tags={SHA256: sha256, **tags})
        return file

    def behind(start: str | None, teacher: str | None, weights: str | None = None):
        given = {"backbone_sha256": start, "teacher_sha256": teacher}
        model = strong.config.model.model_copy(update={"weights": weights})
        config = strong.config.model_copy(update={"model": model})
        found = inherited_images(store, config, strong.model.model_copy(update=given))
        return listed(found), found.complete

    return Store(add, behind)


def test_start_and_teacher_count_and_what_is_not_known_hides_nothing_that_is(lists):
    lists.add(A, [1, 2])
    lists.add(A, [3])  # the same weights, registered again
    lists.add(B, [2, 4])
    lists.add(C, None)
    lists.add(D, [9], **{PARTLY: "true"})
    assert lists.behind(None, None) == ([], True)
    assert lists.behind(A, None) == ([1, 2, 3], True)
    assert lists.behind(None, B) == ([2, 4], True)
    assert lists.behind(A, B) == ([1, 2, 3, 4], True)
    assert lists.behind(C, B) == ([2, 4], False)
    assert lists.behind(B, C) == ([2, 4], False)
    assert lists.behind(D, None) == ([9], False)


def test_weights_of_no_version_have_seen_nothing_unless_one_was_named(lists):
    lists.add(A, [1])
    assert lists.behind(B, None) == ([], True)  # a file from elsewhere
    assert lists.behind(B, None, weights="models:/m@champion") == ([], False)  # deleted since
    assert lists.behind(None, B) == ([], False)
    assert lists.behind(A, B) == ([1], False)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_list_leaves_the_others(lists, caplog, lost: int):
    files = [lists.add(A, [1]), lists.add(A, [2])]
    files[lost].unlink()
    assert lists.behind(A, None) == ([2 - lost], False)
    assert "is not known" in caplog.text


def test_a_list_in_part_is_not_taken_for_the_whole(lists, store):
    lists.add(A, [1])
    lists.add(B, [2], **{PARTLY: "true"})
    lists.add(C, None)
    whole, part, none = (store.get_model_version("m", str(n)) for n in (1, 2, 3))
    assert listed(read_learned(whole)) == listed(learned_by(whole)) == [1]
    assert read_learned(part) is read_learned(none) is None
    assert (listed(learned_by(part)), learned_by(part).complete) == ([2], False)
    assert (listed(learned_by(none)), learned_by(none).complete) == ([], False)
