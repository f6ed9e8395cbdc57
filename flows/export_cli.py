"""``graft export``: a registered model as a file for another runtime, if it passes the gate."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.answer import Answer
from flows.arguments import Json, Overrides
from flows.evaluation import absent, model_and_images
from flows.printing import answer
from tasks.configfile import load_config

if TYPE_CHECKING:
    from tasks.register.exports import ExportReport


class Kind(StrEnum):
    """What can be exported to."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch_export"
    INT8 = "int8"


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION.")
]
Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Whose test images the file is held to.")
]
Format = Annotated[Kind, typer.Option("--format", help="What to write.")]
Output = Annotated[Path, typer.Option(help="A new folder for the file and what describes it.")]
Register = Annotated[
    bool, typer.Option("--register", help="Put it with the version's run in MLflow as well.")
]


def export(
    model: Model,
    config: Config,
    kind: Format,
    output: Output,
    overrides: Overrides = None,
    register: Register = False,
    as_json: Json = False,
) -> None:
    """Export a registered model as ONNX, torch.export or int8, if the file passes the gate."""
    answer(as_json, lambda: _export(model, config, overrides or (), kind, output, register))


def _export(
    uri: str, path: Path, overrides: Sequence[str], kind: Kind, output: Path, register: bool
) -> Answer:
    config = load_config(path, overrides)
    target = absent(output, "the export")
    from tasks.evaluate.export_onnx import check_extra
    from tasks.register.exports import export_version

    if kind is not Kind.TORCH_EXPORT:
        check_extra()
    model, prepared = model_and_images(config, uri)
    report = export_version(config, prepared, model, kind.value, target, register)
    return Answer({"folder": str(target), **report.model_dump(mode="json")}, _facts(report, target))


def _facts(report: ExportReport, target: Path) -> list[tuple[str, str]]:
    spec = report.spec
    facts = [
        ("exported", f"{spec.source} as {spec.format}: {target / spec.file}"),
        (
            "accuracy",
            f"{report.accuracy:.2%} of {report.n:,} test images, the network's "
            f"{report.source_accuracy:.2%} ({report.wins:,} right only here, {report.losses:,} "
            "only there)",
        ),
        ("gate", " ".join(report.reasons)),
        ("agreement", f"probabilities differ by at most {spec.agreement:.3g}"),
        ("size", _beside(report.size_mib, report.source_size_mib, report.float_size_mib, "MiB")),
    ]
    speeds = [report.speed, report.source_speed, report.float_speed]
    here, there, from_float = (None if one is None else one.latency_p50_ms for one in speeds)
    if here is not None and there is not None:
        facts.append(("latency", _beside(here, there, from_float, "ms, median of one image")))
    return facts


def _beside(here: float, there: float, from_float: float | None, unit: str) -> str:
    of_float = "" if from_float is None else f", the float32 ONNX file's {from_float:.3g}"
    return f"{here:.3g} {unit} (the network's in torch {there:.3g}{of_float})"
