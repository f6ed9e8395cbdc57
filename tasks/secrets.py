"""Secrets in addresses, by name: ``https://host/photos.zip?sig=${secret:photos}``.

The name stands in the config, in Prefect's parameters, in MLflow, in logs and in cache keys; the
value takes its place only in the request that is sent. It comes from the variable
``GRAFT_SECRET_PHOTOS`` of the process that sends it, else from what ``look_in`` was given: the
flows look for Prefect's Secret block ``photos``. Other variables cannot be named: whoever may
submit a config could send them to a host of theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.errors import ConfigError, GraftError

PREFIX = "GRAFT_SECRET_"
MARK = "${secret:"
_PLACE = re.compile(r"\$\{secret:([a-z0-9]+(?:-[a-z0-9]+)*)\}")
_SENDABLE = re.compile(r"[!-~]+")

Reader = Callable[[str], str | None]

_readers: list[Reader] = []


def look_in(read: Reader) -> None:
    """Let ``read``, which returns a secret's value or None, be asked where no variable is set."""
    _readers.append(read)


def check_places(address: str, error: type[GraftError]) -> None:
    """Raise ``error`` for a secret that is not well named, or stands in no https address."""
    if MARK not in address:
        return
    if not address.startswith("https://"):
        raise error(
            f"{address} names a secret, which only an https:// address may.\n"
            "Give a path without one, or an https:// address with a sha256."
        )
    if MARK in _PLACE.sub("", address):
        raise error(
            f"{_PLACE.sub('…', address)} names a secret in a way that is not known.\n"
            "Write ${secret:NAME}, the name in lowercase letters, digits and dashes."
        )


@contextmanager
def revealed(address: str) -> Iterator[str]:
    """Yield ``address`` with its secrets' values in their places, and keep them out of errors.

    Raises ``ConfigError`` for a secret that is not there, or cannot stand in an address.
    """
    values = {name: _value(name) for name in _PLACE.findall(address)}
    try:
        yield _PLACE.sub(lambda place: values[place[1]], address)
    except GraftError as error:
        words = str(error)
        for name, value in values.items():
            words = words.replace(value, place_of(name))
        if words == str(error):
            raise
        raise type(error)(words) from None


def place_of(name: str) -> str:
    """Return what stands for the secret ``name`` in an address."""
    return f"{MARK}{name}}}"


def variable_of(name: str) -> str:
    """Return the variable that may hold the secret ``name``."""
    return PREFIX + name.upper().replace("-", "_")


def _value(name: str) -> str:
    value = os.environ.get(variable_of(name)) or next(filter(None, (r(name) for r in _readers)), "")
    if not value:
        raise ConfigError(
            f"The secret {name} is neither in {variable_of(name)} nor in a Prefect Secret block.\n"
            "Set the variable where the run works, or make the block in Prefect's pages."
        )
    if not _SENDABLE.fullmatch(value):
        raise ConfigError(
            f"The secret {name} holds characters that no address may.\n"
            "Percent-encode them in its value."
        )
    return value
