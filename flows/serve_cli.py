"""``graft serve``: a registered model over HTTP, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.answer import Answer
from flows.console import lines_shown
from flows.printing import answer, print_answer
from tasks.artifacts import cache_folder

if TYPE_CHECKING:
    from tasks.register.serving import Ready, ServeSettings

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model, or models:/NAME@ALIAS.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
MaxMib = Annotated[int, typer.Option(min=1, help="Size of the largest request, in MiB.")]
MaxImages = Annotated[int, typer.Option(min=1, help="Images in one request.")]
MaxMegapixels = Annotated[
    int,
    typer.Option(min=1, max=89, help="Megapixels of the largest image; four times that a request."),
]
Poll = Annotated[
    float, typer.Option(min=0.05, max=86400, help="Seconds between looks for a new champion.")
]
AllowUrl = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="Host that images may be fetched from, by https; repeat it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object when it answers.")]


def serve(
    name: Name,
    port: Port = 5002,
    host: Host = "127.0.0.1",
    max_mib: MaxMib = 16,
    max_images: MaxImages = 64,
    max_megapixels: MaxMegapixels = 50,
    poll: Poll = 5.0,
    allow_url: AllowUrl = None,
    as_json: Json = False,
) -> None:
    """Serve the champion over HTTP, and a new one without a break; Ctrl-C stops it."""

    def until_stopped() -> None:
        from tasks.register.serving import ServeSettings
        from tasks.register.serving_body import Limits

        cache, hosts = cache_folder(None), tuple(allow_url or ())
        limits = Limits(max_mib, max_images, max_megapixels)
        _serve(ServeSettings(name, cache, host, port, limits, poll, hosts), as_json)

    answer(as_json, until_stopped)


def _serve(settings: ServeSettings, as_json: bool) -> None:
    from tasks.register.serving import serve as serve_http

    with lines_shown(Console(stderr=True)):
        serve_http(settings, lambda ready: print_answer(_answer(ready), as_json))


def _answer(ready: Ready) -> Answer:
    data = {"address": ready.address, "model": ready.model, "version": ready.version}
    facts = [
        ("serving", f"{ready.model} version {ready.version}  (Ctrl-C stops it)"),
        ("address", f"{ready.address}/invocations"),
        ("health", f"{ready.address}/health"),
    ]
    return Answer(data, facts)
