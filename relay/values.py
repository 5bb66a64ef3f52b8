"""The single commands of a long document, as its bytes come in. Pure: no I/O, no clock.

A JSON document is objects one after the other: one a line, as NDJSON has it, or printed over several lines, or all
on one line, as mediarithmics' own examples and `curl -d @file` send them. What is no object is told as a fault of
its line, and what follows is read on.

No more of a document is held than what was fed last and one value. Values, faults and their places do not depend
on how it was cut: a reader that starts at `Found.end` goes on just as the first one would have.
"""

from __future__ import annotations

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from relay.errors import IntakeError, MalformedPayload
from relay.records import decode_json

#: Bytes of one value; and how near the end of what there is a fault may come from the end alone.
LONGEST: Final = 1024 * 1024
_NEAR: Final = 16
_MOST_COLUMNS: Final = 500
_SHOWN: Final = 1024
_BLANKS: Final = b" \t\r\n"
_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
_pass_over: Final = msgspec.json.Decoder(msgspec.Raw).decode
_BOM: Final = b"\xef\xbb\xbf"
_STRANGE: Final = {
    b"\xff\xfe": "it is UTF-16, not UTF-8",
    b"\xfe\xff": "it is UTF-16, not UTF-8",
    b"\x1f\x8b": "it is compressed (gzip)",
    b"PK\x03\x04": "it is a zip file",
}
_TOO_LONG: Final = f"the command is longer than {LONGEST} bytes"


class Unreadable(IntakeError):
    """Nothing of a document can be read; the text says why."""

    reason = "document_unreadable"


class Found(msgspec.Struct, frozen=True):
    """One command, or what stands in the place of one.

    Args:
        line: where it begins, from 1. end: offset of the first byte behind it. next_line: the line of that.
        text: its bytes, the beginning of them where it is too long.
        value: its fields, None where there is a fault. fault: what is wrong with it.
    """

    line: int
    end: int
    next_line: int
    text: bytes
    value: dict[str, Any] | None = None
    fault: str = ""


class Reader(ABC):
    """Reads commands out of a document, piece by piece.

    Args:
        at: offset at which it starts. line: the line of that. header: names of the columns, where they are known.
    """

    #: Behind a value that has no end it is read on at the second byte of this, or behind it.
    mark = b"\n"

    def __init__(self, at: int = 0, line: int = 1, header: tuple[str, ...] = ()) -> None:
        self.header = header
        self._held, self._base, self._at, self._line = b"", at, 0, line
        self._first = at == 0
        self._skipping: tuple[int, bytes, str] | None = None

    def feed(self, data: bytes, *, last: bool) -> Iterator[Found]:
        """The commands that are complete with these bytes.

        Args:
            data: what follows.
            last: nothing follows it.

        Raises:
            Unreadable: it is nothing that can be read.
        """
        self._held, self._base, self._at = self._held[self._at :] + data, self._base + self._at, 0
        if self._first and self._base == 0:
            self._begin()
        while (found := self._one(last=last)) is not None:
            yield found

    def _begin(self) -> None:
        strange = next((why for start, why in _STRANGE.items() if self._held.startswith(start)), None)
        if strange is not None:
            raise Unreadable(f"the document cannot be read: {strange}")
        if self._held.startswith(_BOM):
            self._at = len(_BOM)

    def _one(self, *, last: bool) -> Found | None:
        if self._skipping is not None:
            return self._skip(last=last)
        blank = _BLANK.match(self._held, self._at)
        self._move(blank.end() if blank else self._at)
        return self._next(last=last) if self._at < len(self._held) else None

    @abstractmethod
    def _next(self, *, last: bool) -> Found | None:
        """The value that begins here; None where more is needed."""

    def _move(self, to: int) -> None:
        self._line += self._held.count(b"\n", self._at, to)
        self._at = to

    def _found(self, to: int, value: dict[str, Any] | None, fault: str = "") -> Found:
        # Where it ends does not depend on how much blank space was there to be seen behind it.
        text, line = self._held[self._at : to].rstrip(_BLANKS), self._line
        to = self._at + len(text)
        self._move(to)
        self._first = False
        return Found(line, self._base + to, self._line, text, value, fault)

    def _line_end(self, *, last: bool) -> int:
        """Where this line ends; -1 where that is not to be seen, or too far."""
        end = self._held.find(b"\n", self._at, self._at + LONGEST)
        return len(self._held) if end < 0 and last and not self._full else end

    @property
    def _full(self) -> bool:
        """Whether there is as much as one value may have."""
        return len(self._held) - self._at >= LONGEST

    def _more(self, why: str, *, last: bool) -> Found | None:
        """Wait for more, or skip what has no end."""
        if not last and not self._full:
            return None
        self._skipping = (self._line, self._held[self._at : self._at + _SHOWN], why)
        return self._skip(last=last)

    def _skip(self, *, last: bool) -> Found | None:
        line, text, why = self._skipping or (0, b"", "")
        found = self._held.find(self.mark, self._at)
        if found < 0 and not last:
            self._move(max(self._at, len(self._held) - 1))  # the last byte may be the first of the mark
            return None
        self._move(found + 1 if found >= 0 else len(self._held))
        self._skipping, self._first = None, False
        return Found(line, self._base + self._at, self._line, text, None, why)


