"""The trials of a search, taken one after the other until there are as many as are wanted."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed

from flows.console import duration
from flows.engines import Engine, fitted, open_engine
from flows.failures import describe
from flows.found import Found, content_digest
from flows.inputs import say
from flows.search_study import Claim, Study
from flows.search_trial import Came, Trial, carry_out
from tasks.artifacts import cache_folder
from tasks.errors import GraftError, ResourceError, TrackingError
from tasks.evaluate.search_report import scalar_words
from tasks.register.searches import SearchRun
from tasks.retry import with_retries
from tasks.searchconfig import SearchConfig

POLL_SECONDS = 1.0  # between looks at trials that run elsewhere

log = logging.getLogger(__name__)


@task(task_run_name="{work.title}", timeout_seconds=30 * 24 * 3600, cache_policy=NO_CACHE)
def run_trial(work: Trial, do: Callable[[Trial], Came]) -> State[Came] | Came:
    """Carry a trial out wherever ``do`` does; its state's name in Prefect says how it ended."""
    came = do(work)
    return came if came.state == "complete" else Completed(name=came.state.title(), data=came)


class Turns:
    """Begins trials, ``config.parallel`` at once, and tells the study what comes of them."""

    def __init__(
        self, config: SearchConfig, study: Study, found: Found, run: SearchRun, root: Path
    ) -> None:
        self._config, self._study, self._found = config, study, found
        self._run, self._root = run, root
        self._running: dict[PrefectFuture[Any], Claim] = {}
        self._start = time.monotonic()

    def run(self) -> None:
        """Return when the study has all its trials, or this process's time is up.

        Raises ``TrackingError`` when MLflow or the study's storage is lost, the ``GraftError`` of a
        base or a machine that trains nothing, and what ends the process; the trials that run here
        are given up then, for whoever goes on.
        """
        folders = (self._root, cache_folder(self._config.base.output.cache))
        try:
            with (
                open_engine(self._config.runner, self._config.parallel, folders) as engine,
                self._study.beating(),
            ):
                while self._turn(engine):
                    pass
        except BaseException:
            self._leave()
            raise

    def _turn(self, engine: Engine) -> bool:
        """Begin what can be begun and wait for one; False when there is nothing left to do."""
        self._clear()
        while len(self._running) < self._config.parallel and self._begin(engine):
            pass
        if self._running:
            self._collect(engine)
            return True
        if self._is_late() or self._study.is_over():
            return False
        time.sleep(POLL_SECONDS)  # another process has the last ones, and may be killed
        return True

    def _is_late(self) -> bool:
        limit = self._config.timeout
        return limit is not None and time.monotonic() - self._start > limit

    def _clear(self) -> None:
        lost = self._study.clear()
        if lost:
            self._close(lost, "the process of the trial was killed")

    def _close(self, numbers: list[int], why: str) -> None:
        for number in numbers:
            again = self._study.comes_again(number)
            then = "its point is tried again" if again else "its point is given up"
            log.warning("trial %d is lost (%s); %s", number, why, then)
            shutil.rmtree(self._root / "trials" / f"{number:05}", ignore_errors=True)
        with_retries(self._run.close_trials, numbers, why)

    def _begin(self, engine: Engine) -> bool:
        """Take a trial, if there is one; one that need not or cannot be trained ends at once."""
        claim = None if self._is_late() else self._study.claim()
        if claim is None:
            return False
        came = self._known_or_wrong(claim, engine)
        if came is not None:
            self._tell(claim, came)
        return True

    def _known_or_wrong(self, claim: Claim, engine: Engine) -> Came | None:
        try:
            work, key = self._work(claim)
        except (TrackingError, ResourceError):
            raise
        except (GraftError, ValueError) as error:
            if isinstance(error, GraftError) and claim.point == self._config.first():
                raise  # the base fails: no other trial would do better
            return _failed(error)
        before = self._study.note_key(claim, key)
        if before is None:
            future = engine.submit(run_trial, carry_out, work)
            self._running[future] = claim
        return before

    def _work(self, claim: Claim) -> tuple[Trial, str]:
        """Return all that a trial needs, and the digest of what decides its figures."""
        config = self._config.run_of(claim.point)
        prepared, backbone = self._found.inputs(config)
        teacher = self._found.teacher(config)
        key = content_digest(config, prepared, backbone, "" if teacher is None else teacher.sha256)
        name = f"{self._config.name}-{claim.number}"
        named = config.model_copy(update={"name": name[-100:].lstrip("._-")})
        work = Trial(
            title=f"trial {claim.number}",
            number=claim.number,
            trial_id=claim.trial_id,
            is_base=claim.point == self._config.first(),
            config=fitted(named, self._config.runner, self._config.parallel),
            prepared=prepared,
            backbone=backbone,
            teacher=teacher,
            root=self._root,
            parent_run=self._run.run_id,
            keep_weights=self._config.keep_weights,
            study=self._config.name,
            storage=self._config.storage,
            metric=self._config.metric,
            pruner=self._config.pruner,
        )
        return work, key

    def _collect(self, engine: Engine) -> None:
        """Wait for one of the running trials; a process that was killed costs no more than it."""
        future = next(as_completed(list(self._running)))
        came = engine.outcome(future)
        if isinstance(came, TrackingError):
            raise came
        claim = self._running.pop(future)
        if isinstance(came, Came) and came.fatal:
            raise _error(came)
        if isinstance(came, Came):
            self._tell(claim, came)
        else:
            self._study.give_up(claim, counts=True)
            words = describe(came).message.partition("\n")[0]
            self._close([claim.number], words)

    def _tell(self, claim: Claim, came: Came) -> None:
        if not self._study.tell(claim, came):
            log.warning("trial %d was given up by another process before it ended", claim.number)
            return
        done, best = self._study.standing()
        point = "  ".join(f"{k}={scalar_words(v)}" for k, v in claim.point.items())
        words = f"{done}/{self._config.trials}  trial {claim.number}  {point}  {_words(came)}"
        say("search", words if best is None else f"{words}  (best {best})")

    def _leave(self) -> None:
        """Give this process's trials up; those that it cannot the next start finds by itself."""
        claims = self._study.mine()
        with suppress(Exception):
            for claim in claims:
                self._study.give_up(claim, counts=False)
            self._close([claim.number for claim in claims], "the search was stopped")


def _error(came: Came) -> GraftError:
    """Return what ends the search: its base, or this machine, trains nothing."""
    kinds = {kind.exit_code: kind for kind in GraftError.__subclasses__()}
    return kinds.get(came.exit_code or 1, GraftError)(came.reason or "")


def _failed(error: Exception) -> Came:
    if isinstance(error, GraftError):
        return Came(state="failed", reason=str(error), exit_code=error.exit_code)
    return Came(state="failed", reason=f"It is no valid run: {error}", exit_code=2)


def _words(came: Came) -> str:
    if came.state == "failed":
        return f"failed: {json.dumps((came.reason or '').splitlines()[0])[1:-1]}"
    if came.same_as is not None:
        return f"{came.state}, as trial {came.same_as}"
    after = f"pruned after {came.epochs} epochs, " if came.state == "pruned" else ""
    return f"{after}val {came.val_accuracy:.2%}  in {duration(came.seconds)}"
