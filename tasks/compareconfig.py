"""What ``graft compare`` reads: one run, and what changes in it from cell to cell of a grid."""

from __future__ import annotations

import json
from typing import ClassVar, NamedTuple

from pydantic import Field, ValidationError, model_validator

from tasks.artifacts import sha256_parts
from tasks.config import RunConfig
from tasks.evaluationconfig import Name
from tasks.recipe import Section
from tasks.runnerconfig import RunnerConfig
from tasks.variation import Changes, first_problem, put_over

CELL = "cell:"  # a teacher that is another cell of the same comparison
VARIED = ("data", "preprocess", "model", "strategy", "training", "evaluation")
LONGEST_NAME = 100
MOST_AT_ONCE = 256  # cells


class Place(NamedTuple):
    """Where a cell stands in the grid."""

    dataset: str
    backbone: str
    strategy: str
    seed: int

    @property
    def title(self) -> str:
        """Return the cell's name for people."""
        return f"{self.dataset} · {self.backbone} · {self.strategy} · seed {self.seed}"

    @property
    def name(self) -> str:
        """Return the cell's name for files and runs; a long one is cut at its start."""
        words = f"{self.dataset}-{self.backbone}-{self.strategy}-seed{self.seed}"
        return words[-LONGEST_NAME:].lstrip("._-")


class Cell(NamedTuple):
    """One run of the grid, and the other one that it learns from, if it does."""

    place: Place
    config: RunConfig
    teacher: Place | None


class CompareConfig(Section):
    """A grid of runs: every data set with every backbone, strategy and seed.

    The changes of a data set, a backbone and a strategy are put over ``base`` in this order. Every
    cell must be a valid run.
    """

    example: ClassVar[str] = "configs/compare_strategies.yaml"

    name: Name = Field(
        "comparison", description="Names the comparison, its folder and its MLflow run."
    )
    base: RunConfig = Field(description="The run that every cell is, but for its changes.")
    datasets: dict[Name, Changes] = Field(
        min_length=1, description="Name of each data set: dotted keys of a run and their values."
    )
    backbones: dict[Name, Changes] = Field(
        min_length=1, description="Name of each backbone: keys and values."
    )
    strategies: dict[Name, Changes] = Field(
        min_length=1, description="Name of each strategy: keys and values."
    )
    seeds: tuple[int, ...] = Field(
        (0, 1, 2, 3, 4),
        min_length=1,
        description="Each decides the validation split, the new head and the order of images.",
    )
    reference: Name = Field("full", description="The strategy that the others are compared with.")
    cost_limit: float | None = Field(
        2.0,
        ge=1,
        description="Times the reference's seconds that the supported strategy may take; null: "
        "any.",
    )
    parallel: int = Field(
        1,
        ge=1,
        description="Cells at once, each in a process of its own with its share of threads.",
    )
    runner: RunnerConfig = Field(
        default_factory=RunnerConfig, description="Where cells run: here, or on a Ray cluster."
    )
    keep_weights: bool = Field(
        False, description="Keep every cell's weights; teachers' are kept in any case."
    )

    @model_validator(mode="after")
    def _grid_is_sound(self) -> CompareConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has one twice: {list(self.seeds)}")
        if self.reference not in self.strategies:
            known = ", ".join(self.strategies)
            raise ValueError(f"reference {self.reference} is none of the strategies: {known}")
        waves(self.cells())
        return self

    @property
    def identity(self) -> str:
        """Return a digest of all that decides a cell's figures, and of no more.

        More seeds, other folders and another pace leave it as it is.
        """
        base = self.base.model_copy(update={"seed": 0, "output": type(self.base.output)()})
        training = base.training.model_copy(update={"threads": None})
        values = self.model_dump(
            mode="json",
            exclude={
                "base",
                "seeds",
                "parallel",
                "runner",
                "reference",
                "cost_limit",
                "keep_weights",
            },
        )
        run = base.model_copy(update={"training": training}).model_dump_json()
        return sha256_parts(json.dumps(values), run)

    def cells(self) -> tuple[Cell, ...]:
        """Return the runs of the grid, all of the first seed before any of the next.

        Raises ``ValueError`` that names the first cell that is no valid run.
        """
        places = (
            Place(dataset, backbone, strategy, seed)
            for seed in self.seeds
            for dataset in self.datasets
            for backbone in self.backbones
            for strategy in self.strategies
        )
        return tuple(self._cell(place) for place in places)

    def _cell(self, place: Place) -> Cell:
        try:
            settings = self.base.model_dump(mode="json")
            for changes in (
                self.datasets[place.dataset],
                self.backbones[place.backbone],
                self.strategies[place.strategy],
            ):
                put_over(settings, changes, VARIED)
            settings |= {"name": place.name, "seed": place.seed}
            config = RunConfig.model_validate_json(json.dumps(settings), strict=True)
            return Cell(place, config, self._teacher(place, config.strategy.teacher or ""))
        except ValidationError as error:
            raise ValueError(f"in {place.title}, {first_problem(error)}") from error
        except ValueError as error:
            raise ValueError(f"in {place.title}, {error}") from error

    def _teacher(self, place: Place, named: str) -> Place | None:
        if not named.startswith(CELL):
            return None
        backbone, _, strategy = named.removeprefix(CELL).rpartition("/")
        teacher = place._replace(backbone=backbone or place.backbone, strategy=strategy)
        if teacher.backbone not in self.backbones or strategy not in self.strategies:
            raise ValueError(f"strategy.teacher {named} is no cell:STRATEGY or cell:BACKBONE/…")
        return teacher


def waves(cells: tuple[Cell, ...]) -> list[list[Cell]]:
    """Return the cells in groups, each cell in a later one than its teacher, order kept.

    Raises ``ValueError`` when cells teach each other in a circle.
    """
    left, taught, found = list(cells), set[Place](), list[list[Cell]]()
    while left:
        ready = [cell for cell in left if cell.teacher is None or cell.teacher in taught]
        if not ready:
            raise ValueError(f"in {left[0].place.title}, strategy.teacher leads back to itself")
        found.append(ready)
        taught |= {cell.place for cell in ready}
        left = [cell for cell in left if cell.place not in taught]
    return found
