"""A study that several processes share: counting, killed workers, twins, and its storages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from flows import search_study
from flows.search_open import open_study
from flows.search_storage import VARIABLE, open_storage
from flows.search_study import AGAIN, PROCESS, TRIES, Study
from flows.search_trial import Came
from tasks.errors import ConfigError, TrackingError
from tasks.register.processes import PROCESS_TAG, process_tags
from tasks.searchconfig import SearchConfig
from tests.flows.conftest import small_config
from tests.flows.deployments.stack import POSTGRES, Stack, free_ports, start_postgres

WHOLE = Came(state="complete", value=0.5, val_accuracy=0.5, val_loss=1.0, epochs=1, seconds=1.0)
SECRET = "hunter2-97ac"


def make_config(**changes: object) -> SearchConfig:
    space = {"training.learning_rate": {"low": 0.001, "high": 1.0, "log": True}}
    settings = {"name": "study", "base": small_config(), "space": space, "trials": 3}
    return SearchConfig.model_validate(settings | {"sampler": "random"} | changes)


@pytest.fixture(params=["journal", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> SearchConfig:
    database = f"sqlite:///{tmp_path}/study.db"
    return make_config(storage=database if request.param == "sqlite" else None)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.optuna.get_trials()]


def belongs_to(study: Study, number: int, process: str) -> None:
    """Let a trial look like one of another process."""
    claim = study._mine.pop(number)
    study._storage.set_trial_user_attr(claim.trial_id, PROCESS, process)


@pytest.fixture(scope="module")
def ended() -> str:
    """Return how a process of this machine that has ended is named."""
    code = "from tasks.register.processes import process_tags; print(process_tags())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return eval(done.stdout)[PROCESS_TAG]


def test_two_processes_have_as_many_trials_as_are_wanted(config: SearchConfig, tmp_path: Path):
    one, other = (open_study(config, tmp_path, "same") for _ in range(2))
    claims = [one.claim(), other.claim(), one.claim()]
    assert [claim.number for claim in claims] == [0, 1, 2]
    assert one.claim() is None
    assert other.claim() is None
    assert not one.is_over()
    for study, claim in zip((one, other, one), claims, strict=True):
        assert study.tell(claim, WHOLE)
    assert other.is_over()
    assert other.standing() == (3, "50.00%")
    more = open_study(config.model_copy(update={"trials": 4}), tmp_path, "same")
    assert more.claim().number == 3
    # what graft wrote is plain Optuna's
    plain = optuna.load_study(study_name="study", storage=open_storage(config.storage, tmp_path))
    assert [trial.params for trial in plain.trials[:3]] == [claim.point for claim in claims]
    assert plain.best_value == 0.5


def test_a_trial_of_a_killed_process_is_begun_again_some_times(
    config: SearchConfig, tmp_path: Path, ended: str
):
    study = open_study(config, tmp_path, "same")
    point = study.claim().point
    for n in range(TRIES):
        belongs_to(study, n, ended)
        assert study.clear() == [n]
        assert study.clear() == []
        if n + 1 < TRIES:
            again = study.claim()
            assert (again.number, again.point) == (n + 1, point)
    assert states(study) == ["FAIL"] * TRIES
    assert study.standing()[0] == 1  # given up for good: it counts once
    last = Came.model_validate(study.optuna.trials[-1].user_attrs[search_study.CAME])
    assert last.reason == "Its process ended 3 times."
    assert study.claim().point != point


def test_a_running_process_keeps_its_trials_unless_it_is_silent(
    config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = open_study(config, tmp_path, "same")
    here, elsewhere = study.claim(), study.claim()
    belongs_to(study, here.number, process_tags()[PROCESS_TAG])
    belongs_to(study, elsewhere.number, "host boot pid:[1] 7 ticks:1")
    assert study.clear() == []
    monkeypatch.setattr(search_study, "SILENCE", 0.0)
    beat = search_study.BEAT
    for claim in (here, elsewhere):
        study._storage.set_trial_user_attr(claim.trial_id, beat, 1)
    assert study.clear() == []  # both have moved
    study._storage.set_trial_user_attr(here.trial_id, beat, 2)
    assert study.clear() == [elsewhere.number]
    # it was not dead after all: what it says now comes too late
    assert not study.tell(elsewhere, WHOLE)
    assert states(study) == ["RUNNING", "FAIL", "WAITING"]


def test_a_process_beats_while_it_works(
    config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search_study, "BEAT_SECONDS", 0.01)
    study = open_study(config, tmp_path, "same")
    claim = study.claim()
    with study.beating():
        while not study.optuna.trials[0].user_attrs.get(search_study.BEAT, 0) > 1:
            pass
    assert study.tell(claim, WHOLE)


def test_what_is_stopped_is_given_back_uncounted(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "same")
    claim = study.claim()
    study.give_up(claim, counts=False)
    assert study.mine() == []
    again = study.claim()
    assert again.point == claim.point
    assert study.optuna.trials[again.number].user_attrs[AGAIN] == 0


def test_a_twin_has_what_the_first_had(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "same")
    first, second, third = study.claim(), study.claim(), study.claim()
    assert study.note_key(first, "key") is None
    study._storage.set_trial_intermediate_value(first.trial_id, 1, 0.4)
    assert study.note_key(second, "key") is None  # the first is not over yet
    study.tell(first, WHOLE)
    assert study.note_key(third, "key") == WHOLE.model_copy(update={"same_as": 0})
    assert study.optuna.trials[2].intermediate_values == {1: 0.4}


def test_a_study_of_another_identity_is_refused(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "same")
    assert study.tell(study.claim(), WHOLE)
    with pytest.raises(ConfigError, match="study study is of another config"):
        open_study(config, tmp_path, "other")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start a Postgres of one's own; yield its address without a password, and that."""
    if not POSTGRES:
        pytest.skip("Postgres is not installed on this machine")
    stack = Stack(tmp_path_factory.mktemp("postgres"))
    stack.hosts = {"postgres:5432": f"127.0.0.1:{free_ports(1)[0]}"}
    given = stack.services["postgres"]["environment"]
    given["POSTGRES_PASSWORD"] = SECRET
    start_postgres(stack)
    yield f"{given['POSTGRES_USER']}:%s@{stack.hosts['postgres:5432']}/postgres", SECRET
    for process in stack.processes.values():
        process.terminate()
        process.wait(30)


