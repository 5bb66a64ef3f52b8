"""Bodies as they come over the wire, within their limit."""

from __future__ import annotations

from typing import Any, Final

from gunicorn.http.errors import ParseException

from relay.bodies import inflate
from relay.errors import BodyBroken, TooLarge, UnsupportedMedia

_CHUNK: Final = 65_536
_PLAIN: Final = frozenset({"", "identity"})
_GZIP: Final = frozenset({"gzip", "x-gzip"})
#: Bytes over the limit that are read and dropped, for a client to be through with sending: only then it reads the
#: answer, and one whose connection is closed before would never learn why.
_DROPPED: Final = 32 * 1024 * 1024


class Body:
    """The stream of a body, whoever reads it: what ends it early is the sender's doing, and no fault of ours.

    Args:
        stream: the server's.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all.

        Raises:
            BodyBroken: the sender went away, or its chunks cannot be read.
        """
        try:
            return bytes(self._stream.read(size))
        except (OSError, ParseException) as error:
            raise BodyBroken(f"it cannot be read: {type(error).__name__}") from None


def read_body(environ: dict[str, Any], limit: int) -> bytes:
    """The raw body, refused as soon as it is over the limit, whether its length was announced or not.

    Werkzeug's own limit cuts a chunked body off instead, and a signature would then seem wrong.

    Raises:
        TooLarge: it is over the limit. BodyBroken: it did not come whole.
    """
    stream, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH") or ""
    announced = int(length) if length.isdigit() else -1
    if announced > limit:
        _drop(stream, announced)
        raise TooLarge(f"{announced} bytes are over the limit of {limit}")
    if announced >= 0:
        body: bytes = stream.read(announced)
        if len(body) < announced:
            raise BodyBroken(f"only {len(body)} of {announced} bytes came")
        return body
    if not environ.get("wsgi.input_terminated"):
        return b""
    parts, size = [], 0
    while part := stream.read(_CHUNK):
        size += len(part)
        if size > limit:
            _drop(stream, _DROPPED)
            raise TooLarge(f"a chunked body is over the limit of {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def read_plain(environ: dict[str, Any], limit: int) -> bytes:
    """A body as it was before it was compressed, if it was; the limit is that of both.

    Raises:
        TooLarge, BodyBroken: as `read_body`. UnsupportedMedia: it is compressed otherwise than with gzip, or that
            is broken.
    """
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    body = read_body(environ, limit)
    if encoding in _PLAIN:
        return body
    if encoding not in _GZIP:
        raise UnsupportedMedia(f"content-encoding {encoding[:40]!r}", reason="unsupported_encoding")
    return inflate(body, limit)


def _drop(stream: Any, most: int) -> None:
    if most > _DROPPED:
        return
    while most > 0 and (part := stream.read(min(most, _CHUNK))):
        most -= len(part)
