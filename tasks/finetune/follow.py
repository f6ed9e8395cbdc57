"""Every node but the first: it waits for trainings, does its part of them, and ends with all."""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from contextlib import suppress

from tasks.errors import ConfigError, GraftError, ResourceError, Terminated
from tasks.finetune.meeting import END, NODES, Meeting, Place, Session
from tasks.finetune.roll import Watch, beat_of, host_of, left_of
from tasks.finetune.session import attend

_POLL_SECONDS = 0.2


def follow(place: Place, node: int) -> int:
    """Be node number ``node`` until the first node's command has ended; return its exit code.

    Raises ``ResourceError`` when the first node does not come or is gone, ``ConfigError`` when it
    was started for another number of nodes, or another machine is this node already.
    """
    _wait_for_first(place)
    meeting = Meeting(place)
    _check_in(meeting, node)
    reason = "by an error"
    with Watch(place, lambda line: _beat(line, node), _give_up):
        try:
            code = _serve(meeting, node)
            reason = "the command has ended"
        except (KeyboardInterrupt, Terminated):
            reason = "it was stopped"
            raise
        finally:
            with suppress(ResourceError):  # the first node is gone: whoever finds that, says it
                meeting.say(left_of(node), reason)
    return code


def _serve(meeting: Meeting, node: int) -> int:
    number = 0
    while True:
        session = Session(place=meeting.place, number=number, node=node)
        words = meeting.hear(session.key())
        if words is not None:
            attend(meeting, session, words)
            number += 1
        elif (end := meeting.hear(END)) is not None:
            return int(end)
        else:
            time.sleep(_POLL_SECONDS)


def _wait_for_first(place: Place) -> None:
    deadline = time.monotonic() + place.patience
    while True:
        try:
            socket.create_connection((place.host, place.port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"Nobody listens at {place.address}: {error}.\n"
                    "Start the first node, and look at --host, --port and the network."
                ) from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def _check_in(meeting: Meeting, node: int) -> None:
    there = meeting.hear(NODES)
    if there != str(meeting.place.nodes):
        raise ConfigError(
            f"This node was started for {meeting.place.nodes} nodes, the first for {there}.\n"
            "Give all the same --nodes."
        )
    # a container that was started again has the same name, and its process the same number
    if not meeting.say_first(f"claim/{node}", uuid.uuid4().hex):
        raise ConfigError(
            f"Node {node} is there already: {meeting.hear(host_of(node))}.\n"
            "Give each node a --rank of its own; where one has been started again, start all again."
        )
    meeting.say(host_of(node), f"{socket.gethostname()}, process {os.getpid()}")


def _beat(meeting: Meeting, node: int) -> None:
    """Count up, by which the others see that this node lives."""
    meeting.count(beat_of(node))


def _give_up(error: GraftError) -> None:
    """End at once, whatever the main thread waits for; the training processes see it and end."""
    print(f"graft: {error}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(error.exit_code)
