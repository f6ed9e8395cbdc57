"""One Prefect server and one worker for all tests of the deployments: they take long to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.deployments.site import Site, open_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a server on which everything in prefect.yaml is deployed, and a worker for it."""
    with open_site(tmp_path_factory.mktemp("site")) as made:
        made.call("work-pool", "create", "graft", "--type", "process")
        made.call("deploy", "--all")
        made.start_worker()
        yield made
