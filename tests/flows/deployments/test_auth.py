"""Prefect's server: for this machine alone, and with a password for who knows it alone."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
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
    assert "PREFECT_API_AUTH_STRING" not in os.environ
    for login in (None, "graft:wrong"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(_question(locked, login), timeout=60)
    refused = locked.attempt("status", program="graft")
    assert refused.returncode == 7, refused.stderr
    assert len(refused.stderr.splitlines()) <= 2
    assert LOGIN not in refused.stderr + locked.logs()
    locked.extra["PREFECT_API_AUTH_STRING"] = LOGIN
    let_in = locked.attempt("status", program="graft")
    assert let_in.returncode == 0, let_in.stderr


def _question(site: Site, login: str | None) -> urllib.request.Request:
    coded = base64.b64encode((login or "").encode()).decode()
    headers = {} if login is None else {"Authorization": f"Basic {coded}"}
    return urllib.request.Request(f"{site.url}/work_pools/filter", b"{}", headers)
