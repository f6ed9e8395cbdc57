"""Secrets that are kept in Prefect's Secret blocks, read when a flow needs them."""

from __future__ import annotations


def read_block(name: str) -> str | None:
    """Return the value of the block ``secret/NAME``; None where there is none, or no server.

    Raises the client's ``httpx`` errors when the server does not answer.
    """
    from prefect.blocks.system import Secret
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        return None
    try:
        value = Secret.load(name, _sync=True).get()  # type: ignore[call-arg, union-attr]
    except ValueError:  # so says Prefect where there is none
        return None
    return value if isinstance(value, str) else None
