"""What ``graft cleanup`` reads: how much is kept of run folders, caches and registered versions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tasks.evaluationconfig import Name
from tasks.recipe import Section


class RunsRule(Section):
    """A run folder stays if it is among the newest, or young, or an aliased version's."""

    folder: Path = Field(Path("mlruns/runs"), description="Where runs make their folders.")
    keep: int = Field(20, ge=0, description="The newest so many stay.")
    days: float = Field(30.0, ge=0, description="Younger ones stay as well.")


class StudioRule(Section):
    """A job stays as a run folder does, an upload if it is young or a job that stays names it."""

    folder: Path = Field(Path("mlruns/studio"), description="The studio's --folder.")
    keep: int = Field(20, ge=0, description="The newest so many jobs stay.")
    days: float = Field(30.0, ge=0, description="Younger jobs and uploads stay as well.")


class CachesRule(Section):
    """What was not used for long goes, and of the rest the longest unused, down to a size."""

    folder: Path | None = Field(None, description="null: GRAFT_CACHE or ~/.cache/graft.")
    days: float = Field(30.0, ge=0, description="What was used since stays, if there is room.")
    gigabytes: float | None = Field(
        50.0, ge=0, description="All of it together, in 10^9 bytes; null: however much."
    )


class VersionsRule(Section):
    """A version stays if it is among a model's newest, young, or needed by one that stays."""

    models: tuple[Name, ...] | None = Field(None, description="Registered models; null: all.")
    keep: int = Field(10, ge=1, description="The newest so many of each model stay.")
    days: float = Field(90.0, ge=0, description="Younger ones stay as well.")
    mlflow_runs: bool = Field(
        False, description="Delete the MLflow run of a version along with it."
    )


class CleanupConfig(Section):
    """What goes; a part that is null is left alone."""

    example: ClassVar[str] = "configs/cleanup.yaml"

    runs: RunsRule | None = RunsRule()
    studio: StudioRule | None = None
    caches: CachesRule | None = CachesRule()
    versions: VersionsRule | None = VersionsRule()
