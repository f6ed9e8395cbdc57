"""What a process that is killed in the middle of a move leaves: at each of its writes, really."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
from mlflow import MlflowClient

from tasks.errors import TrackingError
from tasks.register import approval
from tasks.register.aliases import read_aliases
from tasks.register.files import SHA256, SPEC_SHA256
from tasks.register.history import MOVING, settled_aliases, versions_by_alias
from tasks.register.journal import turn
from tasks.register.moves import promote, roll_back, story
from tasks.register.versions import decision_on, take_back
from tasks.values import PromotionDecision

# connects once, without a pool, and forks what is killed: an import takes seconds. Before each kill
# the database is put back to what it was, and after it kept as ACT-N.db
KILLED = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from tasks.register import approval, moves, versions
from tasks.register.client import connect
from tasks.values import PromotionDecision

database, source, tags = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
client = connect(create=False)
experiment = client.create_experiment("e")

def register():
    run_id = client.create_run(experiment).info.run_id
    return client.create_model_version("m", source, run_id, tags=tags)

def decide(version, champion, **change):
    facts = {"promoted": True, "reason": "r", "n": 9, "accuracy": 0.5, "alpha": 0.05} | change
    number = int(version.version)
    versions.write_decision(client, version, PromotionDecision(
        model="m", version=number, uri=f"models:/m/{number}",
        run_id=version.run_id, champion_version=champion, **facts))

client.create_registered_model("m")
decide(register(), None)
decide(register(), 1)
third = register()
half = shutil.copyfile(database, database.with_name("half.db"))
decide(third, 2, promoted=False, waiting=True)
waits = shutil.copyfile(database, database.with_name("waits.db"))
ACTS = {
    "approve": (waits, lambda: approval.approve("m", "3", "good")),
    "reject": (waits, lambda: approval.reject("m", "3", "bad")),
    "roll_back": (waits, lambda: moves.roll_back("m", "worse")),
    "gate": (half, lambda: decide(third, 2)),
}
WRITES = [f"{do}_{what}" for do in ("set", "delete")
          for what in ("registered_model_alias", "registered_model_tag", "model_version_tag")]

def counts(write, args):  # of the version's tags only the last words on the decision
    return "version" not in write or args[2] in ("promotion.promoted", "promotion.waiting")

def kill_before(n):
    left = itertools.count(n - 1, -1)
    for write in WRITES:
        def counted(self, *args, write=write, real=getattr(MlflowClient, write), **kwargs):
            if counts(write, args) and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *args, **kwargs)
        setattr(MlflowClient, write, counted)

def attempt(act, n):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        kill_before(n)
        act()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(99)

for name, (start, act) in ACTS.items():
    for n in itertools.count(1):
        shutil.copyfile(start, database)
        code = attempt(act, n)
        if code != -signal.SIGKILL:
            assert code == 0, code
            break
        shutil.copyfile(database, database.with_name(f"{name}-{n}.db"))
"""
BEFORE = (2, 1, 3)  # champion, previous, challenger
DONE = {"approve": (3, 2, None), "gate": (3, 2, None), "roll_back": (1, None, 3)}


@pytest.fixture
def unpooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow keep no connection open, so that the database can be another's copy."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


def aliases(client: MlflowClient) -> tuple[int | None, ...]:
    return tuple(asdict(read_aliases(client.get_registered_model("m"))).values())


def kinds() -> list[str]:
    return [event.kind for event in story("m").events]


def third(client: MlflowClient) -> PromotionDecision:
    return decision_on(client.get_model_version("m", "3"))


def test_what_is_cut_off_at_any_write_did_not_happen_or_is_brought_to_its_end(
    unpooled, store, tiny_models, tmp_path
):
    database, model = tmp_path / "mlruns" / "mlflow.db", tiny_models[0]
    tags = json.dumps({SHA256: model.spec.sha256, SPEC_SHA256: model.spec.digest})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(database), model.folder.as_uri(), tags],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    killed = sorted(database.parent.glob("*-*.db"))
    assert {path.stem.split("-")[0] for path in killed} == {*AGAIN}
    assert len(killed) > 18
    for path in killed:
        shutil.copyfile(path, database)
        act = path.stem.split("-")[0]
        told, seen = kinds(), aliases(store)
        assert "moved outside graft" not in told, path
        assert seen in ((2, 1, None) if act == "gate" else BEFORE, DONE.get(act)), path
        AGAIN[act](store, told)
        assert "moved outside graft" not in kinds(), path
        there = store.get_registered_model("m")
        assert not [key for key in there.tags if key.startswith(MOVING)], path
        assert versions_by_alias(there) == settled_aliases(there)


def again_approve(store, told):
    """The same command again ends it; what was approved and not said so cannot be rejected."""
    if "approved" in told:
        with pytest.raises(TrackingError, match=r"it was promoted \(approved by "):
            approval.reject("m", "3")
    else:
        assert approval.approve("m", "3").promoted
    assert (aliases(store), kinds().count("approved")) == (DONE["approve"], 1)
    assert (third(store).promoted, third(store).waiting) == (True, False)


def again_reject(store, told):
    if "rejected" in told:
        with pytest.raises(TrackingError, match=r"it was not promoted \(rejected by "):
            approval.approve("m", "3")
    else:
        approval.reject("m", "3")
    assert (aliases(store), kinds().count("rejected")) == (BEFORE, 1)
    assert (third(store).promoted, third(store).waiting) == (False, False)


def again_roll_back(store, told):
    if "rolled back" in told:
        assert promote("m", "3").before == 1
    else:
        assert roll_back("m").version == 1
        assert aliases(store) == DONE["roll_back"]


def again_gate(store, told):
    """The next try of a run takes back what the killed one left."""
    take_back(store, "m", store.get_model_version("m", "3").run_id)
    with turn(store, "m"):
        assert aliases(store) == (2, 1, None)


AGAIN = {
    "approve": again_approve,
    "reject": again_reject,
    "roll_back": again_roll_back,
    "gate": again_gate,
}
