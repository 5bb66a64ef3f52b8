"""A small TCP proxy that can cut, refuse, and keep back what a server answers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self


class Proxy:
    """Listens on 127.0.0.1 and passes everything on to a Unix socket.

    `silence` is asked of every piece that a client sends: where it says True, the piece is passed on, and nothing
    that the server says afterwards comes back on this connection. `silenced` counts those.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream, self.refusing = upstream, False
        self.silence: Callable[[bytes], bool] = lambda _piece: False
        self.silenced = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """End every connection with a reset, both ways; returns how many there were."""
        with self._lock:
            ended, self._open = self._open, set()
        for one in ended:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        return len(ended) // 2

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                if self.refusing:
                    raise ConnectionRefusedError
                server.connect(self.upstream)
            except OSError:
                client.close()
                server.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            mute = threading.Event()
            for source, target, asks in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, target, mute, asks), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, mute: threading.Event, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                if asks and self.silence(piece):
                    mute.set()
                    self.silenced += 1
                if asks or not mute.is_set():
                    target.sendall(piece)
        with self._lock:
            self._open -= {source, target}
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
