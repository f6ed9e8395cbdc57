"""What a node is told that does not see the same as the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ResourceError
from tasks.finetune.alike import check_alike, sight
from tasks.recipe import TrainingConfig


def test_weights_outside_the_cache_are_asked_for_where_they_are(tmp_path: Path):
    weights = tmp_path / "home" / "w.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    first = sight([weights], TrainingConfig(device="cpu"))
    check_alike(first, first)
    weights.unlink()
    with pytest.raises(ResourceError) as caught:
        check_alike(sight([weights], TrainingConfig(device="cpu")), first)
    what, advice = str(caught.value).splitlines()
    assert what.startswith(f"{weights} is not there, on the first node 7 bytes of ")
    assert "weights outside it" in advice
