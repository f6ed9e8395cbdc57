"""One mover of a registered model's aliases at a time: MLflow has no compare-and-set for them.

**A local store** (sqlite, a folder): a file lock beside it. The system lets go of it when its
process ends, however it ends.

**A server**, or a database on one: a claim in the registry itself, the tag ``graft.lock``, by
Fischer's algorithm (Lamport 1987, ACM TOCS 5:1): look that nobody holds it, write one's own token,
wait ``SETTLE_SECONDS``, hold it if the token is still there. A write that took longer than that
since the look may have come down on a holder's; whoever wrote it does not take it for theirs. A
claim that stays the same for ``LEASE_SECONDS`` is of a dead process and may be replaced; each
process measures that by its own clock. The processes of one machine queue at a file lock first,
and know by a note beside it which claim is of a dead process among them.

What remains. A holder looks at its claim once more before it moves the alias; if it is stopped for
a lease between that look and the move, as a suspended machine is, another may move the alias in
between: it is a window of a request or two, not none. Whoever moves aliases past graft, in MLflow's
UI or by its client, holds no lock; ``graft history`` shows such moves. A database that some open
directly and others through a server has two locks that know nothing of each other: use one way.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from requests.exceptions import RequestException

from tasks.artifacts import disk_errors, sha256_bytes, write_atomic
from tasks.errors import ResourceError, TransientTrackingError
from tasks.register.client import SQLITE, database_file, tracking_uri

LOCK = "graft.lock"  # tag of the registered model
WAIT_SECONDS = 90.0  # longest wait for the lock
SETTLE_SECONDS = 3.0  # longest time from a look at the tag to the end of a write that counts
LEASE_SECONDS = 30.0
POLL_SECONDS = 0.2

Confirm = Callable[[], None]

log = logging.getLogger(__name__)


@contextmanager
def locked(
    client: MlflowClient, name: str, worth_waiting: Callable[[], object] = lambda: None
) -> Iterator[Confirm]:
    """Hold the lock of the registered model ``name``, which must be there.

    Yields a function to call right before the move: it raises when the lock is lost. While a claim
    of others is waited for, ``worth_waiting`` may raise. Not to be nested. Raises
    ``TransientTrackingError`` when others hold the lock for ``WAIT_SECONDS``, and MLflow's
    exceptions.
    """
    store = _local_store(tracking_uri())
    deadline = time.monotonic() + WAIT_SECONDS
    folder = _scratch() if store is None else store.parent
    key = sha256_bytes(f"{store or tracking_uri()} {name}".encode())[:16]
    with _file_lock(folder / f".graft-{key}.lock", name, deadline) as path:
        if store is not None:
            yield _nothing_to_confirm
            return
        claim = _Claim(client, name, path.with_suffix(".claim"), deadline)
        claim.take(worth_waiting)
        try:
            yield claim.confirm
        finally:
            claim.release()


def _nothing_to_confirm() -> None:
    """Do nothing: the system takes a file lock from nobody."""


def _local_store(uri: str) -> Path | None:
    """Return the file or folder of a store that is on this machine, else ``None``."""
    if uri.startswith(SQLITE):
        return database_file(uri).resolve()  # one key, whichever way the address is written
    if urlsplit(uri).scheme in ("", "file"):
        return Path(local_file_uri_to_path(uri)).resolve()
    return None


def _scratch() -> Path:
    """Return this user's folder for locks; raises ``ResourceError`` where it is another's.

    Whoever made it first could hold the locks, or say that a live process's claim is a dead one's.
    """
    folder = Path(tempfile.gettempdir()) / f"graft-locks-{os.getuid()}"
    with disk_errors(str(folder)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
    if not S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise ResourceError(
            f"{folder} is another user's, a link, or open to others, and can hold no locks.\n"
            "Remove it, or name another folder for temporary files in TMPDIR."
        )
    return folder


@contextmanager
def _file_lock(path: Path, name: str, deadline: float) -> Iterator[Path]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    except Timeout as error:
        raise _waited_too_long(name, f"the process that has {path} open") from error
    try:
        yield path
    finally:
        lock.release()


def _waited_too_long(name: str, holder: str) -> TransientTrackingError:
    return TransientTrackingError(
        f"The aliases of {name} are locked by {holder}; waited {WAIT_SECONDS:g} s.\n"
        "Run again when that is done."
    )


@dataclass
class _Claim:
    """The tag that says who holds the lock, seen from one process."""

    client: MlflowClient
    name: str
    note: Path  # the token of this machine's last holder, who is dead if its claim is still there
    deadline: float
    token: str = field(default_factory=lambda: _token())
    since: float = 0.0

    def take(self, worth_waiting: Callable[[], object]) -> None:
        """Wait until nobody holds the lock, and take it."""
        dead = self.note.read_text(errors="replace") if self.note.exists() else ""
        seen, changed = "", time.monotonic()
        while time.monotonic() < self.deadline:
            looked = time.monotonic()
            there = self._read()
            if there != seen:
                seen, changed = there, looked
            held = there not in ("", dead) and looked - changed < LEASE_SECONDS
            if not held and self._write(looked):
                return
            worth_waiting()
            time.sleep(POLL_SECONDS)
        if seen == self.token:  # written too late each time
            raise TransientTrackingError(
                f"The MLflow server is too slow to lock the aliases of {self.name}: it takes more "
                f"than {SETTLE_SECONDS:g} s.\nRun again when it is less busy."
            )
        raise _waited_too_long(self.name, _holder(seen))

    def _write(self, looked: float) -> bool:
        """Write the token, wait, and say whether it counts and is still there."""
        self.since = time.monotonic()
        self.token = _token()
        try:
            self.client.set_registered_model_tag(self.name, LOCK, self.token)
        except MlflowException:
            if self._read() == "":
                raise
            return False  # two wrote at once, and the database took the other's
        if time.monotonic() - looked > SETTLE_SECONDS:
            return False  # left there: it may stand where a holder's stood, until that is done
        time.sleep(SETTLE_SECONDS)
        if self._read() != self.token:
            return False
        write_atomic(self.note, self.token.encode())
        return True

    def confirm(self) -> None:
        """Raise ``TransientTrackingError`` unless the lock is held, with half the lease to go."""
        late = time.monotonic() - self.since > LEASE_SECONDS / 2
        if late or self._read() != self.token:
            raise TransientTrackingError(
                f"The lock on the aliases of {self.name} was lost: the server was too slow.\n"
                "Nothing was moved. Run again."
            )

    def release(self) -> None:
        """Take the token away; what cannot be taken away goes stale."""
        try:
            if self._read() == self.token:
                self.client.delete_registered_model_tag(self.name, LOCK)
        except (MlflowException, RequestException) as error:  # must not hide what went wrong first
            log.warning("the lock of %s stays for %g s: %s", self.name, LEASE_SECONDS, error)

    def _read(self) -> str:
        return str(self.client.get_registered_model(self.name).tags.get(LOCK, ""))


def _token() -> str:
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    return json.dumps({"owner": owner, "token": uuid.uuid4().hex})


def _holder(token: str) -> str:
    try:
        return str(json.loads(token)["owner"])
    except (ValueError, KeyError, TypeError):  # nobody's at this moment, or not graft's
        return "one process after another"
