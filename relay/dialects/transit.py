"""Transit-JSON, read into JSON values: what stitchclient and the Clojure and Java clients of Stitch write.

Own code, since the one library on PyPI (transit-python2, last touched in 2018; stitchclient brings a copy of its
forerunner along) reads every decimal as a float, and gives types of its own that would all have to be turned back.
https://github.com/cognitect/transit-format

Whatever JSON has no word for becomes the nearest that it has: keywords, symbols, URIs and UUIDs are text, moments
are ISO 8601 text, sets and lists are arrays, what is not a number is null.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.records import decode_json, encode_json, instant_of_ns

_MAP: Final = "^ "
_FIRST: Final = 48
_DIGITS: Final = 44
_CACHED: Final = _DIGITS * _DIGITS
_SHORTEST: Final = 4


class _Tag(str):
    """The name of a tagged value's tag, on its own a string of no meaning."""

    __slots__ = ()


def decode(body: bytes) -> Any:
    """A body as JSON values.

    Raises:
        MalformedPayload: it is not JSON, or not Transit.
    """
    data = decode_json(body)
    try:
        return _Reader().value(data)
    except (ValueError, InvalidOperation, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise MalformedPayload(f"the body is not Transit: {type(error).__name__}", reason="not_json") from None


def _moment(text: Any) -> str:
    return instant_of_ns(int(text) * 1_000_000).isoformat().replace("+00:00", "Z")


def _number(text: Any) -> Decimal | None:
    number = Decimal(str(text))
    return number if number.is_finite() else None


_SCALARS: Final[dict[str, Callable[[Any], Any]]] = {
    "_": lambda _: None,
    "?": lambda text: text in ("t", True),
    "i": int,
    "n": int,
    "d": _number,
    "f": _number,
    "z": lambda _: None,
    "m": _moment,
}


class _Reader:
    """Reads one body; keys and tags that were seen are meant by short codes."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def value(self, node: Any) -> Any:
        if isinstance(node, str):
            return self._text(node, key=False)
        if isinstance(node, list):
            return self._list(node)
        if isinstance(node, dict):
            return self._dict(node)
        return node

    def _list(self, node: list[Any]) -> Any:
        if not node:
            return []
        if node[0] == _MAP:
            if len(node) % 2 == 0:
                raise ValueError
            # A key is read before its value, and that before the next key: the codes count on it.
            return {self._key(node[at]): self.value(node[at + 1]) for at in range(1, len(node), 2)}
        first = self.value(node[0])
        if isinstance(first, _Tag):
            return self._tagged(first, self.value(node[1]))
        return [first, *map(self.value, node[1:])]

    def _dict(self, node: dict[str, Any]) -> Any:
        found: dict[str, Any] = {}
        for name, inner in node.items():
            key = self._text(name, key=True)
            if isinstance(key, _Tag) and len(node) == 1:
                return self._tagged(key, self.value(inner))
            found[_word(key)] = self.value(inner)
        return found

    def _key(self, node: Any) -> str:
        return _word(self._text(node, key=True) if isinstance(node, str) else self.value(node))

    def _text(self, text: str, *, key: bool) -> Any:
        if text[:1] == "^" and text != _MAP:
            text = self._seen[_place(text)]
        elif len(text) >= _SHORTEST and (key or text[:2] in ("~#", "~$", "~:")):
            if len(self._seen) == _CACHED:
                self._seen.clear()
            self._seen.append(text)
        if text[:1] != "~":
            return text
        kind, rest = text[1:2], text[2:]
        if kind in ("~", "^", "`"):
            return text[1:]
        if kind == "#":
            return _Tag(rest)
        return _SCALARS[kind](rest) if kind in _SCALARS else rest

    @staticmethod
    def _tagged(tag: str, inner: Any) -> Any:
        if tag == "cmap":
            return {_word(inner[at]): inner[at + 1] for at in range(0, len(inner), 2)}
        return _SCALARS[tag](inner) if tag in _SCALARS else inner


def _place(code: str) -> int:
    digits = [ord(digit) - _FIRST for digit in code[1:]]
    return digits[0] if len(digits) == 1 else digits[0] * _DIGITS + digits[1]


def _word(key: Any) -> str:
    return str(key) if isinstance(key, str) else encode_json(key).decode()
