"""What ``graft search`` reads: one run, which of its values are searched, and in which bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from tasks.artifacts import sha256_parts
from tasks.config import RunConfig
from tasks.evaluationconfig import Name
from tasks.recipe import Section
from tasks.runnerconfig import RunnerConfig
from tasks.variation import first_problem, put_over

Scalar = bool | int | float | str | None
Number = int | float

# data, seed and evaluation stay: every trial must be validated on the same images
SEARCHED = ("preprocess", "model", "strategy", "training")
# they decide where and how fast, not what comes out
NOT_SEARCHED = tuple(
    f"training.{name}" for name in ("threads", "device", "devices", "nodes", "compile")
)
MOST_AT_ONCE = 256  # trials
_NAMED = re.compile(r"\$\{secret:[^}]*\}")
_PASSWORD = re.compile(r"password=[^&]")


class Dimension(Section):
    """What one value of a run may be: a range of numbers, or one of several choices."""

    low: Number | None = Field(None, description="The least value of a range.")
    high: Number | None = Field(None, description="The greatest value of a range, itself included.")
    log: bool = Field(False, description="Draw by the logarithm: as often 1 to 10 as 10 to 100.")
    step: Number | None = Field(
        None, gt=0, description="Only values so far apart, from low on; null: any (integers: 1)."
    )
    choices: tuple[Scalar, ...] | None = Field(
        None, min_length=2, description="The values, instead of a range."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Dimension:
        if self.choices is not None:
            if (self.low, self.high, self.step) != (None, None, None) or self.log:
                raise ValueError("choices goes without low, high, log and step")
            if len({_told_apart(value) for value in self.choices}) < len(self.choices):
                raise ValueError("choices has one value twice")
        elif self.low is None or self.high is None:
            raise ValueError("it needs low and high, or choices")
        elif self.low >= self.high:
            raise ValueError("low must be below high")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        elif self.step is not None and not self._on_grid(self.high):
            raise ValueError("high must be a whole number of steps above low")
        return self

    def holds(self, value: Scalar) -> bool:
        """Say whether ``value`` is one of those that can be drawn."""
        if self.choices is not None:
            return _told_apart(value) in map(_told_apart, self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high and (self.step is None or self._on_grid(value))

    def ends(self) -> tuple[Scalar, ...]:
        """Return the values that must be valid by themselves: all choices, or both bounds."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def rounded(self, value: Scalar) -> Scalar:
        """Return a drawn value as a config would write it: 0.15, where steps of 0.05 add up."""
        if self.step is None or not isinstance(value, float):
            return value
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + step * round((Decimal(value) - low) / step))

    def _on_grid(self, value: Number) -> bool:
        # decimals, since 0.3 is no whole number of 0.1 among floats
        above = Decimal(str(value)) - Decimal(str(self.low))
        try:
            return above % Decimal(str(self.step)) == 0
        except ArithmeticError:  # over 28 digits of steps
            raise ValueError("step is too small for that range") from None


