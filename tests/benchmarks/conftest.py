"""The peers' benchmark, for its tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def bench(repository: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the benchmark's modules, which are imported from the repository's root."""
    monkeypatch.syspath_prepend(str(repository))
    from tests.benchmarks import peer_images, peer_runs, peer_watch
    from tests.benchmarks.peer_jobs import instrument

    return SimpleNamespace(
        images=peer_images, runs=peer_runs, watch=peer_watch, instrument=instrument
    )
