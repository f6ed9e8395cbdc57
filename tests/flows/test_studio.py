"""The studio in a headless Chromium: from an archive of class folders to a champion."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.studio_choices import BACKBONES, Backbone, Choice, config_of, keep_upload, model_name
from flows.studio_cli import command
from flows.studio_jobs import Job, jobs, start
from tasks.errors import ConfigError
from tasks.unfinished import can_go_on

PATIENCE_MS = 240_000  # a run's time on a busy machine


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, images: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    images(folder / "photos")
    with zipfile.ZipFile(folder / "colours.zip", "w") as file:
        for path in sorted((folder / "photos").rglob("*.png")):
            file.write(path, path.relative_to(folder))
    return folder / "colours.zip"


def choice(archive: Path, **changes: Any) -> Choice:
    given = Choice(str(archive), "colours", BACKBONES[next(iter(BACKBONES))], "full", 1, ())
    return given._replace(**changes)


def test_an_upload_is_kept_once_by_what_is_in_it(tmp_path: Path, archive: Path):
    kept = set()
    for name in ("a.zip", "b.ZIP", "b.old.zip"):
        with archive.open("rb") as file:
            file.seek(7)  # somebody has read of it
            kept.add(keep_upload(tmp_path, name, file))
    (path,) = kept
    assert path.read_bytes() == archive.read_bytes()
    with archive.open("rb") as file:  # called otherwise, it is read otherwise
        assert keep_upload(tmp_path, "c.tar.gz", file).name == "images.tar.gz"


@pytest.mark.parametrize("name", ["photo.jpg", "a", "../x.exe", "zip", ""])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str, archive: Path):
    with archive.open("rb") as file, pytest.raises(ConfigError, match="no archive"):
        keep_upload(tmp_path, name, file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("my photos (2)", "my-photos-2"),
        ("../../x", "x"),
        ("\u05e9", "images"),
        ("a" * 99, "a" * 60),
    ],
)
def test_a_name_is_fit_for_folders_and_the_registry(words: str, name: str):
    assert model_name(words) == name


def test_a_choice_is_a_whole_config(tmp_path: Path, archive: Path):
    more = ["training.learning_rate=0.002", "promotion.approval=true"]
    made = config_of(tmp_path, choice(archive, backbone=Backbone("resnet18", "a.pth"), more=more))
    assert (made.model.architecture, made.model.weights) == ("resnet18", "a.pth")
    assert (made.training.learning_rate, made.promotion.approval) == (0.002, True)
    assert (made.data.path, made.promotion.model) == (str(archive), "colours")
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        config_of(tmp_path, choice(archive, more=["training.epoch=3"]))


@pytest.fixture
def served(workspace: Path, prefect_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs use a server that is there: one of their own takes 7 s."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_url)


@pytest.mark.usefixtures("served")
def test_a_job_outlives_who_started_it_and_can_be_stopped(tmp_path: Path, archive: Path):
    config = config_of(tmp_path, choice(archive, epochs=1000))
    job = start(tmp_path, config)
    _wait(lambda: len(job.epochs()) > 0, job)
    (again,) = jobs(tmp_path)
    assert (again.name, again.state) == (job.name, "running")
    again.stop()
    _wait(lambda: job.state != "running", job)
    assert (job.state, job.result()["error"]["exit_code"]) == ("failed", 130)
    # training was under way: what it wrote down before it ended is whole
    (run,) = (job.folder / "runs").glob("*")
    assert can_go_on(run)


@pytest.mark.usefixtures("served")
def test_a_job_whose_process_is_gone_says_so(tmp_path: Path, archive: Path):
    job = start(tmp_path, config_of(tmp_path, choice(archive, epochs=1000)))
    number = json.loads((job.folder / "process.json").read_text())[0]
    os.killpg(number, signal.SIGKILL)
    _wait(lambda: job.state != "running", job)
    assert job.state == "failed"
    assert "ended by itself" in job.result()["error"]["message"]


def _wait(met: Callable[[], bool], job: Job, seconds: float = 90) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.2)


def test_nobody_else_is_let_in_or_told():
    words = command(8501, 10)
    assert "--server.address=127.0.0.1" in words
    assert "--browser.gatherUsageStats=false" in words


def test_no_word_of_a_file_is_read_as_markup(monkeypatch):
    """A browser would ask for the image, and so tell its owner who looks."""
    from streamlit.testing.v1 import AppTest

    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def step() -> None:
        import streamlit as st

        from flows.studio_told import as_text, told
        from tasks.errors import DataError

        label = "![](https://example.org/p.png)"
        st.metric("Label", as_text(label))
        with told():
            raise DataError(f"{label} <b>is</b> [no](javascript:alert) $class$.\nRename it.")

    app = AppTest.from_function(step, default_timeout=60).run()
    assert app.metric[0].value == "!&#91;&#93;(https://example.org/p.png)"
    said = app.error[0].value
    assert not set("[]<>$") & set(said)
    assert said.endswith(".  \nRename it.")


def test_a_person_promotes_goes_back_and_approves(registry_copy, once_more, monkeypatch):
    from streamlit.testing.v1 import AppTest

    # AppTest leaves its script there, which processes that later tests spawn would run
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def step() -> None:
        from flows.studio_models import promote_step
        from flows.studio_told import told

        with told():
            promote_step()

    def click(version: int, words: str) -> AppTest:
        app = AppTest.from_function(step, default_timeout=60).run()
        app.selectbox[1].set_value(version).run()
        (button,) = [button for button in app.button if button.label == words]
        button.click().run()
        assert not app.exception
        return app

    second, third = once_more(registry_copy), once_more(registry_copy, promoted=False, waiting=True)
    assert "is champion already" in click(1, "Make it champion").error[0].value
    click(second, "Make it champion")
    assert champion(registry_copy) == second
    click(second, "Back to the champion before")
    assert champion(registry_copy) == 1
    click(third, "Approve")
    assert champion(registry_copy) == third


def champion(client) -> int:
    return int(client.get_model_version_by_alias("small", "champion").version)


@pytest.fixture
def page(tmp_path: Path, chromium: str, listening) -> Iterator[Any]:
    """Give the studio's page in a browser; both end with the test."""
    from playwright.sync_api import sync_playwright

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "flows.cli", "studio", "--port", str(port), "--json"]
    environment = {**os.environ, "GRAFT_CACHE": str(tmp_path / "cache")}
    with (
        subprocess.Popen(
            program, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        ) as studio,
        sync_playwright() as playwright,
    ):
        try:
            address = json.loads(studio.stdout.readline())["address"]
            assert listening(studio.pid) == {"127.0.0.1"}
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            opened = browser.new_page(viewport={"width": 1200, "height": 1000})
            opened.set_default_timeout(PATIENCE_MS)
            opened.goto(address)
            yield opened
            browser.close()
        finally:
            studio.send_signal(signal.SIGINT)
            assert studio.wait(30) == 0


