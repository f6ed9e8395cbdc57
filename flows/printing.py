"""How a command's answer reaches the user: as text or JSON, its problem as an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

import typer

from flows.answer import Answer
from flows.failures import describe
from tasks.errors import Terminated
from tasks.words import printable_lines


def answer(as_json: bool, make: Callable[[], Answer | None]) -> None:
    """Print what a command returns; its problem, if it has one, decides the exit code."""
    try:
        made = make()
        if made is not None:
            print_answer(made, as_json)
    except KeyboardInterrupt as error:  # typer would print an empty line and forget which it was
        raise Terminated(signal.SIGINT) from error
    if made is not None and made.problem is not None:
        raise typer.Exit(fail(made.problem))


def print_answer(shown: Answer, as_json: bool) -> None:
    """Print one answer; raises ``typer.Exit`` when nobody reads it any more."""
    try:
        if as_json:
            problem = {"error": describe(shown.problem).as_dict()} if shown.problem else {}
            print(json.dumps(shown.data | problem, default=str))  # noqa: T201
        else:
            shown.show()
        sys.stdout.flush()
    except BrokenPipeError as error:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(128 + signal.SIGPIPE) from error


def fail(error: BaseException) -> int:
    """Say on standard error what went wrong and return the exit code for it."""
    failure = describe(error)
    # a message quotes files, servers and libraries, which could steer a terminal
    print(f"graft: {printable_lines(failure.message)}", file=sys.stderr)  # noqa: T201
    return failure.exit_code
