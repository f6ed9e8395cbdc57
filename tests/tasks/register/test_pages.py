from __future__ import annotations

import pytest

from tasks.register.pages import file_page


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        (None, None),
        ("sqlite:///some/mlflow.db", None),
        ("databricks", None),
        ("http://host:5000", "http://host:5000/#/experiments/1/runs/abc/artifacts/a%20b.html"),
        (
            "https://me:secret@host/mlflow/",
            "https://host/mlflow/#/experiments/1/runs/abc/artifacts/a%20b.html",
        ),
    ],
)
def test_only_a_server_has_pages_and_no_password_is_in_their_address(monkeypatch, uri, page):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert file_page("1", "abc", "a b.html") == page
