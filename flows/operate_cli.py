"""The commands of a team: deploy, schedule, submit and status, all at a Prefect server."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows import deploying, fleet, scheduling, submitting
from flows.answer import Answer
from flows.arguments import Config, Json, Overrides
from flows.printing import answer
from tasks.errors import ConfigError

Pool = Annotated[str, typer.Option(help="The work pool, made if it is missing.")]
Gpus = Annotated[
    int | None,
    typer.Option(min=1, help="How many runs its queue gpu may have at once; at first 1."),
]
Notify = Annotated[
    str, typer.Option(metavar="TYPE/NAME", help="A block to notify by, as prefect block ls says.")
]
Timezone = Annotated[str, typer.Option(help="Whose hours the cron line means.")]
Flow = Annotated[str, typer.Option(help="transfer, or retrain: only where something changed.")]
Pause = Annotated[bool, typer.Option("--pause", help="Keep the schedule, and let it not run.")]
Remove = Annotated[bool, typer.Option("--remove", help="Take the schedule away.")]
NoFollow = Annotated[bool, typer.Option("--no-follow", help="Start it, and do not wait.")]
MarkStale = Annotated[
    bool, typer.Option("--mark-stale", help="Mark runs whose process is gone as crashed.")
]
After = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds of silence that count; by default two missed heartbeats."),
]

FLOWS = ("transfer", "retrain")
FILES = (".yaml", ".yml")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, example in (
        (deploy, "graft deploy --gpus 2 --notify slack-webhook/team"),
        (schedule, 'graft schedule "0 3 * * 1" configs/digits.yaml --timezone Europe/Berlin'),
        (submit, "graft submit configs/digits.yaml training.epochs=3"),
        (status, "graft status --mark-stale"),
    ):
        app.command(command.__name__, epilog=f"Example: {example}")(command)


def deploy(
    pool: Pool = "graft", gpus: Gpus = None, notify: Notify = "", as_json: Json = False
) -> None:
    """Deploy what prefect.yaml holds, with a work pool and its queues."""
    answer(as_json, lambda: deploying.deploy(pool, gpus, notify or None))


def schedule(
    cron: Annotated[str, typer.Argument(metavar="CRON", help='Such as "0 3 * * 1".')],
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file.")] = "",
    overrides: Overrides = None,
    timezone: Timezone = "UTC",
    flow: Flow = "transfer",
    pause: Pause = False,
    remove: Remove = False,
    as_json: Json = False,
) -> None:
    """Run a config at the times of a cron line; with --pause or --remove alone, no longer."""
    given = [config, *(overrides or ())] if config else []
    answer(as_json, lambda: _scheduled(cron, given, timezone, flow, pause, remove))


def _scheduled(
    cron: str, given: list[str], timezone: str, flow: str, pause: bool, remove: bool
) -> Answer:
    if flow not in FLOWS:
        raise ConfigError(
            f"{flow!r} is no flow with a schedule.\nWrite --flow transfer or retrain."
        )
    if (pause or remove) and cron.endswith(FILES):  # no cron line, all has moved up by one
        return scheduling.unschedule(Path(cron), given, flow, remove)
    if remove or not given:
        raise ConfigError(
            "graft schedule takes a cron line and a config, with --remove a config alone.\n"
            'Write such as graft schedule "0 3 * * 1" configs/digits.yaml.'
        )
    path, *overrides = given
    return scheduling.schedule(cron, Path(path), overrides, timezone, flow, active=not pause)


def submit(
    config: Config,
    overrides: Overrides = None,
    no_follow: NoFollow = False,
    as_json: Json = False,
) -> None:
    """Run a config on a worker and follow its log; Ctrl-C leaves the run going."""
    left = []

    def run() -> Answer:
        made, going = submitting.submit(config, overrides or (), not no_follow, lines())
        left.append(going)
        return made

    answer(as_json, run)
    if left[0] is not None:
        raise typer.Exit(128 + signal.SIGINT)


def status(mark_stale: MarkStale = False, after: After = None, as_json: Json = False) -> None:
    """Show server, workers, deployments, runs, what waits for approval, and stale runs."""
    answer(as_json, lambda: fleet.status(mark_stale, after, lines()))


def lines() -> Callable[[str, str], None]:
    """Return what prints ``room  message`` on standard error, as a run's own lines are."""
    console = Console(stderr=True)

    def say(room: str, message: str) -> None:
        text = f"{room:<11} {message}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    return say
