"""What a user can set about checks on the data, evaluation and promotion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.measures import Policy
from tasks.recipe import Section

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "brier"]


class ChecksConfig(Section):
    """What happens when the data is found wanting: stop, go on with a word, or leave images out.

    Of images in two splits, and of torn groups, the copies for training are left out, and those
    for validation where the other is for the test; of conflicting labels every copy.
    """

    exact_duplicates: Policy = Field("fail", description="The same file in two splits.")
    near_duplicates: Policy | Literal["off"] = Field(
        "warn", description="Almost the same picture in two splits, by perceptual hash."
    )
    near_distance: int = Field(
        4, ge=0, le=16, description="Bits of 64 by which near duplicates' hashes differ at most."
    )
    conflicting_labels: Policy = Field("fail", description="The same file under two labels.")
    group_leakage: Policy = Field("fail", description="A group (a patient) in two splits.")
    class_drift: Literal["fail", "warn"] = Field(
        "warn", description="Shares of the classes that differ between splits beyond chance."
    )
    drift_alpha: Fraction = Field(0.001, description="Level of the chi-square test for that.")
    tiny_classes: Policy = Field("warn", description="Classes with few training images.")
    tiny_class: int = Field(10, ge=1, description="Fewer training images than this are few.")


class EvaluationConfig(Section):
    """How the chosen model is scored and what the report holds."""

    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Images scored at once; auto is 256, on a CPU 16 of 224 pixels, 32 of 96.",
    )
    confidence: Fraction = Field(0.95, description="Of every interval.")
    bootstrap: int = Field(1000, ge=0, le=100_000, description="Resamples; 0: no intervals.")
    calibrate: bool = Field(True, description="Temperature scaling, chosen on validation.")
    rejection_error: Fraction | None = Field(
        None, description="Error rate wanted among answered images; null: every image is answered."
    )
    novelty: bool = Field(True, description="Energy score of images unlike those of training.")
    explained_images: int = Field(
        8, ge=0, le=64, description="Worst errors shown with what the network looked at."
    )
    robustness_images: int = Field(
        0, ge=0, description="Test images that are scored again under corruptions; 0: none."
    )
    latency_runs: int = Field(
        20, ge=0, le=10_000, description="Predictions that are timed; 0: speed is not measured."
    )


class PromotionConfig(Section):
    """When the new version becomes champion."""

    model: Name = Field("graft", description="The registered model's name.")
    alpha: Fraction = Field(0.05, description="Level of the test against the champion.")
    rule: Literal["superiority", "non_inferiority"] = Field(
        "superiority",
        description="superiority: shown to be better. non_inferiority: shown not to be worse by "
        "promotion.margin or more.",
    )
    metric: Metric = Field(
        "accuracy",
        description="What is compared; accuracy by an exact McNemar test, others by a paired "
        "bootstrap.",
    )
    margin: Fraction = Field(0.01, description="Largest loss that non_inferiority accepts.")
    floors: dict[str, float] = Field(
        {}, description="Least value of a figure, such as accuracy, recall[cat], accuracy[site=A]."
    )
    limits: dict[str, float] = Field(
        {}, description="Greatest value of a figure, such as ece, latency_p95_ms, size_mib."
    )
    minimum_test_images: int = Field(1, ge=1, description="With fewer nothing is promoted.")
    approval: bool = Field(False, description="A person must approve each promotion.")

    @model_validator(mode="after")
    def _bounds_agree(self) -> PromotionConfig:
        for name in self.floors.keys() & self.limits.keys():
            if self.floors[name] > self.limits[name]:
                raise ValueError(f"promotion.floors of {name} is above promotion.limits of it")
        return self
