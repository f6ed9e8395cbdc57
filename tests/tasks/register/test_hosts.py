"""A host is the tracking server's however it is spelled; others only the reader can allow."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from mlflow.store.artifact.host_policy import HOST_ADDRESSED_ARTIFACT_SCHEMES
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

from tasks.errors import ConfigError
from tasks.register.hosts import PORTS, PROXIED, VARIABLE, refused_host

HTTPS, HTTP = "https://mlflow.example.org", "http://localhost:5000"


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_no_scheme_that_mlflow_knows_to_name_a_host_is_left_out():
    assert {*PORTS, PROXIED} == HOST_ADDRESSED_ARTIFACT_SCHEMES


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("mlflow-artifacts:/1/abc", HTTPS),
        ("mlflow-artifacts://mlflow.example.org/1", HTTPS),
        ("mlflow-artifacts://MLFLOW.example.org:443/1", f"{HTTPS}/prefix"),
        ("https://MLflow.Example.ORG:443/1", HTTPS),
        ("https://me:secret@mlflow.example.org/1", "https://you@mlflow.example.org:443"),
        ("http://127.0.0.1:5000/1", HTTP),
        ("http://[::1]:5000/1", HTTP),
        ("mlflow-artifacts://127.0.0.1:5000/1", HTTP),
        ("hdfs:///models", HTTPS),
        ("viewfs:/models", "postgresql://me:secret@db/mlflow"),
        ("s3://bucket/1", HTTPS),
        ("file:///home/me/mlruns", "sqlite:///mlflow.db"),
        ("abfss://files@mine.dfs.core.windows.net/1", HTTPS),
        ("r2://bucket@mine.r2.cloudflarestorage.com/1", HTTPS),
    ],
)
def test_what_is_the_servers_or_names_no_host_is_asked(address: str, server: str):
    assert refused_host(address, server) is None


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("mlflow-artifacts://evil.example:8443/1", HTTPS),
        ("mlflow-artifacts://mlflow.example.org:8443/1", HTTPS),
        ("mlflow-artifacts://mlflow.example.org/1", f"{HTTPS}:8443"),
        ("http://mlflow.example.org:443/1", HTTPS),  # a login would go unsealed
        ("https://mlflow.example.org.evil.example/1", HTTPS),
        ("https://files.example.org/1", "postgresql://db/mlflow"),
        ("hdfs://evil.example/1", HTTPS),
        ("viewfs://evil.example:8020/1", HTTPS),
        ("ftp:///latest", HTTPS),
        ("abfss://files@mine.dfs.core.windows.net.evil.example/1", HTTPS),
        ("abfss://mine.dfs.core.windows.net@evil.example/1", HTTPS),
    ],
)
def test_other_hosts_only_if_the_reader_allows_them(
    address: str, server: str, monkeypatch: pytest.MonkeyPatch
):
    host = urlsplit(address).netloc.rpartition("@")[2]
    assert refused_host(address, server) == f"{address.partition(':')[0]}://{host}"
    monkeypatch.setenv(VARIABLE, f"other.example, {host.upper()},")
    assert (refused_host(address, server) is None) == bool(host)


def test_what_mlflow_would_ask_is_what_is_compared():
    address = "mlflow-artifacts://evil.example:8443/1/abc"
    assert urlsplit(MlflowArtifactsRepository.resolve_uri(address, HTTPS)).netloc == (
        "evil.example:8443"
    )
    assert refused_host(address, HTTPS) == "mlflow-artifacts://evil.example:8443"


def test_an_allowed_host_is_allowed_at_its_port(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "store:2222,127.0.0.1:21")
    assert refused_host("sftp://me:secret@store:2222/1", HTTPS) is None
    assert refused_host("sftp://store/1", HTTPS) == "sftp://store"
    assert refused_host("ftp://localhost/1", HTTPS) is None


@pytest.mark.parametrize(
    "address", ["https://a:b/1", "https://[::1/1", "http://a\\@localhost:5000"]
)
def test_an_address_that_can_be_read_in_two_ways_is_refused(address: str):
    assert refused_host(address, HTTP)


@pytest.mark.parametrize("entry", ["https://store", "me:hunter2@store", "store:x", ":21"])
def test_a_list_that_cannot_be_read_is_said(entry: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, entry)
    with pytest.raises(ConfigError, match="GRAFT_ARTIFACT_HOSTS has an entry") as caught:
        refused_host("https://elsewhere/1", HTTPS)
    assert "hunter2" not in str(caught.value)
