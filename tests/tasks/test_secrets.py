"""Secrets by name in addresses: where they may stand, and that no error tells their value."""

from __future__ import annotations

import pytest

from tasks import secrets
from tasks.config import RunConfig
from tasks.errors import ConfigError, DataError, TransientDataError
from tasks.public import check_no_secrets, public_config
from tasks.secrets import check_places, look_in, revealed

ADDRESS = "https://host/photos.zip?sig=${secret:photo-store}&v=1"


def test_a_variable_is_preferred_to_what_readers_know(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(secrets, "_readers", [])
    look_in(lambda name: None)
    look_in({"photo-store": "from-block"}.get)
    with revealed(ADDRESS) as real:
        assert real == "https://host/photos.zip?sig=from-block&v=1"
    monkeypatch.setenv("GRAFT_SECRET_PHOTO_STORE", "from-env")
    with revealed(ADDRESS) as real:
        assert real == "https://host/photos.zip?sig=from-env&v=1"


def test_an_address_without_secrets_stays_as_it_is():
    with revealed("https://host/${HOME}/$x?a=${y}") as real:
        assert real == "https://host/${HOME}/$x?a=${y}"


def test_what_is_raised_does_not_tell_the_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAFT_SECRET_PHOTO_STORE", "s3cr3t")
    with pytest.raises(TransientDataError) as raised, revealed(ADDRESS):
        raise TransientDataError("https://host/s3cr3t redirects to http://host/s3cr3t")
    told = "https://host/${secret:photo-store} redirects to http://host/${secret:photo-store}"
    assert str(raised.value) == told
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(("value", "words"), [("", "is neither in"), ("a b", "no address may")])
def test_a_secret_that_cannot_be_used_is_told_by_its_name(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(secrets, "_readers", [])
    monkeypatch.setenv("GRAFT_SECRET_PHOTO_STORE", value)
    with pytest.raises(ConfigError, match=f"The secret photo-store .*{words}"), revealed(ADDRESS):
        pass


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("photos/${secret:x}.zip", "only an https:// address"),
        ("file:///${secret:x}", "only an https:// address"),
        ("https://host/?a=${secret:Upper}", "lowercase"),
        ("https://host/?a=${secret:x", "lowercase"),
    ],
)
def test_a_misplaced_or_misspelt_secret_is_refused(address: str, words: str):
    with pytest.raises(DataError, match=words):
        check_places(address, DataError)


def config_of(path: str) -> RunConfig:
    data = {"kind": "folder", "path": path, "sha256": "0" * 64}
    return RunConfig.model_validate({"data": data})


def test_prefect_is_given_no_query_that_may_be_a_secret():
    check_no_secrets(config_of(ADDRESS))
    check_no_secrets(config_of("https://host/photos.zip"))
    check_no_secrets(config_of("photos?.zip"))
    with pytest.raises(ConfigError, match=r"data\.path has a query") as raised:
        check_no_secrets(config_of("https://host/photos.zip?sig=s3cr3t"))
    assert "s3cr3t" not in str(raised.value)
    assert public_config(config_of(ADDRESS)).data.path == "https://host/photos.zip?…"
