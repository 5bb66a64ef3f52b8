"""Bodies of requests: inflated, decoded, without card numbers. Pure."""

from __future__ import annotations

import zlib
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

from relay import cards
from relay.errors import MalformedPayload, TooLarge, UnsupportedMedia
from relay.records import Request, decode_json
from relay.redaction import Redaction

_MAX_FORM_FIELDS: Final = 10_000


def inflate(body: bytes, limit: int) -> bytes:
    """A gzip body, refused as soon as it grows over the limit."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error:
        raise UnsupportedMedia("the body is not gzip", reason="not_gzip") from None
    if len(plain) > limit:
        raise TooLarge("the body is too large once inflated")
    if not stream.eof or stream.unused_data:
        raise UnsupportedMedia("the gzip body is cut off, or has something behind it", reason="not_gzip")
    return plain


def is_form(request: Request) -> bool:
    """Whether a request says that its body is a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/x-www-form-urlencoded"


def decode_body(request: Request, *, forms: bool) -> Any:
    """A body as a value: JSON, a form as a mapping of lists of values, or the JSON in a form's `payload` field.

    Raises:
        MalformedPayload: it is none of these.
    """
    if not is_form(request):
        return decode_json(request.body)
    try:
        pairs = parse_qsl(
            request.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except (UnicodeDecodeError, ValueError):
        raise MalformedPayload("the body is not a form", reason="not_form") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    if forms:
        return fields
    if len(fields.get("payload", ())) == 1:
        return decode_json(fields["payload"][0].encode())
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def without_cards(request: Request, data: Any) -> Any:
    """A decoded body with card numbers in its texts masked; the very same object where there are none."""
    # A form's bytes say nothing of its texts, which are written with escapes.
    return cards.masked(data) if is_form(request) or cards.suspected(request.body) else data


def unread_without_cards(request: Request) -> bytes:
    """What may be kept of a body that cannot be decoded: itself, masked; of a form with a card its hash."""
    if is_form(request):
        plain = unquote_to_bytes(request.body.replace(b"+", b" "))
        return request.body if cards.unread(plain) == plain else Redaction.unread(request.body)
    return cards.unread(request.body)
