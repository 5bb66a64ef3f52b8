"""JMESPath over exact values (https://jmespath.org/specification.html): compiled once, checked, never a float.

The library's own functions would cut `19.99` to `19` (`to_number`), quote it (`to_string`) or refuse it (`sum`);
here a `Decimal` is a number like any other. Pure: what fails is a `ValueError` that names the expression and
never the data.
"""

from __future__ import annotations

import copy
import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

import jmespath
from jmespath.exceptions import JMESPathError, JMESPathTypeError, ParseError
from jmespath.functions import TYPES_MAP, Functions, signature
from jmespath.visitor import Options, TreeInterpreter
from pydantic import BeforeValidator, PlainValidator, model_validator

from relay.errors import MalformedPayload
from relay.moments import Times
from relay.records import Type, decode_json, encode_json, instant_ns, instant_of_ns

#: Characters of an expression, and how many times over it may repeat what it reads.
MAX_CHARACTERS: Final = 2_000
MAX_GROWTH: Final = 10_000
#: Digits of a whole number that is written out; Python reads no longer ones from text.
MAX_DIGITS: Final = 4_000
_EXACT: Final = decimal.Context(prec=100, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow])
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,4000}(\.[0-9]+)?([eE][+-]?[0-9]{1,5})?")
_NO: Final = frozenset({"", "0", "false", "no", "off"})
_YES: Final = frozenset({"1", "true", "yes", "on"})
_TAKES_REFERENCES: Final = frozenset({"map", "sort_by", "min_by", "max_by"})


def yes(value: Any) -> bool:
    """Whether a value says yes: not if it is missing, empty, 0, or one of the words 0, false, no and off."""
    return value.strip().lower() not in _NO if isinstance(value, str) else bool(value)


