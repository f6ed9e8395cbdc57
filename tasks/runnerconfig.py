"""Where the work of a comparison, a ranking or a search is done: here, or on a Ray cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.recipe import Section


class RunnerConfig(Section):
    """The engine that carries out cells, candidates or trials, several at once."""

    kind: Literal["processes", "ray"] = Field(
        "processes",
        description="processes: on this machine. ray: on a Ray cluster (needs the extra ray), all "
        "of whose machines see output.folder and output.cache at the same paths.",
    )
    address: str | None = Field(
        None, description="HOST:PORT of the cluster's head; null: RAY_ADDRESS, which must be set."
    )
    cpus: float = Field(1.0, gt=0, description="Processors that a piece of work reserves.")
    gpus: float = Field(0.0, ge=0, description="GPUs that a piece of work reserves.")
