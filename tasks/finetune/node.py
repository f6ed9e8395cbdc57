"""Train on several machines: the program that is started on each of them.

    python -m tasks.finetune.node --nodes 2 --rank 0 --host HOST -- graft run CONFIG
    python -m tasks.finetune.node --nodes 2 --rank 1 --host HOST

HOST is the first machine's address, as the others reach it. The first runs the command, whose
trainings (those with ``training.nodes=2``) the others join; they end when the command does, with
its exit code. For one node the command is run as it is. It needs neither Prefect nor MLflow.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tasks.errors import ConfigError, GraftError, Terminated

PORT = 29400  # torchrun's
WEEK = 7 * 24 * 3600.0
SHORTEST_SILENCE = 2.0  # seconds; nodes are heard of once a second


def main(arguments: list[str] | None = None) -> int:
    """Be one node, and return the command's exit code; errors are said in one or two lines."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tasks").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _be_node(_read(arguments))
    except GraftError as error:
        print(f"graft: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Terminated as error:
        return 128 + int(error.args[0])


def _be_node(given: argparse.Namespace) -> int:
    _check(given)
    if given.nodes == 1:
        return _become(given.command)
    with _torch_silent(kept=given.rank > 0):
        from tasks.finetune.follow import follow
        from tasks.finetune.host import host
        from tasks.finetune.meeting import Place

    place = Place(
        host=given.host,
        port=given.port,
        nodes=given.nodes,
        patience=given.patience,
        silence=given.silence,
    )
    return host(place, given.command) if given.rank == 0 else follow(place, given.rank)


def _check(given: argparse.Namespace) -> None:
    """Raise ``ConfigError`` for what no node can be started with."""
    if given.nodes < 1 or not 0 <= given.rank < given.nodes:
        raise ConfigError(
            f"--rank {given.rank} with --nodes {given.nodes} is no node.\n"
            "Give all nodes the same --nodes, and number them from 0."
        )
    if given.rank == 0 and not given.command:
        raise ConfigError(
            "The first node has no command.\nType it behind --, as in -- graft run CONFIG."
        )
    if given.nodes > 1 and given.host is None:
        raise ConfigError(
            "The first node's address is not given.\nName it by --host, or by GRAFT_NODE_HOST."
        )
    for name, least, most in (
        ("port", 1, 65535),
        ("patience", 0.1, WEEK),
        ("silence", SHORTEST_SILENCE, WEEK),
    ):
        value = getattr(given, name)
        if not least <= value <= most:
            raise ConfigError(
                f"--{name} {value:g} is out of range.\nSet it from {least:g} to {most:g}."
            )


@contextmanager
def _torch_silent(*, kept: bool) -> Iterator[None]:
    """Import torch so that graft alone says what is lost, not torch's C++ as well.

    torch reads the variable when it is imported. ``kept``, it holds for processes that this one
    starts, too; the first node's command is to have what the user set.
    """
    name = "TORCH_CPP_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "FATAL")
    yield
    if before is None and not kept:
        del os.environ[name]


def _become(command: list[str]) -> int:
    """Replace this process by the command."""
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command
    except OSError as error:
        raise ConfigError(
            f"{command[0]} cannot be run: {error.strerror}.\nCorrect the command behind --."
        ) from error


def _terminate(number: int, _frame: object) -> NoReturn:
    raise Terminated(number)


def _read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tasks.finetune.node",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option, have = parser.add_argument, os.environ.get
    option("--nodes", type=int, default=have("GRAFT_NODES", "1"), help="GRAFT_NODES; 1")
    rank = have("GRAFT_NODE_RANK", have("JOB_COMPLETION_INDEX", "0"))
    option("--rank", type=int, default=rank, help="GRAFT_NODE_RANK, JOB_COMPLETION_INDEX; 0")
    option("--host", default=have("GRAFT_NODE_HOST"), help="of the first node; GRAFT_NODE_HOST")
    option("--port", type=int, default=have("GRAFT_NODE_PORT", str(PORT)), help=f"{PORT}")
    option("--patience", type=float, default=900, help="seconds until all nodes are ready; 900")
    option("--silence", type=float, default=30, help="seconds until a node counts as lost; 30")
    option("command", nargs="*", help="of the first node")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
