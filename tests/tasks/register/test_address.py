"""An address is shown without its login, however odd the password is."""

from __future__ import annotations

import pytest

from tasks.register.address import shown_address


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://graft:pa/ss@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://graft:pa?ss@db/mlflow?sslmode=require", "postgresql://db/mlflow"),
        ("postgresql://graft:p@ss@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://a@b:pa/s@ss@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://db/mlflow?user=u&password=geheim", "postgresql://db/mlflow"),
        ("postgresql://db/mlflow?user=u&password=ge@ss", "postgresql://…"),
        ("https://me:pass@host:443/mlflow", "https://host:443/mlflow"),
        ("https://host/mlflow", "https://host/mlflow"),
        ("sqlite:////home/me@work/mlflow.db?timeout=9", "sqlite:////home/me@work/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_no_login_and_no_query_is_shown(uri: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert shown_address() == shown
    assert shown_address(f"could not ask {uri}.") == f"could not ask {shown}."
