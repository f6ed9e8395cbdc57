"""The flow that makes the shipped backbone begins as every other does."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tasks.configfile import load_config
from tasks.errors import ConfigError


@pytest.fixture
def connected(prefect_url: str):
    """Point this process's Prefect client at the server the runs use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("lost", ["prepared", "."])
def test_what_is_gone_from_the_cache_is_made_again(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: str
):
    from flows.pretrain import pretrain

    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", workspace / "photos")
    config = load_config(
        workspace / "good.yaml", [f"data.path={archive}", f"output.cache={tmp_path / 'cache'}"]
    )
    pretrain(config, tmp_path / "first")
    shutil.rmtree(tmp_path / "cache" / lost)
    with caplog.at_level(logging.INFO):
        weights = pretrain(config, tmp_path / "second")
    assert weights.is_file()
    assert "made again" in caplog.text


@pytest.mark.usefixtures("connected")
def test_it_starts_from_random_weights_alone(workspace: Path, tmp_path: Path):
    from flows.pretrain import pretrain

    values = ["strategy.kind=full", "model.weights=graft:tiny-cifar10"]
    with pytest.raises(ConfigError, match="random weights"):
        pretrain(load_config(workspace / "good.yaml", values), tmp_path / "out")
    assert not (tmp_path / "out").exists()
