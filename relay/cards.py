r"""Card numbers in free text, masked before anything is stored. Pure.

A card number is an issuer's prefix with a length of that issuer and a right check digit (ISO/IEC 7812-1), plain or
in a usual grouping. One id in ten passes the check digit, so that ids are told apart by where they stand:

* JSON numbers, and strings of nothing but digits, spaces and hyphens, are ids.
* So are digits that are part of a longer token: next to a letter, behind `/ = # _ & ? @ % + ~ \`, joined to
  letters or digits by a hyphen or a decimal point, or anywhere in a URL.

The last four digits stay, and the separators; what is masked is not found again.
https://www.iso.org/standard/70484.html · https://en.wikipedia.org/wiki/Payment_card_number
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.records import decode_json, encode_json

#: Prefixes from … to, and the lengths that the issuer gives.
_ISSUERS: Final[tuple[tuple[int, int, Collection[int]], ...]] = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (6011, 6011, range(16, 20)),  # Discover
    (644, 649, range(16, 20)),
    (65, 65, range(16, 20)),
    (3528, 3589, range(16, 20)),  # JCB
    (300, 305, range(14, 20)),  # Diners Club
    (3095, 3095, range(14, 20)),
    (36, 36, range(14, 20)),
    (38, 39, range(14, 20)),
    (62, 62, range(16, 20)),  # UnionPay
)
_LENGTHS: Final = {
    f"{first}": frozenset(
        n for low, high, ns in _ISSUERS if low <= int(f"{first}"[: len(f"{low}")]) <= high for n in ns
    )
    for first in range(2000, 7000)
}
_NONE: Final[frozenset[int]] = frozenset()
_PREFIXES: Final = frozenset(prefix.encode() for prefix, lengths in _LENGTHS.items() if lengths)
#: How digits are grouped, longest first.
_SHAPES: Final = tuple(
    (sum(shape), shape)
    for shape in (
        *((4, 4, 4, 4, n) for n in (3, 2, 1)),
        *((4, 4, 4, n) for n in (4, 3, 2, 1)),
        (4, 6, 5),
        (4, 6, 4),
        (6, 13),
        *((n,) for n in range(19, 12, -1)),
    )
)
_START: Final = re.compile(
    r"(?<![\w/=#&?@%+~\\])(?<![\w.,]-)(?<![0-9][.,])(?<!=[\"'])"
    r"(?<!\*{4})(?<!\*{4}[ -])(?<!\*[ -]\*)"  # nor with the digits that are shown of a masked number
    r"(?=[2-6][0-9]{3})"
)
_GROUPS: Final = re.compile(r"[0-9]++(?:[ -][0-9]++){0,4}+")
#: What may not follow: a letter, a digit, the rest of a decimal number, of a token, of an address or of a path.
_GOES_ON: Final = re.compile(r"[\w@]|[.,][0-9]|-\w|/[^\W\d]")
_URL: Final = re.compile(r"://|www\.", re.IGNORECASE)
_BARE: Final = re.compile(r"[0-9\s-]*+")
_SHOWN: Final = 4
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
_PLAIN: Final = b"0" * 13
_GROUPED: Final = b"0000-0000"
_ESCAPED: Final = re.compile(rb"\\u00(?:3[0-9]|2[0dD])")
#: Digits are one another's like, and so are the separators.
_LIKE: Final = bytes.maketrans(b"123456789 ", b"000000000-")
_ZERO: Final = ord("0")
_FIRST: Final = frozenset(b"23456")
#: What ids stand behind, also as JSON writes it; letters may be the end of an escape.
_MARKS: Final = frozenset(bytes([c]) for c in b"/=#_&?@%+~")
_TOKENS: Final = _MARKS | {bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
#: A number of JSON stands behind a name and a colon; but this may be within a string, where quotes are escaped.
_NUMBER_BEHIND: Final = (b'":', b'": ', b'" : ')
_QUOTED_BEHIND: Final = re.compile(rb'\\" ?: ?\Z')
_SECOND_GROUP: Final = 5
_ESCAPE: Final = rb"\u"
_HEX_DIGITS: Final = 4
#: Longer than any card number with its separators.
_WINDOW: Final = 32
_LONGEST: Final = 19
#: A word is looked through for a URL's mark this far back.
_WORD: Final = 2048


def suspected(body: bytes) -> bool:
    """Whether a JSON body may hold a card number; quick, and never wrong where it says no."""
    like, escapes = body.translate(_LIKE), b"\\" in body
    at = like.find(_PLAIN)
    while at >= 0:
        if (body[at] in _FIRST or escapes) and _begins(body, at, escapes=escapes):
            return True
        at = like.find(_PLAIN, at + len(_PLAIN))
    at = like.find(_GROUPED)
    while at >= 0:
        if _begins(body, _first_digit(like, at), escapes=escapes):
            return True
        at = like.find(_GROUPED, at + _SECOND_GROUP)
    return escapes and _ESCAPED.search(body) is not None


def _first_digit(like: bytes, at: int) -> int:
    """Where the run of digits begins that holds a place, or somewhere in a run that is too long."""
    least = max(0, at - _LONGEST)
    while at > least and like[at - 1] == _ZERO:
        at -= 1
    return at


def _behind_escape(body: bytes, start: int) -> int:
    """Where a run of digits begins behind an escaped character whose digits ran into it."""
    for before in range(min(_HEX_DIGITS, start - 1)):
        if body.startswith(_ESCAPE, start - before - len(_ESCAPE)):
            return start + _HEX_DIGITS - before
    return start


def _begins(body: bytes, start: int, *, escapes: bool) -> bool:
    """Whether a card number begins here; not where JSON itself shows that it is an id."""
    if escapes:
        start = _behind_escape(body, start)
    if body[start : start + 4] not in _PREFIXES or body[start - 1 : start] in (_MARKS if escapes else _TOKENS):
        return False
    if body.endswith(_NUMBER_BEHIND, 0, start) and not (escapes and _QUOTED_BEHIND.search(body, start - 5, start)):
        return False
    groups = _GROUPS.match(body[start : start + _WINDOW].decode("latin-1"))
    if groups is None or not _numbers(groups[0]):
        return False
    end = start + groups.end()
    bare = body.endswith(b'"', 0, start) and body[end : end + 1] == b'"'
    return not bare or body.endswith(b'\\"', 0, start)


def text(value: str) -> str:
    """One text with its card numbers masked."""
    if _BARE.fullmatch(value):
        return value
    if value[:1] in {"{", "["} and (inner := _json(value)) is not None:
        done = masked(inner)
        return value if done is inner else encode_json(done).decode()
    return _replaced(value, lambda _start, _end: True)


def unread(body: bytes) -> bytes:
    """A body that cannot be read, masked as one text, but for what looks like a string or number of JSON's."""
    plain = body.decode("latin-1")

    def free(start: int, end: int) -> bool:
        quoted = plain[start - 1 : start] == '"' and plain[end : end + 1] == '"'
        return not quoted and re.search(r'"\s*+:\s*+$', plain[max(0, start - 20) : start]) is None

    return _replaced(plain, free).encode("latin-1")


