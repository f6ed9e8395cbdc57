"""What ``graft search`` does and prints; heavy imports wait in the functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.answer import Answer, Cells
from flows.console import shown
from flows.server import start_server, using
from tasks.configfile import load_config
from tasks.errors import ConfigError, GraftError
from tasks.searchconfig import SearchConfig

if TYPE_CHECKING:
    from tasks.evaluate.search import Search


def search(path: Path, overrides: Sequence[str], run_best: bool) -> Answer:
    """Run the flow ``search`` in this process, and ``transfer`` with the best if that is asked for.

    Raises ``GraftError``; that no trial was trained whole is the answer's problem.
    """
    config = load_config(path, overrides, SearchConfig)
    _check_installed()
    server = start_server()  # it starts while the next lines import torch, Prefect and MLflow
    with shown():
        from flows import search as module

        with using(server):
            found = module.search(config)
    answer = _answer(found, found.folder / module.BEST)
    if answer.problem or not run_best:
        return answer
    left = _left(found)
    if left:
        words = f"not yet, with {left} trials to come: the test images are opened once"
        return replace(answer, facts=[*answer.facts, ("run", words)])
    return _with_run(answer)


def _check_installed() -> None:
    try:
        import optuna  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ConfigError(
            "graft search needs Optuna, which is not installed.\nInstall the extra: uv sync "
            "--extra search."
        ) from error


def _answer(found: Search, best_yaml: Path) -> Answer:
    from tasks.evaluate.search_report import best_table

    head, *rows = best_table(found)
    table = Cells(*head)
    for row in rows:
        table.add(*row)
    facts = [("report", str(found.folder / "search.md")), ("trials", _counts(found))]
    data = found.model_dump(mode="json")
    best = found.best_trial
    if best is None:
        return Answer(data, facts, None, _problem(found))
    words = found.words(best.value)
    facts = [
        ("best", f"trial {best.number}, {found.metric} {words} (the best of many: too good)"),
        *facts,
        ("plot", str(found.folder / "search.png")),
        ("config", f"{best_yaml}  (graft run opens the test images with it, once)"),
    ]
    return Answer(data | {"best_config": str(best_yaml)}, facts, table)


def _counts(found: Search) -> str:
    counts = {state: len(found.of_state(state)) for state in ("complete", "pruned", "failed")}
    left = _left(found)
    words = ", ".join(f"{n} {state}" for state, n in counts.items() if n or state == "complete")
    return words if not left else f"{words}, {left} to come: start again"


def _left(found: Search) -> int:
    """Return how many trials are still to come."""
    ended = sum(len(found.of_state(state)) for state in ("complete", "pruned", "failed"))
    return max(0, found.wanted - ended)


def _problem(found: Search) -> GraftError:
    failed = found.of_state("failed")
    first = (failed[0].reason or "").partition("\n")[0] if failed else "none was begun in time"
    return GraftError(
        f"No trial was trained whole: {first}\nCorrect the space, or give it more time or trials."
    )


def _with_run(answer: Answer) -> Answer:
    """Add the run of the best config: its test images are opened, and the gate decides."""
    from flows.commands import run

    ran = run(Path(answer.data["best_config"]), ())
    return Answer({**answer.data, "run": ran.data}, [*answer.facts, *ran.facts], answer.table)
