"""Bad input ends in one or two lines and an exit code, and leaves everything as it was."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("unchanged")

Make = Callable[[Path], list[str]]


class Evil:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


SMALL = ("--model", "models:/small/1")  # other tests may have made more champions


def override(*values: str) -> Make:
    return lambda _: ["run", "good.yaml", *values]


def config_text(text: str) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / "bad.yaml").write_text(text)
        return ["run", str(folder / "bad.yaml")]

    return make


def photos(change: Callable[[Path], object]) -> Make:
    """Copy the good photos, change the copy, and run on it."""

    def make(folder: Path) -> list[str]:
        shutil.copytree("photos", folder / "photos")
        change(folder / "photos")
        return ["run", "good.yaml", f"data.path={folder / 'photos'}"]

    return make


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def one_class(folder: Path) -> None:
    shutil.rmtree(folder / "red")


def one_image(folder: Path) -> None:
    for path in sorted((folder / "red").iterdir())[1:]:
        path.unlink()


def none_readable(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_text(f"{path} is no image")


def bad_ones(folder: Path) -> None:
    whole = folder / "red" / "whole.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    content = whole.read_bytes()
    whole.unlink()
    (folder / "red" / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "blue" / "zero.png").write_bytes(b"")
    (folder / "blue" / "text.jpg").write_text("not an image")


def leak(folder: Path) -> None:
    for split in ("train", "test"):
        for name in ("blue", "red"):
            (folder / split / name).mkdir(parents=True)
    for name in ("blue", "red"):
        for i, path in enumerate(sorted((folder / name).iterdir())):
            path.rename(folder / ("test" if i < 5 else "train") / name / path.name)
        (folder / name).rmdir()
    shutil.copy(folder / "train" / "red" / "9.png", folder / "test" / "red" / "again.png")


def manifest(folder: Path) -> list[str]:
    (folder / "list.csv").write_text("path,label\nnowhere/a.png,red\nnowhere/b.png,blue\n")
    return ["run", "good.yaml", "data.kind=manifest", f"data.path={folder / 'list.csv'}"]


def weights(save: Callable[[Path], object], *more: str) -> Make:
    def make(folder: Path) -> list[str]:
        path = folder / "weights.pth"
        save(path)
        values = (f"model.weights={path}", "strategy.kind=full", *more)
        return ["run", "good.yaml", *values]

    return make


def pickled_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Evil()}))


def of_another_network(path: Path) -> None:
    import torch

    torch.save({"conv.weight": torch.zeros(3, 3)}, path)


CASES: dict[str, tuple[Make, int, list[str]]] = {
    # the config
    "config not found": (lambda _: ["run", "nosuch.yaml"], 2, ["nosuch.yaml", "cannot be read"]),
    "config is a folder": (lambda folder: ["run", str(folder)], 2, ["cannot be read"]),
    "config is not YAML": (config_text("a: [b"), 2, ["not YAML", "line"]),
    "config is a list": (config_text("- a"), 2, ["not a mapping"]),
    "wrong type": (override("training.epochs=three"), 2, ["training.epochs", "integer"]),
    "unknown key": (override("training.epoch=3"), 2, ["Did you mean training.epochs?"]),
    "no equals sign": (override("training.epochs"), 2, ["key=value"]),
    "settings that clash": (override("strategy.kind=full"), 2, ["model.weights"]),
    "a floor on no figure": (
        override('promotion.floors={"recall[read]": 0.5, "accuracy[fog:3]": 0.5}'),
        2,
        ["names recall[read] (the nearest are recall[red]", "accuracy[fog:3]"],
    ),
    "unknown option": (lambda _: ["run", "good.yaml", "--fast"], 2, ["--fast"]),
    "unknown command": (lambda _: ["rum"], 2, ["rum"]),
    "no config": (lambda _: ["run"], 2, ["CONFIG"]),
    # the data
    "folder missing": (override("data.path=nowhere"), 3, ["nowhere"]),
    "folder empty": (photos(empty), 3, ["photos"]),
    "one class": (photos(one_class), 3, ["class"]),
    "a class with one image": (photos(one_image), 3, ["red"]),
    "no readable image": (photos(none_readable), 3, ["40 of 40 images"]),
    "all bad images at once": (photos(bad_ones), 3, ["truncated.jpg", "zero.png", "text.jpg"]),
    "the same image in train and test": (photos(leak), 3, ["exact_duplicates", "again.png"]),
    "several checks of the data": (
        lambda folder: [
            *photos(leak)(folder),
            *("data.checks.tiny_classes=fail", "data.checks.tiny_class=100"),
        ],
        3,
        ["exact_duplicates: 1", "tiny_classes: 2", "graft check --json"],
    ),
    "manifest names no file": (manifest, 3, ["nowhere/a.png"]),
    "archive has another digest": (
        lambda folder: [
            *("run", "good.yaml"),
            f"data.path={shutil.make_archive(str(folder / 'photos'), 'zip', 'photos')}",
            f"data.sha256={'0' * 64}",
        ],
        3,
        ["photos.zip"],
    ),
    # the weights
    "weights missing": (weights(lambda _: None), 4, ["weights.pth"]),
    "weights of another digest": (
        weights(of_another_network, f"model.sha256={'0' * 64}"),
        4,
        ["weights.pth"],
    ),
    "weights with code in them": (weights(pickled_code), 4, ["weights.pth"]),
    "weights of another network": (weights(of_another_network), 4, ["conv.weight"]),
    "unknown architecture": (override("model.architecture=resnet999"), 4, ["resnet999"]),
    # training
    "loss becomes NaN": (
        override("training.learning_rate=1e30", "training.epochs=3"),
        5,
        ["learning_rate"],
    ),
    # the registry
    "no such model": (
        override("model.weights=models:/nosuch@champion", "strategy.kind=full"),
        7,
        ["nosuch"],
    ),
    "no such version": (
        lambda _: ["evaluate", "good.yaml", "--model", "models:/small/99"],
        7,
        ["99"],
    ),
    "no such image": (lambda _: ["predict", "nowhere.png", *SMALL], 3, ["nowhere.png"]),
    "a text file to predict": (lambda _: ["predict", "good.yaml", *SMALL], 3, ["good.yaml"]),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_two_lines(workspace: Path, tmp_path: Path, graft, case: str):
    make, code, words = CASES[case]
    result = graft(*make(tmp_path))
    assert result.code == code, result.err
    assert all(word in result.message for word in words), result.message
    assert len(result.message.splitlines()) <= 2
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not list(workspace.rglob("evil-was-here"))


@pytest.mark.parametrize("name", ["folder missing", "unknown key", "no such model"])
def test_a_refusal_as_json(workspace: Path, tmp_path: Path, graft, name: str):
    make, code, words = CASES[name]
    result = graft(*make(tmp_path), "--json")
    error = json.loads(result.out)["error"]
    assert (result.code, error["exit_code"]) == (code, code)
    assert all(word in error["message"] for word in words)


def test_bad_images_are_left_out_by_the_stated_policy(workspace: Path, tmp_path: Path, graft):
    arguments = photos(bad_ones)(tmp_path)
    result = graft("check", *arguments[1:], "data.on_bad_image=skip")
    assert result.code == 0
    assert all(name in result.out for name in ("truncated.jpg", "zero.png", "text.jpg"))


def test_a_tracking_server_that_is_not_there(workspace: Path, graft, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    result = graft("run", "good.yaml")
    assert result.code == 7
    assert str(port) in result.message
    assert len(result.message.splitlines()) <= 2


def test_a_disk_that_is_full(
    workspace: Path, tmp_path: Path, graft, monkeypatch: pytest.MonkeyPatch
):
    """A file may grow to 1.5 MB here, which the weights of 1.8 MB do not fit into.

    MLflow's database does: this one lacks what the tests before have written into theirs.
    """
    shutil.copy(workspace / "mlruns" / "mlflow.db", tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        for table in ("params", "tags", "metrics", "latest_metrics"):
            database.execute(f"delete from {table}")
        database.execute("vacuum")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        result = graft("run", "good.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.code == 8, result.err
    assert "disk is full" in result.message
    assert "Traceback" not in result.err


def test_a_run_that_is_stopped(workspace: Path, prefect_url: str):
    """By Ctrl-C; tests/flows/test_resume.py does so by SIGTERM."""
    command = [sys.executable, "-m", "flows.cli", "run", "good.yaml"]
    environment = {"PREFECT_API_URL": prefect_url}
    process = _start([*command, "training.epochs=100000", "name=stopped"], environment)
    try:
        lines = _read_until(process, "epoch 2/")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, rest
    message = rest[rest.index("graft: ") :]
    assert len(message.splitlines()) == 1
    assert message.endswith("name=stopped --resume goes on.\n")
    assert "Traceback" not in "".join(lines) + rest
    (folder,) = Path("mlruns/runs").glob("stopped-*")
    shutil.rmtree(folder)  # it can be resumed, which tests/flows/test_resume.py does
    with sqlite3.connect("mlruns/mlflow.db") as database:
        query = "select status from runs where name = 'stopped'"
        assert database.execute(query).fetchall() == [("KILLED",)]


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def _read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    pytest.fail("it ended before it trained: " + "".join(lines))