def test_a_database_of_many_machines_and_its_password(
    postgres: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, password = postgres
    monkeypatch.setenv("GRAFT_SECRET_SEARCH_DB", password)
    named = "postgresql://" + address % "${secret:search-db}"
    config = make_config(storage=named)
    study = open_study(config, tmp_path / "one", "same")
    claim = study.claim()
    assert study.tell(claim, WHOLE)
    monkeypatch.setenv(VARIABLE, "postgresql://" + address % password)
    other = open_study(make_config(), tmp_path / "other", "same")  # storage: null
    assert other.standing() == (1, "50.00%")
    assert password not in config.model_dump_json()
    monkeypatch.setenv("GRAFT_SECRET_SEARCH_DB", "wrong-" + password)
    with pytest.raises(TrackingError) as raised:
        open_study(config, tmp_path, "same")
    assert "authentication failed" in str(raised.value)
    assert password not in str(raised.value)
    assert raised.value.__suppress_context__


def test_an_address_that_cannot_be_used_does_not_tell_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for address in (
        f"nonsense {SECRET}",
        f"oracle+odd://me:{SECRET}@host/x",
        f"postgresql://me:{SECRET}@127.0.0.1:1/x",
        f"postgresql://127.0.0.1:1/x?user=me&password={SECRET}",
        f"oracle+odd://127.0.0.1:1/x?user=me&password={SECRET}",
        f"postgresql://127.0.0.1:1/x?user=me&connect_timeout={SECRET}",
    ):
        monkeypatch.setenv(VARIABLE, address)
        with pytest.raises((ConfigError, TrackingError)) as raised:
            open_storage(None, tmp_path)
        assert SECRET not in str(raised.value)
        assert len(str(raised.value).splitlines()) == 2
    with pytest.raises(ConfigError, match="GRAFT_SECRET_NONE"):
        open_storage("postgresql://me:${secret:none}@host/x", tmp_path)


def test_a_journal_needs_a_folder(tmp_path: Path):
    from tasks.errors import ResourceError

    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"study\.journal|\.lock"):
        open_study(make_config(), tmp_path / "file", "same")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_power_cut_left_of_a_line_is_cut_off(tmp_path: Path):
    study = open_study(make_config(), tmp_path, "same")
    assert study.tell(study.claim(), WHOLE)
    journal = tmp_path / "study.journal"
    with journal.open("a") as file:
        file.write('{"op_code":4,"wor')
    study = open_study(make_config(), tmp_path, "same")
    assert study.tell(study.claim(), WHOLE)
    assert open_study(make_config(), tmp_path, "same").standing() == (2, "50.00%")
    whole = journal.read_bytes()
    for damage in (b'{"op_code"\n{}\n', b"\xff\n", b"5\n", b"{}\n", b'{"op_code":99}\n'):
        journal.write_bytes(whole + damage)
        with pytest.raises(TrackingError, match=r"study\.journal is damaged") as caught:
            open_study(make_config(), tmp_path, "same")
        assert len(str(caught.value).splitlines()) == 2