class SearchConfig(Section):
    """Which values of ``base`` are tried, how many of them, and by which number they are judged.

    The first trial is ``base`` itself. A drawn point that is no valid run is a failed trial.
    """

    example: ClassVar[str] = "configs/search_digits.yaml"

    name: Name = Field("search", description="Names the study, its folder and its MLflow run.")
    base: RunConfig = Field(description="The run that every trial is, but for what is searched.")
    space: dict[str, Dimension] = Field(
        min_length=1, description="Dotted keys of a run, each with low and high, or choices."
    )
    trials: int = Field(
        30, ge=1, description="Trials of the study in all, whichever processes they ran in."
    )
    metric: Literal["val_accuracy", "val_loss"] = Field(
        "val_accuracy", description="What is made high (accuracy) or low (loss), on validation."
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="tpe: near what was good so far. random: anywhere in the space."
    )
    pruner: Literal["none", "median", "hyperband"] = Field(
        "median",
        description="Ends trials that look bad: median: worse than half of the earlier ones at "
        "the same epoch. hyperband: by successive halving. none: every trial is trained whole.",
    )
    seed: int = Field(0, ge=0, description="Of the points that are drawn; base.seed is the runs'.")
    parallel: int = Field(
        1, ge=1, le=MOST_AT_ONCE, description="Trials at once in this process of graft search."
    )
    runner: RunnerConfig = RunnerConfig()
    storage: str | None = Field(
        None,
        description="Where the study is kept, for all processes of it: sqlite:///FILE or "
        "postgresql://…; null: GRAFT_SEARCH_STORAGE, else a journal in the search's folder.",
    )
    timeout: float | None = Field(
        None, gt=0, description="Seconds after which this process begins no trial; null: no limit."
    )
    keep_weights: bool = Field(False, description="Keep every trial's weights.")

    @model_validator(mode="after")
    def _space_fits(self) -> SearchConfig:
        settings = self.base.model_dump(mode="json")
        for key, dimension in self.space.items():
            self._check_key(key, dimension, _value_of(settings, key))
        training = self.base.training
        if self.pruner != "none" and (training.devices > 1 or training.nodes > 1):
            raise ValueError("base.training.devices and nodes above 1 need pruner=none")
        _check_storage(self.storage)
        return self

    @property
    def identity(self) -> str:
        """Return a digest of all that decides what a trial comes to and which points are drawn.

        More trials, other folders and another pace leave it as it is.
        """
        base = self.base.model_copy(update={"output": type(self.base.output)()})
        training = base.training.model_copy(update={"threads": None})
        run = base.model_copy(update={"training": training}).model_dump_json()
        kept = {"space", "metric", "sampler", "pruner", "seed"}
        return sha256_parts(json.dumps(self.model_dump(mode="json", include=kept)), run)

    def first(self) -> dict[str, Scalar]:
        """Return the point of the first trial: the values that ``base`` has."""
        settings = self.base.model_dump(mode="json")
        return {key: _value_of(settings, key) for key in self.space}

    def run_of(self, point: Mapping[str, Scalar]) -> RunConfig:
        """Return the run with the values of ``point``; raises ``ValueError`` for no valid one."""
        settings = self.base.model_dump(mode="json")
        put_over(settings, point, SEARCHED)
        try:
            return RunConfig.model_validate_json(json.dumps(settings), strict=True)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error

    def _check_key(self, key: str, dimension: Dimension, base: Scalar) -> None:
        if key.partition(".")[0] not in SEARCHED or key in NOT_SEARCHED:
            raise ValueError(f"space.{key} cannot be searched: set base.{key}")
        for value in (base, *dimension.ends()):  # first, since other faults quote the value
            if problem := _shown_to_all(value):
                raise ValueError(f"space.{key} has an address with {problem}, which all would see")
        numbers = [dimension.low, dimension.high, dimension.step]
        if isinstance(base, int) and any(isinstance(number, float) for number in numbers):
            raise ValueError(f"space.{key} is of whole numbers: low, high and step must be as well")
        if not dimension.holds(base):
            raise ValueError(
                f"base.{key} is {json.dumps(base)}, which is none of space.{key}: it is the first "
                "to be tried"
            )
        for value in dimension.ends():
            for problem in self._problems(key, value):
                raise ValueError(f"space.{key} has {json.dumps(value)}: {problem}")

    def _problems(self, key: str, value: Scalar) -> Iterator[str]:
        """Yield what is wrong with a value by itself; what clashes with others fails a trial."""
        settings = self.base.model_dump(mode="json")
        put_over(settings, {key: value}, SEARCHED)
        try:
            RunConfig.model_validate_json(json.dumps(settings), strict=True)
        except ValidationError as error:
            for details in error.errors():
                # a union's error has a part more, the type that was tried
                place = ".".join(str(part) for part in details["loc"])
                if f"{place}.".startswith(f"{key}."):
                    yield details["msg"]


def _told_apart(value: Scalar) -> tuple[bool, Scalar]:
    """Return what is equal for equal values alone: Python takes ``False`` for 0."""
    return isinstance(value, bool), value


def _shown_to_all(value: Scalar) -> str | None:
    """Return what of an address is nobody else's business: a query or a login, or ``None``."""
    if not isinstance(value, str) or "://" not in value:
        return None
    if value.lower().startswith("http") and "?" in value:
        return "a query"
    host = value.partition("://")[2].partition("/")[0]
    name, colon, port = host.rpartition(":")
    cut_password = colon and not port.isdigit() and not name.startswith("[") and "@" in value
    return "a login" if "@" in host or cut_password else None


def _value_of(settings: Mapping[str, Any], key: str) -> Scalar:
    place: Any = settings
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            raise ValueError(f"space.{key} is not a known key of a run")
        place = place[part]
    if isinstance(place, dict | list):
        raise ValueError(f"space.{key} is no single value")
    value: Scalar = place
    return value


def _check_storage(storage: str | None) -> None:
    """Refuse an address that graft does not know, or that holds a password itself."""
    if storage is None:
        return
    scheme, colon, rest = storage.partition("://")
    if not colon or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise ValueError("storage must be sqlite:///FILE or postgresql://…")
    plain = _NAMED.sub("", rest)
    _, _, password = plain.rpartition("@")[0].partition(":")
    if password or _PASSWORD.search(plain):
        raise ValueError(
            "storage holds a password: write ${secret:NAME} for it, or set GRAFT_SEARCH_STORAGE"
        )