class JsonValues(Reader):
    """JSON objects one after the other."""

    mark = b"\n{"

    def _next(self, *, last: bool) -> Found | None:
        start, end = self._held[self._at : self._at + 1], self._line_end(last=last)
        if start == b"[" and self._first:
            raise Unreadable("the document is a JSON array: send its commands one after the other, one a line")
        if start != b"{":
            if end < 0:
                return self._more(_TOO_LONG, last=last)
            return self._found(end, None, "a command is a JSON object, in braces")
        if end >= 0:
            try:
                return self._found(end, decode_json(self._held[self._at : end]))
            except MalformedPayload:
                pass  # more than a line, or more than one on it
        return self._printed(end, last=last)

    def _printed(self, line_end: int, *, last: bool) -> Found | None:
        """A value whose end is not the line's."""
        window = memoryview(self._held)[self._at : self._at + LONGEST]
        to = self._at + len(window)
        try:
            _pass_over(window)
        except RecursionError:
            return self._resume(0, line_end, "it is nested too deep", last=last)
        except msgspec.DecodeError as error:
            why, found = str(error), _BYTE.search(str(error))
            byte = int(found[1]) if found else 0
            if "trailing" in why:
                to = self._at + _length(window, byte)
            elif "truncated" in why or (byte >= len(window) - _NEAR and (self._full or not last)):
                return self._more(_TOO_LONG if self._full else "it ends in the middle of a command", last=last)
            else:
                return self._resume(byte, line_end, why, last=last)
        try:
            return self._found(to, decode_json(self._held[self._at : to]))
        except MalformedPayload as error:
            return self._found(to, None, str(error))

    def _resume(self, byte: int, line_end: int, why: str, *, last: bool) -> Found | None:
        """A fault: read on behind its line; where the value began earlier, at the next that begins one."""
        if line_end < 0:
            return self._more(why, last=last)
        if self._at + byte <= line_end + 1:
            return self._found(line_end, None, why)
        next_ = self._held.find(self.mark, line_end)
        return self._found(next_ + 1, None, why) if next_ >= 0 else self._more(why, last=last)


def _length(window: memoryview, byte: int) -> int:
    """The length of the value that the window begins with; `byte` is near the first one behind it."""
    for length in (byte - 1, byte):
        try:
            _pass_over(window[:length])
        except msgspec.DecodeError:
            continue
        return length
    return byte


class _More(Exception):
    """A record of a CSV file goes on behind what there is."""


class CsvRows(Reader):
    """Rows of a CSV file: commas, quotes doubled within quotes, a header."""

    def _next(self, *, last: bool) -> Found | None:
        if self._line_end(last=last) < 0:
            return self._more(_TOO_LONG, last=last)
        self._to = self._at
        try:
            row = next(csv.reader(self._lines(last=last), strict=True))
        except _More:
            # Not so far as the field's own limit of the csv module, so that it is the same however it was cut.
            return self._more(_TOO_LONG, last=last)
        except (csv.Error, UnicodeDecodeError) as error:
            if not self.header:
                raise Unreadable(f"the header cannot be read: {error}") from None
            return self._found(self._line_end(last=last), None, f"it is not CSV in UTF-8: {error}")
        if not self.header:
            self.header = _header(row)
            self._move(self._to)
            return self._one(last=last)
        if len(row) != len(self.header):
            why = f"it has {len(row)} cells, the header {len(self.header)}"
            return self._found(self._line_end(last=last), None, why)
        value = {name: cell for name, cell in zip(self.header, row, strict=True) if cell != ""}
        return self._found(self._to, value)

    def _lines(self, *, last: bool) -> Iterator[str]:
        while self._to < len(self._held):
            end = self._held.find(b"\n", self._to) + 1
            if end == 0:
                if not last:
                    raise _More
                end = len(self._held)
            line, self._to = self._held[self._to : end], end
            yield line.decode()
        if not last:
            raise _More


def _header(row: list[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in row)
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise Unreadable("the header has one column: cells are separated by commas, not by semicolons or tabs")
    if "" in names or len(set(names)) < len(names):
        raise Unreadable("the header has a column without a name, or two of one name")
    if len(names) > _MOST_COLUMNS:
        raise Unreadable(f"the header has more than {_MOST_COLUMNS} columns")
    return names
