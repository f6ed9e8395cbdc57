"""Errors as they cross from one process to another."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tasks import errors
from tasks.errors import GraftError, ResourceError, TrainingError, TransientDataError
from tasks.finetune.trouble import as_error, as_words, read_words, told_by, write_first


class RareError(TransientDataError):
    """Of a kind that only this module knows."""


def test_an_error_comes_back_as_it_was():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, GraftError)]
    assert len(kinds) > 8
    for kind in kinds:
        found = as_error(as_words(kind("a\nb")))
        assert (type(found), str(found)) == (kind, "a\nb")
    assert type(as_error(as_words(RareError("a")))) is TransientDataError


@pytest.mark.parametrize(
    "words",
    [
        '{"kind": "Terminated", "text": "SIGTERM"}',  # in the same module, and no such error
        '{"kind": "annotations", "text": ""}',
        '{"kind": "NewError", "text": "of another version"}',
        '{"kind": "DataError"}',
        '{"kind": "DataErr',
        "",
    ],
)
def test_what_is_no_error_of_grafts_is_one_itself(words: str):
    found = as_error(words)
    assert isinstance(found, ResourceError)
    assert repr(words) in str(found)
    assert len(str(found).splitlines()) == 2
    assert told_by(words) is None


def test_the_first_is_kept(tmp_path: Path):
    path = tmp_path / "problem"
    assert read_words(path) is None
    for words in ("first", "second"):
        write_first(path, words)
    assert read_words(path) == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_takes_nothing_holds_nothing_and_hides_no_error(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, before[1]))
    try:
        write_first(tmp_path / "problem", "longer than that")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_who_told_it_is_told():
    assert [told_by(as_words(TrainingError("x"), n)) for n in (0, 3, None)] == [0, 3, None]
