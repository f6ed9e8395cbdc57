"""Who is still there: each machine counts up in the store, and the others look."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tasks.errors import GraftError, ResourceError
from tasks.finetune.meeting import Meeting, Place, lost

LOOK_SECONDS = 1.0


def beat_of(node: int) -> str:
    """Return where a node counts up."""
    return f"beat/{node}"


def host_of(node: int) -> str:
    """Return where a node's name stands."""
    return f"host/{node}"


def left_of(node: int) -> str:
    """Return where a node says why it went, and that it did."""
    return f"left/{node}"


def title(meeting: Meeting, node: int) -> str:
    """Return what a node is called in messages."""
    return f"Node {node} ({meeting.hear(host_of(node)) or 'which has not come'})"


class Roll:
    """What one process has heard of the nodes but the first."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._heard: dict[int, tuple[str, float]] = {}

    def missing(self, meeting: Meeting) -> ResourceError | None:
        """Return what to say about a node that came and is gone."""
        for node in range(1, self._place.nodes):
            reason = meeting.hear(left_of(node)) or self._silence(meeting, node)
            if reason is not None:
                return ResourceError(
                    f"{title(meeting, node)} left: {reason}.\n"
                    "See what it said last, and start all nodes again."
                )
        return None

    def _silence(self, meeting: Meeting, node: int) -> str | None:
        beat = meeting.hear(beat_of(node))
        if beat is None:  # it has not come yet
            return None
        before, since = self._heard.get(node, ("", 0.0))
        if beat != before:
            self._heard[node] = (beat, time.monotonic())
        elif time.monotonic() - since > self._place.silence:
            return f"nothing has been heard of it for {self._place.silence:g} s"
        return None


class Watch:
    """Look at the store every second, in threads; end the process by ``stop`` when told to.

    ``look`` returns an error to stop with. One thread asks the store; another one counts the
    seconds, for a machine that lost its power answers nothing, and the first would wait.
    """

    def __init__(
        self,
        place: Place,
        look: Callable[[Meeting], GraftError | None],
        stop: Callable[[GraftError], None],
    ) -> None:
        self._place, self._look, self._stop = place, look, stop
        self._heard = time.monotonic()
        self._closed = threading.Event()

    def __enter__(self) -> Watch:
        for work in (self._listen, self._count):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()

    def _listen(self) -> None:
        try:
            meeting = Meeting(self._place)
            error = self._look(meeting)
            while error is None and not self._closed.wait(LOOK_SECONDS):
                error = self._look(meeting)
                self._heard = time.monotonic()
        except GraftError as gone:
            error = gone
        self._end(error)

    def _count(self) -> None:
        while time.monotonic() - self._heard < self._place.silence:
            if self._closed.wait(LOOK_SECONDS):
                return
        self._end(lost(self._place))

    def _end(self, error: GraftError | None) -> None:
        if error is not None and not self._closed.is_set():
            self._stop(error)


def orphaned(parent: int) -> bool:
    """Tell whether the process that started this one, ``parent``, is gone."""
    return os.getppid() != parent
