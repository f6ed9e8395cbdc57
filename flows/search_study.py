"""The study of a search: who tries which point, what came of it, and what killed workers left.

Any number of processes work on one study. Optuna's storages make each change whole, so that a trial
that is told is never lost. A trial that nobody works on any more is known by two signs: its process
has ended on this machine, or, on any, its beat has stood still for ``SILENCE`` seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.search_points import as_written, space_of
from flows.search_storage import locked, storage_errors
from flows.search_trial import Came
from tasks.register.processes import PROCESS_TAG, is_gone, process_tags
from tasks.searchconfig import Scalar, SearchConfig

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

PROCESS, BEAT, AGAIN = "graft.process", "graft.beat", "graft.again"
CAME, KEY, LOST = "graft.came", "graft.key", "graft.lost"
RUN = "graft.run"  # of the study: its run in MLflow
BEAT_SECONDS = 20.0
SILENCE = 120.0  # seconds; five beats may be missed
TRIES = 3  # of a point whose process ends in the middle


class Claim(NamedTuple):
    """A trial that this process has to carry out."""

    number: int
    trial_id: int
    point: dict[str, Scalar]
    again: int = 0  # processes that ended with it before


class Study:
    """One study, as this process sees it; methods raise ``TrackingError`` where it cannot be read.

    ``optuna`` is Optuna's own.
    """

    def __init__(
        self, config: SearchConfig, study: optuna.Study, storage: BaseStorage, root: Path
    ) -> None:
        self.optuna = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(config.name)
        self._config = config
        self._lock = root / ".lock"
        self._space = space_of(config)
        self._mine: dict[int, Claim] = {}  # by number, the trials that run here
        self._seen: dict[int, tuple[int, float]] = {}  # by number, a beat and when it was new
        self._beats = 0

    def claim(self) -> Claim | None:
        """Take the next trial; None where all are done, run elsewhere, or must run alone.

        Beside a killed process others end too: what was lost runs alone, so that only the guilty
        point reaches ``TRIES``.
        """
        with storage_errors("taking a trial"), locked(self._lock):
            if self._mine and self._has_suspects():
                return None
            waiting, taken = self._counts()
            if not waiting and taken >= self._config.trials:
                return None
            trial = self.optuna.ask(fixed_distributions=dict(self._space))
            trial.set_user_attr(PROCESS, process_tags()[PROCESS_TAG])
            trial_id = self._id_of(trial.number)
            again = int(trial.user_attrs.get(AGAIN, 0))
        claim = Claim(trial.number, trial_id, as_written(self._config, trial.params), again)
        self._mine[trial.number] = claim
        return claim

    def run_id(self) -> str | None:
        """Return the MLflow run that all processes of the study share, if one has been kept."""
        with storage_errors("looking for the study's run"):
            kept: str | None = self.optuna.user_attrs.get(RUN)
        return kept

    def keep_run(self, run_id: str) -> None:
        """Keep the MLflow run of the study, for whoever works on it next."""
        with storage_errors("keeping the study's run"):
            self.optuna.set_user_attr(RUN, run_id)

    def mine(self) -> list[Claim]:
        """Return the trials that this process has taken and not told."""
        return list(self._mine.values())

    def standing(self) -> tuple[int, str | None]:
        """Return how many trials have ended, and the best value in words, if there is one."""
        with storage_errors("counting trials"):
            trials = self._all()
        values = [t.value for t in trials if t.state.name == "COMPLETE" and t.value is not None]
        done = sum(has_ended(t) for t in trials)
        if not values:
            return done, None
        if self._config.metric == "val_loss":
            return done, f"{min(values):.4f}"
        return done, f"{max(values):.2%}"

    def is_over(self) -> bool:
        """Say whether as many trials as are wanted have ended."""
        with storage_errors("counting trials"):
            return sum(has_ended(t) for t in self._all()) >= self._config.trials

    def tell(self, claim: Claim, came: Came) -> bool:
        """Write down what came of a trial; False where another process has given it up before."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(came.state, TrialState.FAIL)
        value = came.value if state == TrialState.COMPLETE else None  # of others Optuna takes none
        self._mine.pop(claim.number, None)
        with storage_errors("telling what came of a trial"):
            try:
                note = came.model_dump(mode="json")
                self._storage.set_trial_user_attr(claim.trial_id, CAME, note)
                self.optuna.tell(claim.number, value, state)
            except (UpdateFinishedTrialError, ValueError):
                return False
        return True

    def note_key(self, claim: Claim, key: str) -> Came | None:
        """Note the digest of a trial's content; return what came of an earlier one, if any."""
        with storage_errors("looking for the same trial"):
            twins = (t for t in self._all() if t.user_attrs.get(KEY) == key and _stands(t))
            twin = next(twins, None)
            self._storage.set_trial_user_attr(claim.trial_id, KEY, key)
            if twin is None:
                return None
            for step, value in twin.intermediate_values.items():
                self._storage.set_trial_intermediate_value(claim.trial_id, step, value)
        came = Came.model_validate(twin.user_attrs[CAME])
        first = twin.number if came.same_as is None else came.same_as
        return came.model_copy(update={"same_as": first})

    def clear(self) -> list[int]:
        """Give up the trials of processes that are gone; return their numbers.

        Their points wait for whoever is next, ``TRIES`` times at most.
        """
        from optuna.trial import TrialState

        with storage_errors("looking for killed workers"):
            running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            lost = [t for t in running if t.number not in self._mine and self._is_lost(t)]
            with locked(self._lock) if lost else nullcontext():
                return [t.number for t in lost if self._give_up(t, 1)]

    def comes_again(self, number: int) -> bool:
        """Say whether the point of a trial that was given up is tried again."""
        with storage_errors("looking at a lost trial"):
            trial = self._storage.get_trial(self._id_of(number))
        return bool(trial.user_attrs.get(LOST, False))

    def give_up(self, claim: Claim, counts: bool) -> None:
        """Give a trial of this process up; ``counts`` where its process was killed."""
        with storage_errors("giving a trial up"), locked(self._lock):
            self._mine.pop(claim.number, None)
            self._give_up(self._storage.get_trial(claim.trial_id), int(counts))

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Let other machines see that this process works on its trials."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            self._beats += 1
            for claim in self.mine():
                with suppress(Exception):  # told since, or no answer: the next may come through
                    self._storage.set_trial_user_attr(claim.trial_id, BEAT, self._beats)

    def _has_suspects(self) -> bool:
        """Say whether a trial that was lost before runs here or waits."""
        again = (t.user_attrs.get(AGAIN, 0) for t in self._all() if t.state.name == "WAITING")
        return any(again) or any(claim.again for claim in self._mine.values())

    def _counts(self) -> tuple[int, int]:
        """Return how many trials wait to be begun again, and how many are taken or done."""
        from optuna.trial import TrialState

        trials = self._all()
        waiting = sum(t.state == TrialState.WAITING for t in trials)
        running = sum(t.state == TrialState.RUNNING for t in trials)
        return waiting, waiting + running + sum(has_ended(t) for t in trials)

    def _id_of(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _all(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        process = trial.user_attrs.get(PROCESS)
        if process is not None and is_gone(process):
            return True
        beat, now = int(trial.user_attrs.get(BEAT, 0)), time.monotonic()
        before, since = self._seen.get(trial.number, (-1, now))
        if beat != before:
            self._seen[trial.number] = (beat, now)
            return False
        return now - since > SILENCE

    def _give_up(self, trial: FrozenTrial, counts: int) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        # killed between the steps, it leaves a point that is tried twice, never one that is lost
        ended = int(trial.user_attrs.get(AGAIN, 0)) + counts
        trial_id = self._id_of(trial.number)
        try:
            self._storage.set_trial_user_attr(trial_id, LOST, ended < TRIES)
            if ended >= TRIES:
                came = Came(state="failed", reason=f"Its process ended {ended} times.")
                self._storage.set_trial_user_attr(trial_id, CAME, came.model_dump(mode="json"))
            else:
                self.optuna.enqueue_trial(trial.params, user_attrs={AGAIN: ended})
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:  # another process was first
            return False
        return True


def has_ended(trial: FrozenTrial) -> bool:
    """Say whether a trial has ended by itself: only these count."""
    return trial.state.is_finished() and not trial.user_attrs.get(LOST, False)


def _stands(trial: FrozenTrial) -> bool:
    """Say whether what came of a trial goes for its twins; a failure may be the machine's."""
    return trial.state.name in ("COMPLETE", "PRUNED") and CAME in trial.user_attrs