def cast(value: Any, form: str) -> Any:
    """A value in another form; null stays null, and so does empty text but as text.

    Args:
        value: any JSON value.
        form: of `relay.records.Type`: `instant` is UTC in ISO 8601, `json` is read from text that holds it.

    Raises:
        ValueError: it has no such form.
    """
    if value is None or (value == "" and form != Type.TEXT):
        return None
    return _CASTS[form](value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def _number(value: Any) -> int | Decimal:
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return value
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("not a number")
    return Decimal(found[0]) if found[1] or found[2] else int(found[0])


def whole(value: Any, rounding: str | None = None) -> int:
    """A number, or the text of one, as an integer; `ValueError` for another, unless a rounding is given."""
    number = _number(value)
    if isinstance(number, int):
        return number
    if number.adjusted() > MAX_DIGITS:
        raise ValueError("too large to be written out")
    rounded = number.to_integral_value(rounding)
    if rounding is None and rounded != number:
        raise ValueError("not a whole number")
    return int(rounded)


def _bool(value: Any) -> bool:
    word = _text(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError("neither yes nor no")
    return word in _YES


def _instant(value: Any) -> str:
    at = instant_ns(value)
    if at is None:
        raise ValueError("not a time")
    return instant_of_ns(at).isoformat()


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return decode_json(value.encode())
    except (MalformedPayload, UnicodeEncodeError):
        raise ValueError("not JSON") from None


_CASTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "id": _text,
    "text": _text,
    "int": whole,
    "number": _number,
    "money": _number,
    "bool": _bool,
    "instant": _instant,
    "json": _json,
}


def exact(value: Any) -> Any:
    """A literal without its floats, each the decimal that was written; `ValueError` where one is infinite."""
    if isinstance(value, list):
        return [exact(v) for v in value]
    if isinstance(value, dict):
        return {k: exact(v) for k, v in value.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a literal number is too large")
        return Decimal(repr(value))
    return value


class _Functions(Functions):
    """JMESPath's functions, with `Decimal` as a number; and `split`, `lower` and `trim` of texts."""

    def _get_allowed_pytypes(self, types: list[str]) -> tuple[list[Any], list[Any]]:
        names, subtypes = super()._get_allowed_pytypes(types)  # type: ignore[misc] # not in the stubs
        more = ["Decimal"] if "int" in names else []
        return [*names, *more], [(*s, "Decimal") if "int" in s else s for s in subtypes]

    def _convert_to_jmespath_type(self, pyobject: str) -> str:
        return "number" if pyobject == "Decimal" else TYPES_MAP.get(pyobject, "unknown")

    @signature({"types": ["number"]})
    def _func_abs(self, arg: Any) -> Any:
        return arg.copy_abs() if isinstance(arg, Decimal) else abs(arg)

    @signature({"types": ["array-number"]})
    def _func_sum(self, arg: list[Any]) -> Any:
        if all(isinstance(number, int) for number in arg):
            return sum(arg)
        with decimal.localcontext(_EXACT):
            return sum(arg, Decimal(0))

    @signature({"types": ["array-number"]})
    def _func_avg(self, arg: list[Any]) -> Any:
        return Decimal(self._func_sum(arg)) / len(arg) if arg else None

    @signature({"types": ["number"]})
    def _func_ceil(self, arg: Any) -> Any:
        return whole(arg, decimal.ROUND_CEILING)

    @signature({"types": ["number"]})
    def _func_floor(self, arg: Any) -> Any:
        return whole(arg, decimal.ROUND_FLOOR)

    @signature({"types": []})
    def _func_to_number(self, arg: Any) -> Any:
        try:
            return _number(arg)
        except ValueError:
            return None

    @signature({"types": []})
    def _func_to_string(self, arg: Any) -> str:
        return _text(arg)

    @signature({"types": ["string"]}, {"types": ["string"]})
    def _func_split(self, text: str, by: str) -> Any:
        return text.split(by)

    @signature({"types": ["string"]})
    def _func_lower(self, text: str) -> str:
        return text.lower()

    @signature({"types": ["string"]})
    def _func_trim(self, text: str) -> str:
        return text.strip()

    @signature({"types": []})
    def _func_type(self, arg: Any) -> Any:
        return "number" if isinstance(arg, Decimal) else super()._func_type(arg)  # type: ignore[misc] # as above


_INTERPRETER: Final = TreeInterpreter(Options(custom_functions=_Functions()))


def _nodes(root: Any) -> Iterator[Any]:
    yield root
    for child in root["children"]:
        if isinstance(child, dict):  # a slice has numbers
            yield from _nodes(child)


def _check(root: Any) -> None:
    """Refuses what could only fail, and what could repeat its input without end; makes literals exact."""
    growth = 1
    for node in _nodes({"type": "", "value": "", "children": [root]}):
        kind, children = node["type"], node["children"]
        if kind == "literal":
            node["value"] = exact(node["value"])
        elif kind.startswith("multi_select"):
            growth *= len(children)
        elif kind == "function_expression":
            _check_call(node["value"], len(children))
        references = any(isinstance(c, dict) and c["type"] == "expref" for c in children)
        if references and node.get("value") not in _TAKES_REFERENCES:
            raise ValueError("a reference (&) stands only in map, sort_by, min_by and max_by")
    if growth > MAX_GROWTH:
        raise ValueError(f"it may repeat its input {growth} times, at most {MAX_GROWTH} are allowed")


def _check_call(name: str, given: int) -> None:
    known = _Functions.FUNCTION_TABLE.get(name)
    if known is None:
        raise ValueError(f"there is no function {name}()")
    wanted = known["signature"]
    variadic = wanted == () or bool(wanted[-1].get("variadic"))
    if given < len(wanted) or (given > len(wanted) and not variadic):
        raise ValueError(f"{name}() takes {len(wanted)} arguments, not {given}")


class Expression:
    """One compiled expression; it is called with the value that it reads.

    Raises:
        ValueError: the text is no expression, is too long, or could repeat its input too often.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"an expression has at most {MAX_CHARACTERS} characters")
        try:
            # A copy: the library keeps what it parsed, and literals are changed in place.
            self.node: Any = copy.deepcopy(jmespath.compile(text).parsed)
            _check(self.node)
        except ParseError as error:
            raise ValueError(f"not JMESPath: {error.msg}, column {error.lex_position + 1}") from None
        except JMESPathError as error:
            raise ValueError(f"not JMESPath: {error}") from None
        except RecursionError:
            raise ValueError("the expression is nested too deep") from None
        self.text = text
        self._field = self.node["value"] if self.node["type"] == "field" else None

    def __call__(self, value: Any) -> Any:
        """What it finds; a `ValueError` that names the expression, and no data, where that fails."""
        if self._field is not None:
            return value.get(self._field) if isinstance(value, dict) else None
        try:
            return _INTERPRETER.visit(self.node, value)
        except JMESPathTypeError as error:
            why = f"{error.function_name}() was given a value of type {error.actual_type}"
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            why = f"cannot be worked out ({type(error).__name__})"
        raise ValueError(f"{self.text}: {why}")

    def named(self, root: str) -> set[str]:
        """The names read directly from a root: `a` of `headers.a`."""
        pairs = (n["children"][:2] for n in _nodes(self.node) if n["type"] == "subexpression")
        return {b["value"] for a, b in pairs if a["type"] == b["type"] == "field" and a["value"] == root}


# --- expressions as settings ----------------------------------------------------------------------------


def _compile(value: Any) -> Expression:
    if isinstance(value, Expression):
        return value
    value = f"`{str(value).lower()}`" if isinstance(value, bool) else value
    if not isinstance(value, str):
        raise ValueError("a JMESPath expression is text")  # noqa: TRY004 - the error that pydantic reports
    return Expression(value)


def _constant(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, int, float, Decimal)):
        raise ValueError("a constant is text, a number, true, false or null; quote a date")
    return exact(value)


#: A setting that is an expression; true and false stand for themselves.
Path = Annotated[Expression, PlainValidator(_compile)]


class _Timed(Times):
    """What a time is read from, and how it is written."""

    path: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        short = isinstance(value, (str, bool, Expression))
        return {"path": _compile(value)} if short else value


class Moment(_Timed):
    """A setting that is a time: an expression, or `{path, format, zone, unit}`."""

    path: Path

    @property
    def text(self) -> str:
        """The expression."""
        return self.path.text

    def __call__(self, value: Any) -> int | None:
        """The time in ns since 1970 that it finds; `ValueError` where what it finds is none."""
        return self.ns(self.path(value))


class Value(_Timed):
    """A column's value: an expression, `{path, cast}` (a time with `format`, `zone`, `unit`), or `{const}`."""

    const: Annotated[Any, BeforeValidator(_constant)] = None
    cast: Literal["id", "text", "int", "number", "money", "bool", "instant", "json"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if ("const" in self.model_fields_set) == (self.path is not None):
            raise ValueError("say one of path and const")
        if not self.plain and self.cast != "instant":
            raise ValueError("format, zone and unit are for cast: instant")
        return self

    def read(self, name: str, row: Any) -> Any:
        """The value for a row's object; a `ValueError` names the column."""
        if self.path is None:
            return self.const
        value = self.path(row)
        try:
            if self.cast == "instant":
                at = self.ns(value)
                return None if at is None else instant_of_ns(at).isoformat()
            return value if self.cast is None else cast(value, self.cast)
        except ValueError as error:
            where = name if self.path.text == name else f"{name} ({self.path.text})"
            raise ValueError(f"column {where}: {error}") from None