@pytest.mark.slow
def test_from_an_archive_to_a_champion(page: Any, archive: Path, tmp_path: Path):
    page.locator("input[type=file]").set_input_files(archive)
    page.get_by_role("button", name="Check the images").click()
    page.get_by_text("Nothing stands in the way of a training.").wait_for()
    _step(page, "2. Train")
    page.get_by_label("Passes over the images").fill("2")
    page.get_by_role("button", name="Start").click()
    ended = page.get_by_test_id("stMetric").or_(page.get_by_role("alert"))
    ended.first.wait_for()
    assert "Test accuracy" in ended.first.inner_text()
    page.get_by_text("models:/colours/1").first.wait_for()
    page.get_by_test_id("stVegaLiteChart").first.wait_for()  # the curves
    _step(page, "3. Report")
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Confusion").first.wait_for()
    _step(page, "4. Try a photograph")
    page.locator("input[type=file]").set_input_files(archive.parent / "photos" / "red" / "0.png")
    page.get_by_text("red", exact=True).first.wait_for()
    _step(page, "5. Promote")
    page.get_by_text("There is no champion yet.").first.wait_for()
    page.get_by_role("button", name="Make it champion").click()
    page.get_by_text("is champion already").wait_for()
    assert list((tmp_path / "mlruns" / "studio" / "jobs").glob("colours-*/runs/*/report.html"))


def _step(page: Any, name: str) -> None:
    page.get_by_text(name, exact=True).click()
    shown = page.get_by_role("heading", name=name.partition(". ")[2])
    shown.or_(page.locator("iframe")).first.wait_for()
