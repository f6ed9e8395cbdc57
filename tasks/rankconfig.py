"""What ``graft rank`` reads: the run that every candidate would make, and the candidates."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from tasks.config import ModelConfig, RunConfig
from tasks.recipe import Section, StrategyConfig
from tasks.runnerconfig import RunnerConfig


class RankConfig(Section):
    """Which backbones are ranked, and for which data."""

    example: ClassVar[str] = "configs/rank_backbones.yaml"

    base: RunConfig = Field(
        description="The run of every candidate; its model is left out for the candidate's."
    )
    candidates: tuple[ModelConfig, ...] = Field(
        min_length=2, description="The backbones, each as the section model of a run names one."
    )
    images: int | None = Field(
        None, ge=2, description="At most so many training images, drawn by class; null: all."
    )
    neighbours: int = Field(5, ge=1, description="Images that vote in the kNN score.")
    verify: bool = Field(False, description="Fine-tune every candidate as well, and compare.")
    parallel: int = Field(
        1,
        ge=1,
        description="Candidates at once, each in a process of its own with its share of threads.",
    )
    runner: RunnerConfig = Field(
        default_factory=RunnerConfig,
        description="Where candidates are scored and fine-tuned: here, or on a Ray cluster.",
    )

    @model_validator(mode="after")
    def _scores_can_be_had(self) -> RankConfig:
        if self.base.data.multi_label:
            raise ValueError("the scores take one label an image: set base.data.multi_label=false")
        weighted = [each for each in self.candidates if each.weights is not None]
        if self.base.strategy.kind == "scratch" and weighted:
            raise ValueError(
                f"base.strategy.kind=scratch fits no candidate with weights, such as "
                f"{weighted[0].architecture}: set another, such as full"
            )
        if self.base.data.kind == "shards" and self.images is None:
            raise ValueError(
                "the features of all images of base.data.kind=shards may need more memory than "
                "there is: set how many are enough, such as images=10000"
            )
        return self

    def run_of(self, candidate: ModelConfig) -> RunConfig:
        """Return the run of one candidate; without weights its strategy is ``scratch``."""
        strategy = self.base.strategy
        if candidate.weights is None:
            strategy = StrategyConfig(kind="scratch")
        return self.base.model_copy(update={"model": candidate, "strategy": strategy})
