"""How the first machine calls the others to a training, and what they answer."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tasks.artifacts import cache_folder, write_atomic
from tasks.config import RunConfig
from tasks.errors import GraftError, ResourceError
from tasks.finetune.alike import Sight, check_alike, check_code, files_in, other_code, sight
from tasks.finetune.fit import check_gpus
from tasks.finetune.gpu_lock import gpus_held
from tasks.finetune.launch import launch
from tasks.finetune.meeting import END, Meeting, Place, Session
from tasks.finetune.roll import Roll, host_of, title
from tasks.finetune.trouble import as_error, as_words
from tasks.finetune.worker import DONE, OVER, Job
from tasks.public import public_config, without_secrets
from tasks.use import in_use, sweep_mark
from tasks.values import Backbone

READY, GO, YES, NO = "ready", "go", "yes", "no"
POLL_SECONDS = 0.1
_MARK = ".meeting-"
_MARK_SECONDS = 14 * 24 * 3600.0  # a node is waited for a week at the longest

log = logging.getLogger(__name__)


class Call(BaseModel):
    """What the first node sends: the training, and what it needs to be the same everywhere."""

    sight: Sight
    job: str  # a Job, in JSON that another version of graft may not be able to read


@contextmanager
def convened(job: Job, place: Place) -> Iterator[Job]:
    """Call the other nodes to ``job``, and yield it as this node is to do it when all are ready.

    They are let go when the block ends. Trainings of one command take turns. Raises what a node
    answers, with its name, and ``ResourceError`` for one that does not come or goes.
    """
    from filelock import FileLock

    assert place.folder is not None
    cache = cache_folder(job.config.output.cache)
    with FileLock(place.folder / "turn.lock"), _token(cache) as token:
        shared = job.model_copy(update={"config": _config_sent(job, cache)})
        words = _call(shared, token).model_dump_json()
        meeting = Meeting(place)  # a number that is taken is waited for: after all that may fail
        session = Session(place=place, number=meeting.count("jobs"), node=0)
        try:
            meeting.say(session.key(), words)
            _wait_for_all(meeting, session)
            token.unlink(missing_ok=True)  # another command's sweep may have removed it
            meeting.say(session.key(GO), YES)
            yield shared.model_copy(update={"session": session})
        finally:
            meeting.say_first(session.key(GO), NO)
            meeting.say(session.key(OVER), YES)


def _call(job: Job, token: Path) -> Call:
    files = [token, *files_in(job.prepared, job.backbone, job.teacher)]
    sent = job.model_copy(
        update={"address": None, "scratch": None, "backbone": _backbone_sent(job.backbone)}
    )
    return Call(job=sent.model_dump_json(), sight=sight(files, job.config.training))


def _config_sent(job: Job, cache: Path) -> RunConfig:
    """Return the config without secrets, and with the cache that all nodes share."""
    config = public_config(job.config)
    return config.model_copy(
        update={"output": config.output.model_copy(update={"cache": cache.absolute()})}
    )


def _backbone_sent(backbone: Backbone) -> Backbone:
    """Return the network without what may be secret in the address that its weights came from."""
    return backbone.model_copy(update={"source": without_secrets(backbone.source)})


@contextmanager
def _token(cache: Path) -> Iterator[Path]:
    """Leave a file in the cache, by which the others see that theirs is the same."""
    _sweep(cache)
    path = cache / f"{_MARK}{uuid.uuid4().hex}"
    write_atomic(path, path.name.encode())
    try:
        with in_use([path]):
            yield path
    finally:
        path.unlink(missing_ok=True)


def _sweep(cache: Path) -> None:
    """Remove the tokens of commands that were killed; whoever shares the cache may do so too.

    Those that are not this user's to remove stay.
    """
    for path in cache.glob(f"{_MARK}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _MARK_SECONDS:
                sweep_mark(path)


def _wait_for_all(meeting: Meeting, session: Session) -> None:
    """Return when every other node is ready."""
    place, roll = session.place, Roll(session.place)
    waiting = set(range(1, place.nodes))
    log.info("waiting for the other %d of %d nodes", len(waiting), place.nodes)
    deadline = time.monotonic() + place.patience
    while True:
        waiting -= {node for node in waiting if _is_ready(meeting, session, node)}
        if not waiting:
            return
        if (missing := roll.missing(meeting)) is not None:
            raise missing
        if time.monotonic() > deadline:
            raise _too_late(meeting, place, min(waiting))
        time.sleep(POLL_SECONDS)


def _is_ready(meeting: Meeting, session: Session, node: int) -> bool:
    answer = meeting.hear(session.key(READY, node))
    if answer is None:
        return False
    if answer != YES:
        raise as_error(answer)
    return True


def _too_late(meeting: Meeting, place: Place, node: int) -> ResourceError:
    if meeting.hear(host_of(node)) is None:
        return ResourceError(
            f"Node {node} has not come within {place.patience:g} s.\n"
            f"Start on it: python -m tasks.finetune.node --nodes {place.nodes} --rank {node} "
            f"--host {place.host} --port {place.port}"
        )
    return ResourceError(
        f"{title(meeting, node)} was not ready within {place.patience:g} s.\n"
        "Another run may have its GPU: see what it said last."
    )


def attend(meeting: Meeting, session: Session, words: str) -> None:
    """Do this machine's part of the job that ``words`` describe; what fails is told the first node.

    Ctrl-C and SIGTERM are raised, and ``ResourceError`` when the first node is gone.
    """
    ready = session.key(READY, session.node)
    try:
        call, job = _read(words, session)
        check_gpus(job.config.training)
        files = [Path(path) for path in call.sight.files]
        check_alike(sight(files, job.config.training), call.sight)
        with gpus_held(job.config.training, job.config.name):
            meeting.say_first(ready, YES)
            if _may_go(meeting, session):
                log.info("training %s as node %d", job.config.name, session.node)
                launch(job)
    except GraftError as error:  # of the training itself the processes have told by themselves
        log.warning("node %d: %s", session.node, error)
        named = f"{title(meeting, session.node)}: {error}"
        meeting.say_first(ready, as_words(type(error)(named)))
    finally:
        meeting.say(session.key(DONE, session.node), YES)


def _read(words: str, session: Session) -> tuple[Call, Job]:
    """Return what the first node sent; ``ResourceError`` when it has another version of graft."""
    try:
        call = Call.model_validate_json(words)
        check_code(call.sight)
        job = Job.model_validate_json(call.job)
    except ValidationError as error:
        raise other_code() from error
    return call, job.model_copy(update={"session": session})


def _may_go(meeting: Meeting, session: Session) -> bool:
    while (answer := meeting.hear(session.key(GO)) or meeting.hear(END)) is None:
        time.sleep(POLL_SECONDS)
    return answer == YES
