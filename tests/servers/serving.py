"""A real HTTP server for the tests, whose connections can all be ended at once."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Server(ThreadingHTTPServer):
    """Serves one API.

    Args:
        address: host and port. handler: of its requests; finds the API as `server.api`. api: what is served.
    """

    daemon_threads = False  # server_close joins them
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], api: Any) -> None:
        super().__init__(address, handler)
        self.api = api
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_off(self) -> None:
        """End every connection, so that no thread waits for a next request."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


class Served:
    """An API that listens on 127.0.0.1 while it is entered.

    Args:
        handler: of its requests. port: 0: any.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0) -> None:
        self._http = Server(("127.0.0.1", port), handler, self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name=type(self).__name__)

    @property
    def host(self) -> str:
        """Its address and port."""
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more, and end every connection."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.cut_off()
        self._http.server_close()
