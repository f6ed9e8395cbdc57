"""Start this machine's training processes by torch's elastic launch, and say how they ended."""

from __future__ import annotations

import logging
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.errors import GraftError, Terminated, TrainingError
from tasks.finetune.meeting import (
    LOOPBACK,
    Meeting,
    Place,
    Session,
    connect_for,
    lost,
    open_store,
)
from tasks.finetune.roll import Roll
from tasks.finetune.trouble import as_error, as_words, read_words, told_by
from tasks.finetune.worker import DONE, FAULT, PROBLEM, Job, work

_BACKEND = "graft"
_POLL_SECONDS = 0.1
_STORE_SECONDS = 30.0  # that a store of this machine's own may take to answer
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def launch(job: Job) -> str:
    """Run ``work`` in this machine's processes; return what the first of them answers.

    Raises what the first process to fail raised, on whichever machine.
    """
    try:
        with _quiet(), _signals_kept():
            returned = elastic_launch(_settings(job), work)(job.model_dump_json())
    except ChildFailedError as error:
        raise _explained(job, *error.get_first_failure()) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise Terminated(error.sigval) from error
    except dist.DistError as error:
        if job.session is None:
            raise
        raise lost(job.session.place) from error
    found: str = returned[min(returned)]
    return found


def _settings(job: Job) -> LaunchConfig:
    nodes = 1 if job.session is None else job.session.place.nodes
    rendezvous_handler_registry.register(_BACKEND, _Settled)
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=job.config.training.devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend=_BACKEND,
        rdzv_configs={"session": job.session},
        local_addr="localhost",
        max_restarts=0,  # what half of an epoch left behind is not gone on with
        monitor_interval=0.1,
        start_method="spawn",
    )


class _Settled(RendezvousHandler):
    """A rendezvous that is over: the nodes have met, and know their numbers.

    torch's own open a port on all of the machine's addresses, and one of them unpickles what it is
    sent there. For one machine this opens a store on its loopback address.
    """

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._session: Session | None = parameters.config["session"]
        self._run = parameters.run_id

    def get_backend(self) -> str:
        return _BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True  # else the processes of one machine would open another one

    def next_rendezvous(self) -> RendezvousInfo:
        session = self._session
        if session is None:
            store, place = _own_store()
            return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(place.host, place.port))
        place = session.place
        agents = _Brief(connect_for(session, "agents"), place.silence)
        where = RendezvousStoreInfo(place.host, place.port)
        return RendezvousInfo(agents, session.node, place.nodes, where)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        return

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run

    def shutdown(self) -> bool:
        return True


class _Brief(PrefixStore):
    """A store whose answers nobody waits for longer than ``seconds``.

    At the end torch's agents wait 300 s for each other, and in that time hear no Ctrl-C. They need
    not: a node that is gone by then has done its part.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        super().__init__("", store)
        self._longest = timedelta(seconds=seconds)

    def set_timeout(self, timeout: timedelta) -> None:
        super().set_timeout(min(timeout, self._longest))


def _own_store() -> tuple[Store, Place]:
    """Open the store of one machine's processes, which no other machine reaches."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    wait = _STORE_SECONDS
    place = Place(host=LOOPBACK, port=port, nodes=1, patience=wait, silence=wait)
    return open_store(place, listener), place


def _explained(job: Job, number: int, failure: ProcessFailure) -> GraftError:
    """Return what ended the training, of which this machine has seen one process end."""
    alone = TrainingError(
        f"Training process {number} ended by itself (exit code {failure.exitcode}).\n"
        "Its last words are above; a code of -9 is most often too little memory."
    )
    if job.session is None:
        assert job.scratch is not None
        problem, fault = (read_words(job.scratch / name) for name in (PROBLEM, FAULT))
        words = problem or (None if _was_killed(number, failure, fault) else fault)
        return as_error(words) if words else alone
    meeting = Meeting(job.session.place)
    if _was_killed(number, failure, meeting.hear(job.session.key(FAULT))):
        meeting.say_first(job.session.key(PROBLEM), as_words(alone))
    if job.session.node == 0:
        return _cause(meeting, job.session) or alone
    words = meeting.hear(job.session.key(PROBLEM)) or meeting.hear(job.session.key(FAULT))
    return as_error(words) if words else TrainingError("The first node has ended the training.")


def _was_killed(number: int, failure: ProcessFailure, fault: str | None) -> bool:
    """Tell whether a signal is why process ``number`` ended, and ``fault`` what came of that.

    One that met a fault may abort when it leaves. SIGKILL comes from outside, mostly for want of
    memory, and of a process that it ended the others have seen a lost connection.
    """
    if failure.exitcode >= 0:
        return False
    return failure.exitcode == -signal.SIGKILL or fault is None or told_by(fault) != number


def _cause(meeting: Meeting, session: Session) -> GraftError | None:
    """Return what some node wrote down, which may be after the first was cut off by it."""
    roll, others = Roll(session.place), range(1, session.place.nodes)
    while (words := meeting.hear(session.key(PROBLEM))) is None:
        if (missing := roll.missing(meeting)) is not None:
            return missing
        if all(meeting.hear(session.key(DONE, node)) for node in others):
            words = meeting.hear(session.key(PROBLEM)) or meeting.hear(session.key(FAULT))
            break
        time.sleep(_POLL_SECONDS)
    return None if words is None else as_error(words)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the launcher's own account of a failed process off the terminal: we give ours."""
    roots = ("torch.distributed.elastic", "torch.multiprocessing")
    names = [name for name in logging.root.manager.loggerDict if name.startswith(roots)]
    before = {name: logging.getLogger(name).level for name in {*roots, *names}}
    for name in before:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the signal handlers that torch's launcher replaces."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        try:
            for number, handler in before.items():
                signal.signal(number, handler)
        except ValueError:  # not the main thread, where torch replaces none
            pass
