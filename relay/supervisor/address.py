"""The listening socket: opened by the supervisor, inherited by gunicorn.

While gunicorn is started again, callers wait in the socket's queue instead of being refused; and no other program
can take the port in between.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from relay.errors import RelayError

_BACKLOG: Final = 2048
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - names, not a bind


class Address:
    """An open, listening socket.

    Args:
        host: a name or an address. port: 0 for any free one.

    Raises:
        RelayError: it cannot be listened on; one sentence.
    """

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise RelayError(_reason(error, host, port)) from None
        self.port: int = self._socket.getsockname()[1]
        #: Where this machine reaches it.
        self.reach = _EVERYWHERE.get(host, host)

    @property
    def fd(self) -> int:
        """The open file that a part inherits."""
        return self._socket.fileno()

    @property
    def url(self) -> str:
        """Its address for a browser on this machine."""
        return f"http://{f'[{self.reach}]' if ':' in self.reach else self.reach}:{self.port}"

    def close(self) -> None:
        """Stop listening, as far as this process goes."""
        self._socket.close()


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program: stop that, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has: choose one above 1023 with --port"
    return f"cannot listen on {host}:{port} ({error.strerror or error}): check the settings host and port"
