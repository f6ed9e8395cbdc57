"""prefect.yaml, deployed to a pool by Prefect's own command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, TrackingError

FILE = Path("prefect.yaml")
SECONDS = 300
WITHOUT_GPU = ("approval", "cleanup", "stale")  # deployments that compute nothing


def read_file() -> dict[str, Any]:
    """Return what prefect.yaml holds; raises ``ConfigError`` where it cannot be read."""
    import yaml

    try:
        content: dict[str, Any] = yaml.safe_load(FILE.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{FILE} cannot be read in {Path.cwd()}: {error.strerror}.\n"
            "Type graft deploy in graft's folder: the workers run in it."
        ) from error
    return content


def deploy_file(content: dict[str, Any], pool: str, variables: Mapping[str, Any]) -> None:
    """Let Prefect's own command deploy all that the file holds; it keeps a text no API takes.

    ``variables`` are those that the pool's job template has. Raises ``TrackingError``.
    """
    with _written(for_pool(content, pool, variables), content) as path:
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(  # noqa: S603 - our own interpreter and fixed words
            [sys.executable, "-m", *command],
            # the file's {{ $PWD }} is the variable, which is a shell's and may be of elsewhere
            env={**os.environ, "PWD": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise TrackingError(
            f"prefect deploy --all did not go well: {words}\nCorrect {FILE}, or see to the server."
        )


def for_pool(content: dict[str, Any], pool: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's content for ``pool``: equal where the file names that pool itself.

    Where a job takes ``gpus`` and ``nodes``, as by .deploy/kubernetes_pool.json, what computes
    nothing takes no GPU of one node.
    """
    least = {name: n for name, n in (("gpus", 0), ("nodes", 1)) if name in variables}
    deployments = []
    for deployment in content["deployments"]:
        place = {**deployment["work_pool"], "name": pool}
        if least and deployment["name"] in WITHOUT_GPU:
            place["job_variables"] = {**place.get("job_variables", {}), **least}
        deployments.append({**deployment, "work_pool": place})
    return {**content, "deployments": deployments}


@contextmanager
def _written(wanted: dict[str, Any], content: dict[str, Any]) -> Iterator[Path]:
    """Yield a file that holds ``wanted``: prefect.yaml itself where that is its ``content``."""
    import yaml

    if wanted == content:
        yield FILE
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE.name
        path.write_text(yaml.safe_dump(wanted, sort_keys=False))
        yield path
