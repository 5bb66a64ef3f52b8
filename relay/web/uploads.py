"""Documents as they come over the wire: raw or in a form, piece by piece, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import NEED_DATA, Data, Epilogue, Field, File, MultipartDecoder

from relay.dialect import PushRefused
from relay.errors import BodyBroken, TooLarge

_READ: Final = 65_536
#: Of a form: bytes that its reader may hold, bytes of a field, parts, and bytes of all that is not the file.
_HELD_BYTES: Final = 4 * _READ
_FIELD_BYTES: Final = 4096
_MOST_PARTS: Final = 8
_AROUND_BYTES: Final = 65_536


class Upload:
    """The document that a request brings.

    Args:
        environ: of the request. limit: most bytes of a document.

    `content_type` and `name` are known once the first piece is there, `content_type` for sure after the last.
    """

    def __init__(self, environ: dict[str, Any], limit: int) -> None:
        self._environ, self._limit = environ, limit
        self.content_type: str = environ.get("CONTENT_TYPE", "")
        self.name = ""
        self._form = self.content_type.lower().startswith("multipart/form-data")
        if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() not in {"", "identity"}:
            raise PushRefused("Content-Encoding: send the document as it is, not compressed", status=415)

    def pieces(self) -> Iterator[bytes]:
        """The document's bytes.

        Raises:
            TooLarge: it is over the limit. PushRefused: it ended early, or the form holds no document.
        """
        size = 0
        for piece in self._of_form() if self._form else self._raw(self._limit):
            size += len(piece)
            if size > self._limit:
                raise TooLarge(f"a document is over the limit of {self._limit} bytes")
            yield piece

    @property
    def settled(self) -> bool:
        """Whether the content type is known before the document is read."""
        return not self._form

    def _raw(self, limit: int) -> Iterator[bytes]:
        stream, length = self._environ["wsgi.input"], self._environ.get("CONTENT_LENGTH") or ""
        left = int(length) if length.isdigit() else -1
        if left > limit:
            raise TooLarge(f"{left} bytes are over the limit of {limit}")
        if left < 0 and not self._environ.get("wsgi.input_terminated"):
            return
        while left:
            try:
                piece: bytes = stream.read(min(_READ, left) if left > 0 else _READ)
            except (BodyBroken, HTTPException) as error:
                raise PushRefused(f"the document did not come whole: {error}") from None
            if not piece:
                if left > 0:
                    raise PushRefused("the document did not come whole")
                return
            left -= len(piece) if left > 0 else 0
            yield piece

    def _of_form(self) -> Iterator[bytes]:
        boundary = parse_options_header(self.content_type)[1].get("boundary", "")
        if not boundary:
            raise PushRefused("the form has no boundary")
        decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), _HELD_BYTES, max_parts=_MOST_PARTS)
        part, field, told, found = "", b"", "", False
        for event in _events(decoder, self._raw(self._limit + _AROUND_BYTES)):
            if isinstance(event, (Field, File)) and event.name == "file":
                if found:
                    raise PushRefused("the form holds two documents")
                part, found = "file", True
                self.name = (event.filename or "") if isinstance(event, File) else ""
                self.content_type = event.headers.get("Content-Type", "")
            elif isinstance(event, (Field, File)):
                part, field = "type" if event.name == "type" else "", b""
            elif isinstance(event, Data) and part == "file":
                yield bytes(event.data)
            elif isinstance(event, Data) and part == "type":
                field += event.data
                if len(field) > _FIELD_BYTES:
                    raise PushRefused("the form's field `type` is too long")
                told = field.decode("latin-1").strip()
        if not found:
            raise PushRefused("the form has no part `file`")
        self.content_type = told or self.content_type


def _events(decoder: MultipartDecoder, pieces: Iterator[bytes]) -> Iterator[Any]:
    """What a form consists of."""
    try:
        for piece in pieces:
            decoder.receive_data(piece)
            while (event := decoder.next_event()) is not NEED_DATA:
                yield event
                if isinstance(event, Epilogue):
                    return
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), (Epilogue, type(NEED_DATA))):
            yield event
    except (ValueError, HTTPException) as error:
        raise PushRefused(f"the form cannot be read: {str(error)[:200]}") from None