def masked(value: Any) -> Any:
    """A decoded body with the card numbers of its texts masked; the very same object where there are none."""
    if isinstance(value, str):
        return text(value) if len(value) >= len(_PLAIN) else value
    if isinstance(value, dict):
        changed = {k: done for k, v in value.items() if (done := masked(v)) is not v}
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        items = [masked(v) for v in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def _json(value: str) -> Any:
    try:
        return decode_json(value.encode())
    except (MalformedPayload, UnicodeEncodeError):
        return None


def _replaced(value: str, free: Callable[[int, int], bool]) -> str:
    parts, done = [], 0
    for start, end in _cards(value):
        if free(start, end):
            parts += [value[done:start], _stars(value[start:end])]
            done = end
    return "".join([*parts, value[done:]]) if parts else value


def _cards(value: str) -> Iterator[tuple[int, int]]:
    """Where card numbers stand, from left to right."""
    after = 0
    for found in _START.finditer(value):
        start = found.start()
        groups = _GROUPS.match(value, start) if start >= after else None
        if groups is None:
            continue
        for size in _numbers(groups[0]):
            if _GOES_ON.match(value, start + size) is None and not _in_url(value, start):
                after = start + size
                yield start, after
                break


def _numbers(chain: str) -> list[int]:
    """How many characters the card numbers have that groups of digits begin with, the longest first."""
    allowed = _LENGTHS.get(chain[:4], _NONE)
    if not allowed:
        return []
    groups = re.split("[ -]", chain)
    lengths = tuple(map(len, groups))
    return [
        size + len(shape) - 1
        for size, shape in _SHAPES
        if size in allowed and lengths[: len(shape)] == shape and _checked("".join(groups[: len(shape)]).encode())
    ]


def _checked(digits: bytes) -> bool:
    """Whether the check digit is right (Luhn): each second digit doubled, its digits summed."""
    total = sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED)) - ord("0") * len(digits)
    return total % 10 == 0


def _in_url(value: str, at: int) -> bool:
    """Whether the word that holds this place begins as a URL."""
    first = max(0, at - _WORD)
    begin = max(first, *(value.rfind(c, first, at) + 1 for c in " \t\n\r\"'<>()"))
    return _URL.search(value, begin, at) is not None


def _stars(number: str) -> str:
    """A number of which only the last four digits stay."""
    hidden = sum(c.isdigit() for c in number) - _SHOWN
    return re.sub(r"[0-9]", "*", number, count=hidden)
