"""Which folder a run is resumed in: of those that were begun with the same values."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tasks import resuming
from tasks.config import OutputConfig, RunConfig
from tasks.configfile import dump_config
from tasks.errors import ConfigError, ResourceError
from tasks.public import public_config
from tasks.resuming import place_of
from tasks.unfinished import FOLDER, MODEL, write_begun


@pytest.fixture
def config(tmp_path: Path, make_config) -> RunConfig:
    return make_config(output=OutputConfig(folder=tmp_path / "runs").model_dump())


@pytest.fixture(autouse=True)
def quick_code(monkeypatch):
    monkeypatch.setattr(resuming, "code_digest", lambda _: "0" * 64)


def broken_off(config: RunConfig) -> Path:
    """Leave a run that can go on."""
    with suppress(KeyboardInterrupt), place_of(config, False) as place:
        (place.inner / MODEL).write_text("{}")
        raise KeyboardInterrupt
    return place.folder


def resumed(config: RunConfig) -> Path:
    with place_of(config, True) as place:
        return place.folder


def refused(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught, place_of(config, True):
        pass
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


def test_the_newest_that_is_free_and_of_this_code_is_taken(config, monkeypatch):
    oldest, older = broken_off(config), broken_off(config)
    assert resumed(config) == older
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "code_digest", lambda _: "1" * 64)
        newest = broken_off(config)
        assert resumed(config) == newest
    assert resumed(config) == older
    with place_of(config, True):
        assert resumed(config) == oldest


def test_dates_of_files_copies_and_a_clock_set_back_make_no_other_the_newest(config, monkeypatch):
    older, newer = broken_off(config), broken_off(config)
    for folder, date in ((older, 10**9), (newer, 0)):
        os.utime(folder / FOLDER / "begun.json", (date, date))
        os.utime(folder, (date, date))
    assert resumed(config) == newer
    shutil.copytree(newer, newer.with_name(f"{newer.name}-copy"))
    shutil.copytree(older, older.with_name("a copy"))
    assert resumed(config) == newer
    with monkeypatch.context() as patch:
        patch.setattr(resuming.time, "time", lambda: 10**9)
        newest = [broken_off(config), broken_off(config)]
    assert resumed(config) == newest[-1]
    shutil.rmtree(newest[-1])
    assert resumed(config) == newest[0]
    assert (older.is_dir(), newer.is_dir()) == (True, True)


def test_what_holds_up_the_newest_is_said_where_none_is_free(config, monkeypatch):
    older, newest = broken_off(config), broken_off(config)
    with place_of(config, True), place_of(config, True):
        assert f"The run in {newest} still goes on" in refused(config)
    monkeypatch.setattr(resuming, "code_digest", lambda _: "1" * 64)
    assert f"{newest} was begun with other code" in refused(config)
    assert older.is_dir()


def test_a_run_that_was_finished_meanwhile_is_not_begun_again(config, monkeypatch):
    """Between the look at the folders and the lock."""
    broken_off(config)
    (seen,) = resuming._unfinished(Path(config.output.folder))
    monkeypatch.setattr(resuming, "_unfinished", lambda _: [seen])
    with place_of(config, True) as place:
        place.finish()
        assert "still goes on" in refused(config)
    assert not place.inner.exists()
    done = f"The run in {place.folder} is finished"
    assert done in refused(config)
    other = seen.begun.model_copy(update={"token": "another"})
    write_begun(place.folder, other)
    (place.inner / "lock").touch()
    assert done in refused(config)
    (place.inner / "begun.json").unlink()
    assert done in refused(config)


def test_a_stop_after_the_end_takes_nothing_away(config):
    with suppress(KeyboardInterrupt), place_of(config, False) as place:
        place.finish()
        raise KeyboardInterrupt
    assert [path.name for path in place.folder.iterdir()] == ["config.yaml"]


def test_what_a_kill_in_the_last_moment_leaves_is_removed(config):
    folder = broken_off(config)
    (folder / "report.json").write_text("{}")
    (folder / FOLDER / "begun.json").unlink()
    fresh = folder.with_name("fresh-20260101-000000")
    (fresh / FOLDER).mkdir(parents=True)  # of a run that begins just now
    assert "is finished" in refused(config)
    assert not (folder / FOLDER).exists()
    assert (fresh / FOLDER).is_dir()


def test_others_folders_that_cannot_be_read_are_passed_over(config):
    folder = broken_off(config)
    for name, content in ((f"{config.name}-a", b"\xff\xfe"), (f"{config.name}-z", b"x: y\n")):
        other = folder.with_name(name)
        other.mkdir()
        (other / "config.yaml").write_bytes(content)
        (other / "report.json").write_text("{}")
    (folder.with_name("odd") / FOLDER).mkdir(parents=True)
    (folder.with_name("odd") / FOLDER / "begun.json").write_bytes(b"\xff")
    assert resumed(config) == folder
    (folder / "config.yaml").write_text(dump_config(public_config(config)))
    (folder / FOLDER / "begun.json").unlink()
    (folder / "report.json").write_text("{}")
    assert f"The run in {folder} is finished" in refused(config)


def test_a_folder_that_cannot_be_removed_hides_no_error(config, monkeypatch):
    def busy(*_: object, **__: object) -> None:
        raise OSError("busy")

    def stopped_early() -> None:
        with place_of(config, False):
            monkeypatch.setattr(os, "rmdir", busy)
            raise ValueError("early")

    with pytest.raises(ValueError, match="early"):
        stopped_early()


def test_a_lock_that_cannot_be_opened_is_named(config):
    lock = broken_off(config) / FOLDER / "lock"
    lock.unlink()
    lock.symlink_to(lock)
    with pytest.raises(ResourceError) as caught, place_of(config, True):
        pass
    assert str(caught.value).startswith(f"Cannot write {lock}: ")


def test_the_lock_is_opened_as_nfs_wants_it(config, monkeypatch):
    """There a file that is open for reading alone cannot be locked."""
    opened, before = {}, os.open

    def noting(path, flags, *given, **named):
        opened[Path(path).name] = flags
        return before(path, flags, *given, **named)

    monkeypatch.setattr(os, "open", noting)
    with place_of(config, False):
        pass
    assert opened["lock"] & os.O_ACCMODE == os.O_RDWR


def test_what_differs_is_told_by_its_place():
    for ours, theirs, places in (
        ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, []),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 3}}}, ["a.b.d"]),
        ({"a": {"b": 1}}, {"a": None}, ["a"]),
        ({"a": None}, {"a": {"b": 1}}, ["a"]),
        ({"a": 1}, {"b": 2}, ["a", "b"]),
        ({"output": 1, "a": {"output": 1}}, {"output": 2, "a": {"output": 2}}, ["a.output"]),
    ):
        assert sorted(resuming._differing(ours, theirs)) == places


def test_a_folder_that_cannot_be_emptied_costs_no_run(config, monkeypatch, caplog):
    monkeypatch.setattr(resuming.shutil, "rmtree", lambda *_, **__: None)
    with place_of(config, False) as place:
        place.finish()
    assert "could not be removed" in caplog.text
