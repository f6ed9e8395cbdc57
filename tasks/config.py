"""What a user can set: one frozen pydantic model a section, no key accepted that is not here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.evaluationconfig import (
    ChecksConfig,
    EvaluationConfig,
    Fraction,
    Name,
    PromotionConfig,
)
from tasks.recipe import Section, StrategyConfig, TrainingConfig

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]


class DataConfig(Section):
    """Where the images are and how they are split."""

    kind: Literal["digits", "cifar10", "folder", "manifest", "shards"] = Field(
        "folder",
        description="digits: scikit-learn's. cifar10: the binary release. folder: class folders. "
        "manifest: a CSV or Parquet table of paths and labels. shards: WebDataset tar files that "
        "graft shards indexed, here or at any address of fsspec's (s3://bucket/folder).",
    )
    path: str | None = Field(
        None, description="Folder, manifest, zip or tar; local, file:// or https:// (needs sha256)."
    )
    sha256: Sha256 | None = Field(None, description="Digest of the file that path names.")
    train: str | None = Field(
        None, description="Folder (or split value) of the training images; null: found by name."
    )
    val: str | None = Field(
        None, description="The same for validation; null: by name, else split off the train images."
    )
    test: str | None = Field(
        None, description="The same for the test; null: by name, else split off the train images."
    )
    val_fraction: Fraction = Field(0.1, description="Share split off for validation.")
    test_fraction: Fraction = Field(0.2, description="Share split off for the test.")
    manifest: str | None = Field(
        None, description="The manifest's name inside an archive or folder that path names."
    )
    path_column: str = "path"
    label_column: str = "label"
    multi_label: bool = Field(
        False, description="An image may have several labels, or none; manifest only."
    )
    label_separator: str = Field(
        "|", min_length=1, max_length=5, description="Between the labels of one image."
    )
    split_column: str | None = Field(
        None, description="Manifest column that holds the split; null: split, if there is one."
    )
    group_column: str | None = Field(
        None,
        description="Manifest column (a patient, a session) never torn between splits; "
        "null: group, if there is one.",
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        "fail", description="fail: stop and list every unreadable image. skip: go on without them."
    )
    slice_columns: tuple[str, ...] = Field(
        (), description="Manifest columns whose values are reported on one by one."
    )
    checks: ChecksConfig = ChecksConfig()
    timeout_seconds: float = Field(60.0, gt=0, description="Longest silence of a download.")

    @model_validator(mode="after")
    def _path_is_given(self) -> DataConfig:
        if self.path is None and self.kind in ("folder", "manifest", "shards"):
            raise ValueError(f"data.path is needed when data.kind is {self.kind}")
        if self.kind == "shards" and re.search(r"://.*[@?]", self.path or ""):
            raise ValueError("data.path of shards holds a login or query: set keys outside of it")
        if self.path is not None and self.path.startswith("https://") and self.sha256 is None:
            raise ValueError("data.sha256 is needed when data.path is an https address")
        if self.multi_label and self.kind != "manifest":
            raise ValueError("data.multi_label=true needs data.kind=manifest")
        if len(set(self.slice_columns)) < len(self.slice_columns):
            raise ValueError("data.slice_columns names a column twice")
        return self


class PreprocessConfig(Section):
    """How images are put before the network; null means as the weights were trained."""

    resize: int | None = Field(None, ge=1, le=4096, description="Short side after resize, px.")
    crop: int | None = Field(None, ge=1, le=4096, description="Side of the centre crop, px.")
    mean: Triple | None = Field(None, description="RGB mean, on the scale 0 to 1.")
    std: Triple | None = Field(None, description="RGB standard deviation, same scale.")
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> PreprocessConfig:
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError("preprocess.crop must not be larger than preprocess.resize")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("preprocess.std must be above 0 in every channel")
        return self


class ModelConfig(Section):
    """Which pretrained network to start from."""

    architecture: str = Field(
        "resnet18",
        description="graft_tiny, any torchvision classification architecture, or timm:NAME "
        "(needs the extra timm).",
    )
    weights: str | None = Field(
        "torchvision:DEFAULT",
        description="torchvision:NAME (an enum member), timm:TAG or timm:DEFAULT (from the "
        "Hugging Face hub), graft:tiny-cifar10 (shipped), a path, file:// or https:// "
        "(.safetensors or .pth), models:/NAME@ALIAS, or null for none.",
    )
    sha256: Sha256 | None = Field(None, description="Digest of the weights file.")

    @model_validator(mode="after")
    def _digest_is_given(self) -> ModelConfig:
        if (self.weights or "").startswith("https://") and self.sha256 is None:
            raise ValueError("model.sha256 is needed when model.weights is an https address")
        return self


class TrackingConfig(Section):
    """Where the run is written down; MLFLOW_TRACKING_URI names another server."""

    experiment: str = Field("graft", min_length=1, max_length=200)


class OutputConfig(Section):
    """Where files go."""

    folder: Path = Field(Path("mlruns/runs"), description="Run folders are made in here.")
    cache: Path | None = Field(
        None, description="Downloads and packed images; null: GRAFT_CACHE or ~/.cache/graft."
    )


class RunConfig(Section):
    """One run, complete: everything that decides what is trained, on what, and where it goes."""

    name: Name = Field("transfer", description="Names the run, its folder and its MLflow run.")
    seed: int = Field(0, ge=0, lt=2**31)
    data: DataConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelConfig = ModelConfig()
    strategy: StrategyConfig = StrategyConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    promotion: PromotionConfig = PromotionConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _sections_go_together(self) -> RunConfig:
        if (self.strategy.kind == "scratch") != (self.model.weights is None):
            raise ValueError(
                "strategy.kind=scratch goes with model.weights=null, and only with that"
            )
        if self.strategy.kind == "distill" and self.training.mixes:
            raise ValueError(
                "training.mixup and cutmix must be 0 with strategy.kind=distill: the teacher is "
                "asked about whole images"
            )
        if self.data.kind == "shards" and self.training.balance == "sampler":
            raise ValueError(
                "training.balance=sampler draws single images, and those of data.kind=shards come "
                "as a stream: set class_weights"
            )
        return self
