"""What ``graft monitor`` and ``graft reevaluate`` read: a model, new images, and when to alert."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.config import OutputConfig, RunConfig, Sha256, TrackingConfig
from tasks.evaluationconfig import Name
from tasks.recipe import Section

ModelUri = Annotated[str, StringConstraints(pattern=r"^models:/.+$")]
Tests = Literal["both", "kernel", "classifier"]
DAYS_A_YEAR = 365.25


class NewImagesConfig(Section):
    """Where the new images are; nothing is asked of them but that they are images."""

    kind: Literal["folder", "manifest"] = Field(
        "folder", description="folder: files in a folder. manifest: a CSV or Parquet table."
    )
    path: str = Field(
        description="Folder, manifest, zip or tar; local, file:// or https:// (needs sha256)."
    )
    sha256: Sha256 | None = Field(None, description="Digest of the file that path names.")
    manifest: str | None = Field(
        None, description="The manifest's name inside an archive or folder that path names."
    )
    path_column: str = "path"
    at_most: int = Field(
        500, ge=20, le=5000, description="Images that are looked at, drawn at random from all."
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        "skip", description="skip: go on without unreadable images, and say so. fail: stop."
    )
    timeout_seconds: float = Field(60.0, gt=0, description="Longest silence of a download.")

    @model_validator(mode="after")
    def _digest_is_given(self) -> NewImagesConfig:
        if self.path.startswith("https://") and self.sha256 is None:
            raise ValueError("images.sha256 is needed when images.path is an https address")
        return self


class LabelledImagesConfig(NewImagesConfig):
    """New images with labels: a folder for each class, or a manifest with a column of labels."""

    at_most: int = Field(
        10_000, ge=1, description="Images that are scored, drawn at random from all."
    )
    label_column: str = "label"


class ScoringConfig(Section):
    """What the network runs on."""

    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Images scored at once; auto is 256, on a CPU 16 of 224 pixels, 32 of 96.",
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads; null: all there are.")


class WatchConfig(Section):
    """What both have: a registered model, a schedule, and where the report goes."""

    name: Name = Field("watch", description="Names the check, its folder and its MLflow run.")
    seed: int = Field(0, ge=0, lt=2**31)
    model: ModelUri = Field(description="models:/NAME@ALIAS or models:/NAME/VERSION.")
    alpha: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="False alarm rate: share of checks that alert without cause.",
    )
    checks_a_day: float = Field(
        1.0, gt=0, description="How often the schedule runs; for the false alarms of a year."
    )
    scoring: ScoringConfig = ScoringConfig()
    tracking: TrackingConfig = TrackingConfig(experiment="graft-monitoring")
    output: OutputConfig = OutputConfig()

    @property
    def false_alarms_a_year(self) -> float:
        """Return how many alerts to expect in a year in which nothing changes."""
        return self.alpha * self.checks_a_day * DAYS_A_YEAR


class MonitorConfig(WatchConfig):
    """Unlabelled images against those that the model was measured on."""

    example: ClassVar[str] = "configs/monitor_folder.yaml"

    images: NewImagesConfig
    test: Tests = Field(
        "both", description="kernel (MMD), classifier (two-sample test), or both at alpha / 2 each."
    )
    permutations: int = Field(
        1999, ge=99, le=100_000, description="Behind the kernel test's p-value."
    )
    minimum_images: int = Field(20, ge=8, description="With fewer nothing is tested.")
    unusual_images: int = Field(
        12, ge=0, le=64, description="Shown in the report: those least like the reference."
    )
    base: RunConfig | None = Field(
        None, description="The run that made the model; for versions that carry no reference."
    )

    @property
    def tests(self) -> tuple[Literal["kernel", "classifier"], ...]:
        """Return the tests that are made."""
        return ("kernel", "classifier") if self.test == "both" else (self.test,)

    @property
    def level(self) -> float:
        """Return what the p-value of each test must not exceed: their share of ``alpha``."""
        return self.alpha / len(self.tests)

    @model_validator(mode="after")
    def _p_can_be_small_enough(self) -> MonitorConfig:
        if "kernel" in self.tests and self.level * (self.permutations + 1) < 1:
            raise ValueError(
                f"permutations={self.permutations} gives no p-value as small as {self.level:g}, "
                "which alpha asks for"
            )
        return self


class ReevaluateConfig(WatchConfig):
    """New labelled images, on which the model is scored again."""

    example: ClassVar[str] = "configs/reevaluate_folder.yaml"

    images: LabelledImagesConfig
    margin: float = Field(
        0.02, ge=0, lt=1, description="Loss of accuracy that is no reason for an alert."
    )
