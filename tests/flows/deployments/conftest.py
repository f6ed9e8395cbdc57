"""One Prefect server and one worker for all tests of the deployments: they take long to start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.deployments.site import Site, open_site
from tests.flows.deployments.vault import Vault, open_vault


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory, images: Callable[..., Path]) -> Iterator[Vault]:
    """Give images and weights by https, to those who know the secrets."""
    folder = tmp_path_factory.mktemp("vault")
    with open_vault(folder, images(folder / "photos")) as made:
        yield made


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, vault: Vault) -> Iterator[Site]:
    """Give a server on which everything in prefect.yaml is deployed, and a worker for it."""
    with open_site(tmp_path_factory.mktemp("site"), vault.environment) as made:
        made.call("deploy", "--gpus", "2", program="graft")
        made.start_worker()
        yield made
