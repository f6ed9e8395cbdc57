"""``graft studio``: a web page for those who do not use the command line."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.answer import Answer
from flows.arguments import Json
from flows.pages import HOST, serve_command
from flows.printing import answer, print_answer
from tasks.artifacts import user_folder
from tasks.errors import ConfigError

PAGE = Path(__file__).with_name("studio_page.py")

Port = Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")]
Folder = Annotated[Path, typer.Option(help="Where uploads and runs are kept.")]
MaxMib = Annotated[int, typer.Option(min=1, help="Size of the largest upload, in MiB.")]


def studio(
    port: Port = 8501,
    folder: Folder = Path("mlruns/studio"),
    max_mib: MaxMib = 4096,
    as_json: Json = False,
) -> None:
    """Serve a page to upload images, train, look, try and promote; Ctrl-C stops it."""
    answer(as_json, lambda: _serve(port, folder, max_mib, as_json))


def _serve(port: int, folder: Path, max_mib: int, as_json: bool) -> None:
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError(
            "The studio needs streamlit, which is not installed.\n"
            "Install it: uv sync --extra studio (or pip install 'graft[studio]')."
        )
    os.environ["GRAFT_STUDIO"] = str(user_folder(folder))
    serve_command(
        command(port, max_mib),
        port,
        lambda address: print_answer(_answer(address), as_json),
        "The studio takes some seconds to start",
    )


def command(port: int, max_mib: int) -> list[str]:
    """Return what starts the page, on this machine alone and telling nobody."""
    settings = {
        "server.address": HOST,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": str(max_mib),
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "streamlit", "run", str(PAGE), *options]


def _answer(address: str) -> Answer:
    return Answer({"address": address}, [("studio", f"{address}  (Ctrl-C stops it)")])
