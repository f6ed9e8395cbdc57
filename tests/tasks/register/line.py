"""A line to a server that can be cut: between requests, or between a request and its answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Line:
    """Passes TCP connections on to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._far_port = port
        self._open: set[socket.socket] = set()
        self._lost = b""
        self.sent = bytearray()  # all that was asked
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lose(self, words: bytes) -> None:
        """Let the next request with these words through, and cut it off before its answer."""
        self._lost = words

    def down(self) -> None:
        """Cut every connection, and refuse any other."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._far_port))
                self._open |= {near, far}
                threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        """Pass on, request by request: the next one comes when the last is answered."""
        cut = threading.Event()
        threading.Thread(target=self._answer, args=(near, far, cut), daemon=True).start()
        with suppress(OSError):
            while piece := near.recv(1 << 16):
                self.sent += piece
                if self._lost and self._lost in piece:
                    self._lost = b""
                    cut.set()
                far.sendall(piece)
        self._close(near, far)

    def _answer(self, near: socket.socket, far: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while piece := far.recv(1 << 16):
                if cut.is_set():
                    break
                near.sendall(piece)
        self._close(near, far)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
