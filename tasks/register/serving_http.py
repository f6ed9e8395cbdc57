"""Connections that bring no request, or take no reply, are closed: uvicorn waits for such for good.

A few hundred of them, which cost their sender nothing, would use up all that a process may open
(slow loris).
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0  # for a request's line and headers, as Apache's mod_reqtimeout gives


class TimedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a time for the head of each request."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Wait on for the rest of a head that has begun, and no longer for one that is whole."""
        super().data_received(data)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        self._stop()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection; one whose last reply is not taken would never be."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _time_head(self) -> None:
        if not self._awaits_head():
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._awaits_head():
            self.timeout_keep_alive_handler()
