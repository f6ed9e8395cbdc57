"""What each command does; heavy imports wait in the functions, so that --help is quick."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.answer import Answer, Cells, Rows
from flows.console import shown
from flows.failures import how_to_go_on
from flows.server import start_server, using
from tasks.configfile import load_config
from tasks.errors import RESUME, ConfigError

if TYPE_CHECKING:
    from tasks.values import EvaluationReport, PromotionDecision


def run(path: Path, overrides: Sequence[str], resume: bool = False) -> Answer:
    """Run the flow ``transfer`` in this process; raises ``GraftError``."""
    config = load_config(path, overrides)
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown() as screen:
        from flows.transfer import transfer

        with using(server), _told_how(path, overrides):
            decision = transfer(config, resume)
    return ran(decision, screen.report)


@contextmanager
def _told_how(path: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Say on a stop that can be resumed what to type for it."""
    try:
        yield
    except BaseException as error:
        if how_to_go_on(error) is not None:
            words = shlex.join([str(path), *overrides])
            error.add_note(f"{RESUME}{as_typed()} run {words} --resume goes on")
        raise


def pretrain(path: Path, overrides: Sequence[str]) -> Answer:
    """Run the flow ``pretrain`` in this process; raises ``GraftError``."""
    config = load_config(path, overrides)
    server = start_server()
    with shown() as screen:
        from flows import pretrain as module

        with using(server):
            weights = module.pretrain(config)
    facts = [("weights", str(weights))]
    if screen.report is not None:
        facts.append(("accuracy", _accuracy(screen.report)))
    return Answer({"weights": str(weights)}, facts)


def ran(decision: PromotionDecision, report: EvaluationReport | None) -> Answer:
    """Return what a run came to, and where to look."""
    data: dict[str, Any] = {"decision": decision.model_dump(mode="json")}
    facts: Rows = []
    if report is not None:
        data["report"] = report.model_dump(mode="json")
        facts = [("accuracy", _accuracy(report)), ("report", str(report.folder / "report.html"))]
    champion = f"models:/{decision.model}@champion"
    facts += [
        ("registered", decision.uri),
        ("promotion", f"{_standing(decision)}: {decision.reason}"),
        ("look", f"{as_typed()} ui  (MLflow's pages of runs and models)"),
        ("predict", f"{as_typed()} predict IMAGE --model {champion}"),
    ]
    return Answer(data, facts)


def _standing(decision: PromotionDecision) -> str:
    if decision.waiting:
        approve = f"{as_typed()} approve {decision.model} {decision.version}"
        return f"waits for approval ({approve})"
    return "champion" if decision.promoted else "not promoted"


def as_typed() -> str:
    """Return what to type for ``graft``: uv run finds it where the shell does not."""
    through_uv = "UV_RUN_RECURSION_DEPTH" in os.environ  # uv run puts it on PATH for us alone
    return "graft" if shutil.which("graft") and not through_uv else "uv run graft"


def _accuracy(report: EvaluationReport) -> str:
    low, high = 100 * report.accuracy_low, 100 * report.accuracy_high
    means = report.mean_average_precision
    several = "" if means is None else f", all labels right; mean average precision {means:.4f}"
    return (
        f"{100 * report.accuracy:.2f}% of {report.n:,} test images "
        f"(95% interval {low:.1f} to {high:.1f}%){several}"
    )


def check(path: Path, overrides: Sequence[str]) -> Answer:
    """Check config, data and weights, and train nothing."""
    from flows import checks

    return checks.check(path, overrides)


def predict(images: Sequence[Path], model: str | None) -> Answer:
    """Classify ``images`` with ``model``, or with the only champion in the registry."""
    from tasks.register.predict import predict as classify

    uri = model or _only_champion()
    rows = classify(uri, list(images)).to_dict("records")
    remarks = [_remark(row.get("answered", True), row.get("novel", False)) for row in rows]
    headers = ["image", "label", "confidence", *(["remark"] if any(remarks) else [])]
    table = Cells(*headers)
    for row, remark in zip(rows, remarks, strict=True):
        cells = (row["path"], row["label"] or "(no label)", f"{row['confidence']:.1%}", remark)
        table.add(*cells[: len(headers)])
    return Answer({"model": uri, "predictions": rows}, [("model", uri)], table)


def _remark(answered: bool, novel: bool) -> str:
    """Say what a model with thresholds says against its own label."""
    unsure = [] if answered else ["too unsure for an answer"]
    return ", ".join([*unsure, "unlike the training images"] if novel else unsure)


def _only_champion() -> str:
    from tasks.register.registry import CHAMPION, list_versions

    names = sorted({row.name for row in list_versions(None) if CHAMPION in row.aliases})
    if len(names) != 1:
        known = ", ".join(names) if names else "none"
        raise ConfigError(
            f"There is not one champion to predict with, but {len(names)}: {known}.\n"
            "Name one, for example --model models:/digits@champion."
        )
    return f"models:/{names[0]}@{CHAMPION}"


def models(name: str | None) -> Answer:
    """List the versions of one registered model, or of all."""
    from tasks.register.registry import list_versions

    rows = list_versions(name)
    table = Cells("model", "version", "aliases", "accuracy", "created", "decision")
    for row in rows:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.2%}"
        created = f"{row.created:%Y-%m-%d %H:%M}"
        aliases = ", ".join(row.aliases)
        table.add(row.name, str(row.version), aliases, accuracy, created, row.decision)
    return Answer({"versions": [asdict(row) for row in rows]}, table=table)


def ui(port: int, show: Callable[[Answer], None]) -> None:
    """Serve MLflow's pages until Ctrl-C; a tracking server has its own, whose address is shown."""
    from flows.pages import serve_pages
    from tasks.register.client import connect, tracking_uri

    uri = tracking_uri()
    connect(create=False)
    if uri.startswith(("http://", "https://")):
        show(_address(uri, "a server of its own"))
    else:
        serve_pages(uri, port, lambda address: show(_address(address, "Ctrl-C stops it")))


def _address(address: str, note: str) -> Answer:
    return Answer({"address": address}, [("MLflow UI", f"{address}  ({note})")])
