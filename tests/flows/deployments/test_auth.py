"""Prefect's server: for this machine alone, and with a password for who knows it alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.deployments.site import Site, open_site

LOGIN = "graft:prefect-secret-51c0"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Site]:
    """Give a server as docs/security.md says to start it, and nobody's login."""
    with open_site(tmp_path, {"PREFECT_SERVER_API_AUTH_STRING": LOGIN}) as made:
        yield made


def test_nobody_is_let_in_without_the_password(locked: Site, listening):
    assert listening(locked.processes[0].pid) == {"127.0.0.1"}
    for login in (None, "graft:wrong"):
        locked.extra.pop("PREFECT_API_AUTH_STRING", None)
        if login is not None:
            locked.extra["PREFECT_API_AUTH_STRING"] = login
        refused = locked.attempt("status", program="graft")
        assert refused.returncode == 7, refused.stderr
        assert len(refused.stderr.splitlines()) <= 2
        assert LOGIN not in refused.stderr + locked.logs()
    locked.extra["PREFECT_API_AUTH_STRING"] = LOGIN
    let_in = locked.attempt("status", program="graft")
    assert let_in.returncode == 0, let_in.stderr
    assert "PREFECT_API_AUTH_STRING" not in os.environ
