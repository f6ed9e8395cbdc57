"""Folders in which runs begin: whole or not there, whatever the disk was asked for last."""

from __future__ import annotations

import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tasks import runfolder
from tasks.config import DataConfig, OutputConfig, RunConfig
from tasks.configfile import load_config
from tasks.runfolder import begin_folder, run_folder
from tasks.unfinished import Begun, write_begun
from tasks.use import in_use


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(data=DataConfig(kind="digits"), output=OutputConfig(folder=tmp_path / "runs"))


def begun(token: str) -> Begun:
    return Begun(token=token, config="0" * 64, code="0" * 64, shown={})


def killed_at(number: int, config: RunConfig) -> bool:
    """Begin in a forked process that dies at so many events of the disk; say whether it did."""
    pid = os.fork()
    if pid == 0:
        left = [number]

        def count(event: str, arguments: tuple[object, ...]) -> None:
            on_disk = event in ("os.mkdir", "os.rename", "os.remove")
            if on_disk or (event == "open" and str(config.output.folder) in str(arguments[0])):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        begin_folder(config, begun("t"))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def looked_at(folder: Path) -> str:
    """See that a folder has all that begins a run; return whose it is."""
    assert {path.name for path in folder.iterdir()} == {"config.yaml", ".unfinished"}
    assert {path.name for path in (folder / ".unfinished").iterdir()} == {"begun.json", "lock"}
    assert load_config(folder / "config.yaml").data.kind == "digits"
    return Begun.model_validate_json((folder / ".unfinished" / "begun.json").read_bytes()).token


def test_a_beginning_that_is_killed_leaves_a_whole_folder_or_what_the_next_removes(config):
    root, number, whole = config.output.folder, 1, 0
    while killed_at(number, config):
        there = list(root.glob("[!.]*")) if root.exists() else []
        assert [looked_at(folder) for folder in there] == ["t"] * len(there)
        whole, number = len(there), number + 1
    assert number > 8  # two folders, two files and their parts, the rename
    assert whole >= 1  # what is killed after the rename is there
    there = set(root.glob("[!.]*"))
    folder = begin_folder(config, begun("next"))
    assert looked_at(folder) == "next"
    assert set(root.iterdir()) == {*there, folder}


def test_a_folder_of_a_run_that_is_not_gone_on_with_has_its_config_and_goes_on_an_error(config):
    with run_folder(config) as folder:
        assert folder.parent == config.output.folder
        assert re.fullmatch(rf"{config.name}-\d{{8}}-\d{{6}}", folder.name)
        assert [path.name for path in folder.iterdir()] == ["config.yaml"]
        assert load_config(folder / "config.yaml") == config
    assert folder.is_dir()
    with pytest.raises(KeyboardInterrupt), run_folder(config) as other:
        raise KeyboardInterrupt
    assert other != folder
    assert list(config.output.folder.iterdir()) == [folder]


def test_of_runs_of_one_second_each_has_a_folder(config, monkeypatch):
    monkeypatch.setattr(runfolder, "_name", lambda _: "run")
    tokens = [f"{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(partial(begin_folder, config), map(begun, tokens)))
    assert [looked_at(folder) for folder in folders] == tokens
    names = {"run", *(f"run-{number}" for number in range(2, 9))}
    assert {path.name for path in config.output.folder.iterdir()} == names


def test_a_run_that_came_first_and_is_over_already_keeps_its_folder(config, monkeypatch):
    first = config.output.folder / "run"

    def written(scratch: Path, begun: Begun) -> None:
        write_begun(scratch, begun)
        if not first.exists():
            first.mkdir()
            (first / "report.json").touch()

    monkeypatch.setattr(runfolder, "_name", lambda _: "run")
    monkeypatch.setattr(runfolder, "write_begun", written)
    assert looked_at(begin_folder(config, begun("t"))) == "t"
    assert [path.name for path in first.iterdir()] == ["report.json"]
    assert {path.name for path in config.output.folder.iterdir()} == {"run", "run-2"}


def test_a_beginning_that_goes_on_is_left_alone(config):
    root = config.output.folder
    scratch = root / ".run.12345678"
    scratch.mkdir(parents=True)
    with in_use([scratch]):
        begin_folder(config, begun("t"))
        assert scratch.is_dir()
    assert scratch.is_dir()  # its lock went with it: it is nobody's beginning
    (root / "..run.12345678.lock").touch()
    begin_folder(config, begun("u"))
    assert not scratch.exists()
    assert not list(root.glob(".*"))


def test_what_cannot_be_removed_holds_no_run_up(config):
    locked = config.output.folder / "..run.12345678.lock"
    locked.mkdir(parents=True)  # nobody can open it to lock it
    (config.output.folder / "..run.87654321.lock").touch()  # killed before it made a folder
    assert looked_at(begin_folder(config, begun("t"))) == "t"
    assert list(config.output.folder.glob(".*")) == [locked]
