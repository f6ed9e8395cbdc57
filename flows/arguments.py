"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML file such as configs/digits.yaml.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Values that replace those of the file."),
]
