"""A study that is opened: of one config, but for one that has come to nothing yet."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flows.search_open import open_study
from flows.search_result import look_at
from flows.search_storage import locked, storage_errors
from flows.search_study import PROCESS, TRIES, Study
from flows.search_trial import Came
from tasks.errors import ConfigError, ResourceError, TrackingError
from tasks.searchconfig import SearchConfig
from tests.flows.conftest import small_config

WHOLE = Came(state="complete", value=0.5, val_accuracy=0.5, val_loss=1.0, epochs=1, seconds=1.0)
SPACE = {"training.learning_rate": {"low": 0.001, "high": 1.0, "log": True}}


@pytest.fixture(params=["journal", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> SearchConfig:
    database = f"sqlite:///{tmp_path}/study.db"
    settings = {"name": "study", "base": small_config(), "space": SPACE, "trials": 8}
    storage = database if request.param == "sqlite" else None
    return SearchConfig.model_validate(settings | {"sampler": "random", "storage": storage})


def test_a_base_is_corrected_while_nothing_has_ended(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "wrong")
    claim = study.claim()
    assert claim is not None
    with pytest.raises(ConfigError, match="of another config"):  # somebody works on it
        open_study(config, tmp_path, "right")
    study.give_up(claim, counts=False)
    training = config.base.training.model_copy(update={"learning_rate": 0.5})
    base = config.base.model_copy(update={"training": training})
    right = config.model_copy(update={"base": base, "metric": "val_loss"})
    study = open_study(right, tmp_path, "right")
    claim = study.claim()
    assert claim is not None
    assert (claim.number, claim.point) == (0, {"training.learning_rate": 0.5})
    assert study.optuna.direction.name == "MINIMIZE"
    assert len(study.optuna.trials) == 1  # the wrong base waits no more
    assert study.tell(claim, WHOLE)
    with pytest.raises(ConfigError, match="of another config"):
        open_study(config, tmp_path, "wrong")


def test_the_run_is_the_studys_own(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "same")
    assert study.run_id() is None
    study.keep_run("a")
    assert open_study(config, tmp_path, "same").run_id() == "a"
    other = config.model_copy(update={"name": "other"})
    assert open_study(other, tmp_path / "other", "same").run_id() is None


def test_of_trials_that_end_together_only_the_guilty_one_is_given_up(
    config: SearchConfig, tmp_path: Path
):
    """As with a pool: whoever runs beside the point that kills its process is lost with it."""
    study = open_study(config.model_copy(update={"trials": 4}), tmp_path, "same")
    guilty, rounds = study.claim(), [0]
    assert guilty is not None
    running = [guilty]
    while not study.is_over():
        while len(running) < 4 and (claim := study.claim()):
            running.append(claim)
        rounds.append(len(running))
        if any(claim.point == guilty.point for claim in running):
            for claim in running:
                study.give_up(claim, counts=True)
            running.clear()
        else:
            assert study.tell(running.pop(), WHOLE)
    assert rounds[1] == 4
    assert set(rounds[2:]) == {1}
    failed = [t for t in study.optuna.trials if "graft.came" in t.user_attrs and t.value is None]
    assert [t.params for t in failed] == [guilty.point]
    assert study.standing() == (4, "50.00%")
    assert sum(t.state.name == "COMPLETE" for t in study.optuna.trials) == 3


def test_the_last_loss_is_not_said_to_be_tried_again(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "same")
    said = []
    for _ in range(TRIES):
        claim = study.claim()
        assert claim is not None
        study.give_up(claim, counts=True)
        said.append(study.comes_again(claim.number))
    assert said == [True, True, False]


def test_a_process_that_ends_in_giving_up_leaves_the_point(
    config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = open_study(config, tmp_path, "same")
    claim = study.claim()
    assert claim is not None

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study._storage, "set_trial_state_values", end)
    with pytest.raises(KeyboardInterrupt):
        study.give_up(claim, counts=True)
    monkeypatch.undo()
    assert PROCESS in study.optuna.trials[0].user_attrs
    again = first_waiting(study)
    assert again == claim.point


def first_waiting(study: Study) -> dict:
    trial = next(t for t in study.optuna.trials if t.state.name == "WAITING")
    fixed: dict = trial.system_attrs["fixed_params"]
    return fixed


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ResourceError),
        (errno.EIO, TrackingError),
        (errno.ESTALE, TrackingError),
    ],
)
def test_a_journal_whose_disk_fails_is_told_in_two_lines(
    tmp_path: Path, number: int, kind: type[Exception]
):
    with (
        pytest.raises(kind) as raised,
        storage_errors("taking a trial"),
        locked(tmp_path / ".lock"),
    ):
        raise OSError(number, "the disk's own words")
    assert "taking a trial" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2


def test_of_equal_trials_the_best_is_the_first_of_the_table(config: SearchConfig, tmp_path: Path):
    study = open_study(config, tmp_path, "same")
    claims = [claim for _ in range(3) if (claim := study.claim())]
    for claim in reversed(claims):
        assert study.tell(claim, WHOLE)
    found = look_at(config, study.optuna, tmp_path, "run")
    assert found.best == found.ranked()[0].number == 0
    assert found.searched == tuple(SPACE)
