"""The first node: it runs the command, and keeps the store that all nodes meet at while it runs."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

from tasks.errors import ConfigError, GraftError, ResourceError
from tasks.finetune.meeting import END, VARIABLE, Meeting, Place, open_store
from tasks.finetune.relay import Relay
from tasks.finetune.roll import beat_of, left_of

_FAREWELL_SECONDS = 10.0  # for the other nodes to hear the end
_POLL_SECONDS = 0.1
# Prefect starts a run again whose pod Kubernetes stops. It stops the first pod as well when another
# one failed, say for want of memory: such a run would start again for ever.
_AS_A_FAILURE = {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "crash"}


def host(place: Place, command: list[str]) -> int:
    """Run the command and return its exit code, which all other nodes hear.

    Raises ``ConfigError`` for an address that is not this machine's, or a command that is none.
    """
    store = open_store(place, _listener(place))
    meeting = Meeting(place, store)
    code = ResourceError.exit_code  # of what nobody foresaw
    with Relay() as relay:
        try:
            with tempfile.TemporaryDirectory() as folder:
                code = _run(command, place.model_copy(update={"folder": Path(folder)}), relay)
        except GraftError as error:
            code = error.exit_code
            raise
        finally:
            meeting.say(END, str(code))
            _wait_for_farewells(meeting, relay)
    return code


def _listener(place: Place) -> socket.socket:
    """Listen on the one address that the other nodes know; wait for the name of it."""
    deadline = time.monotonic() + place.patience
    while True:
        try:
            family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((place.host, place.port), family=family)
        except socket.gaierror as error:  # a cluster's name server learns it a moment later
            if time.monotonic() > deadline:
                raise _not_here(place, error) from error
            time.sleep(1)
        except OSError as error:
            raise _not_here(place, error) from error


def _not_here(place: Place, error: OSError) -> ConfigError:
    return ConfigError(
        f"The first node cannot listen on {place.address}: {error.strerror}.\n"
        "Name this machine's address as --host, and a --port that is free."
    )


def _run(command: list[str], place: Place, relay: Relay) -> int:
    environment = os.environ | {VARIABLE: place.model_dump_json()} | _AS_A_FAILURE
    try:
        return relay.run(command, environment)
    except OSError as error:
        raise ConfigError(
            f"{command[0]} cannot be run: {error.strerror}.\nCorrect the command behind --."
        ) from error


def _wait_for_farewells(meeting: Meeting, relay: Relay) -> None:
    """Keep the store until those who came have heard the end, or somebody wants this one's."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    came = [node for node in range(1, meeting.place.nodes) if meeting.hear(beat_of(node))]
    while any(meeting.hear(left_of(node)) is None for node in came):
        if time.monotonic() > deadline or relay.hurried:
            return
        time.sleep(_POLL_SECONDS)
