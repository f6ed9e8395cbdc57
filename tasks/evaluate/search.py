"""What came of a search, trial by trial."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.searchconfig import Scalar
from tasks.values import Value


class Tried(Value):
    """One trial; accuracy 0 to 1, loss in nats an image, both of the validation images."""

    number: int
    # lost: its process was killed and the point is tried again; open: it runs, or waits
    state: Literal["complete", "pruned", "failed", "lost", "open"]
    point: dict[str, Scalar]
    value: float | None  # by the search's metric
    val_accuracy: float | None
    val_loss: float | None
    epochs: int
    seconds: float  # of training
    reason: str | None  # why it failed
    same_as: int | None  # the trial that was trained, where the point is that one's


class Importance(Value):
    """How much of the metric's variation a key explains, by two of Optuna's evaluators, 0 to 1."""

    key: str
    fanova: float  # Hutter et al. 2014
    ped_anova: float  # Watanabe et al. 2023: within the better part of the trials


class Search(Value):
    """A search as it stands."""

    name: str
    folder: Path
    run_id: str
    metric: Literal["val_accuracy", "val_loss"]
    sampler: str
    pruner: str
    wanted: int  # trials
    searched: tuple[str, ...]  # dotted keys of a run
    trials: tuple[Tried, ...]
    best: int | None  # the number of the best whole trial
    importances: tuple[Importance, ...]  # the most important first; none with few trials

    @property
    def best_trial(self) -> Tried | None:
        """Return the best whole trial, if there is one."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    def words(self, value: float | None) -> str:
        """Return a value of the metric for people."""
        return f"{value:.2%}" if self.metric == "val_accuracy" else f"{value:.4f}"

    def ranked(self) -> tuple[Tried, ...]:
        """Return the whole trials, the best first; of equal ones the earlier."""
        whole = [trial for trial in self.trials if trial.state == "complete"]
        sign = -1.0 if self.metric == "val_accuracy" else 1.0
        return tuple(sorted(whole, key=lambda trial: (sign * (trial.value or 0.0), trial.number)))

    def of_state(self, state: str) -> tuple[Tried, ...]:
        """Return the trials of one state, in their order."""
        return tuple(trial for trial in self.trials if trial.state == state)

    def so_far(self) -> list[tuple[int, float]]:
        """Return the number of each whole trial with the best value until then."""
        better = max if self.metric == "val_accuracy" else min
        found: list[tuple[int, float]] = []
        for trial in self.of_state("complete"):
            assert trial.value is not None
            best = better(found[-1][1], trial.value) if found else trial.value
            found.append((trial.number, best))
        return found
