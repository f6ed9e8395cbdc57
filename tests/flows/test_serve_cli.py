"""``graft serve``: what it says, and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest


def test_it_says_where_it_serves_to_this_machine_alone_and_ends_at_ctrl_c(
    workspace: Path, listening
):
    command = [sys.executable, "-m", "flows.cli", "serve", "small", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = [process.stdout.readline() for _ in range(3)]
            assert lines[0].startswith("serving     small version 1  (Ctrl-C")
            assert listening(process.pid) == {"127.0.0.1"}
            health = lines[2].split()[1]
            with urllib.request.urlopen(health, timeout=30) as answer:
                assert json.load(answer)["model"] == "small"
            image = (workspace / "photos" / "red" / "0.png").read_bytes()
            request = urllib.request.Request(
                lines[1].split()[1], image, {"Content-Type": "image/png"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                predictions = json.load(answer)["predictions"]
            assert predictions[0]["label"] in ("blue", "red")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert (
            process.stderr.read() == "graft: SIGINT: stopped; nothing half-made was left behind.\n"
        )


@pytest.mark.usefixtures("unchanged")
def test_a_port_that_is_taken_is_said(workspace: Path, graft):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = graft("serve", "small", "--port", port)
    assert (result.code, result.out) == (2, "")
    assert port in result.message
    assert len(result.message.splitlines()) == 2


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nobody"], 7, ["There is: ", "small.", "graft run", "graft promote"]),
        (["models:/small@best"], 7, ["Versions of small: ", "1 @champion", "graft promote"]),
        (["models:/small"], 7, ["models:/NAME@ALIAS"]),
        (["small", "--host", "nowhere.invalid"], 2, ["nowhere.invalid"]),
        (["small", "--allow-url", "https://example.org"], 2, ["HOST:PORT"]),
        (["small", "--max-images", "0"], 2, ["--max-images"]),
        (["small", "--max-megapixels", "90"], 2, ["--max-megapixels"]),
    ],
)
def test_what_cannot_be_served_is_said_in_two_lines(workspace: Path, graft, arguments, code, words):
    result = graft("serve", *arguments, "--port", "0", "--json")
    assert result.code == code, result.err
    assert all(word in result.message for word in words), result.message
    assert len(result.message.splitlines()) == 2
    assert json.loads(result.out)["error"]["exit_code"] == code


def test_a_champion_whose_files_are_gone_is_not_served_from_the_cache(
    workspace: Path, graft, registry_copy, tmp_path: Path
):
    assert list((workspace / "cache" / "models").glob("*/model.safetensors"))
    source = registry_copy.get_model_version("small", "1")
    folder = urlsplit(registry_copy.get_model_version_download_uri("small", "1")).path
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    version = registry_copy.create_model_version("small", copy.as_uri(), tags=source.tags).version
    registry_copy.set_registered_model_alias("small", "champion", version)
    (copy / "artifacts" / "model.safetensors").unlink()
    result = graft("serve", "small", "--port", "0")
    assert result.code == 7, result.err
    lost = f"model.safetensors of small version {version} is missing in the registry"
    assert lost in result.message
    assert len(result.message.splitlines()) == 2


def test_without_a_store_none_is_made(tmp_path: Path, graft, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = graft("serve", "small", "--port", "0")
    assert result.code == 7
    assert "no tracking database" in result.message
    assert not list(tmp_path.iterdir())
