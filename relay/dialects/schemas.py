"""JSON schemas as clients send them: what a record must be, and what type its columns have. Pure.

Draft 4, 6 or 7, as `$schema` says, 4 where it says none. Patterns are not run: a client can write one that takes
years. References lead only within the schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Context, localcontext
from typing import Any, Final

from jsonschema import Draft4Validator, Draft6Validator, Draft7Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from relay.records import Type, instant_ns

_DRAFTS: Final = (Draft4Validator, Draft6Validator, Draft7Validator)
_COLUMNS: Final = {
    "string": Type.TEXT,
    "integer": Type.INT,
    "number": Type.NUMBER,
    "boolean": Type.BOOL,
    "object": Type.JSON,
    "array": Type.JSON,
}
_formats: Final = FormatChecker(formats=())
#: Properties of one schema; PostgreSQL has no wider tables.
_MOST_COLUMNS: Final = 1_600
#: `multipleOf` is exact; what has more digits is refused.
_EXACT: Final = Context(prec=1000)


class SchemaInvalid(ValueError):
    """It is no JSON schema; says why."""


def kind_of(value: Any) -> str:
    """A value's type in the words of Stitch's validator."""
    for type_, word in ((bool, "Boolean"), (int, "Integer"), (str, "String"), (dict, "JSONObject")):
        if isinstance(value, type_):
            return word
    if isinstance(value, list):
        return "JSONArray"
    return "Null" if value is None else "Number"


def _is_moment(value: Any) -> bool:
    return not isinstance(value, str) or (not value.strip().isdigit() and instant_ns(value) is not None)


_formats.checks("date-time")(_is_moment)


def _passed(*_: Any) -> Iterator[ValidationError]:
    return iter(())


def _additional(draft: Any) -> Any:
    plain = draft.VALIDATORS["additionalProperties"]

    def check(validator: Any, allowed: Any, data: Any, schema: Mapping[str, Any]) -> Any:
        return () if "patternProperties" in schema else plain(validator, allowed, data, schema)

    return check


_CHECKS: Final = {
    draft: extend(
        draft, {"pattern": _passed, "patternProperties": _passed, "additionalProperties": _additional(draft)}
    )
    for draft in _DRAFTS
}


class Schema:
    """One schema.

    Args:
        schema: as it was sent.

    Raises:
        SchemaInvalid: it is none.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        draft: Any = validator_for(schema, default=Draft4Validator)
        if draft not in _CHECKS:
            draft = Draft7Validator
        try:
            draft.check_schema(schema)
        except SchemaError as error:
            where = "/".join(map(str, error.absolute_path))
            if where.rpartition("/")[2] == "type":
                raise SchemaInvalid(f"unknown type: [{str(error.instance)[:80]}]") from None
            raise SchemaInvalid(f"#/{where[:200]}") from None
        except RecursionError:
            raise SchemaInvalid("nested too deep") from None
        self._validator: Validator = _CHECKS[draft](schema, format_checker=_formats, registry=Registry())
        found = schema.get("properties")
        properties = found if isinstance(found, dict) else {}
        if len(properties) > _MOST_COLUMNS:
            raise SchemaInvalid(f"over {_MOST_COLUMNS} properties")
        self.columns = {name: str(type_) for name, one in properties.items() if name and (type_ := _type_of(one))}

    def fault(self, data: dict[str, Any]) -> str:
        """What of a record does not conform, without its values; empty where all of it does."""
        try:
            with localcontext(_EXACT):
                error = next(self._validator.iter_errors(data), None)
        except ArithmeticError:
            return "#: a number with too many digits"
        except (RecursionError, Unresolvable):
            return "#: the schema's references lead nowhere"
        if error is None:
            return ""
        where = "#/" + "/".join(map(str, error.absolute_path))
        if error.validator == "type":
            wanted = error.validator_value
            words = wanted if isinstance(wanted, list) else [wanted]
            return f"{where[:200]}: expected: {', '.join(map(_word, words))}, found: {kind_of(error.instance)}"
        if error.validator == "required":
            return f"{where[:200]}: a required key is not found"
        return f"{where[:200]}: fails {error.validator}"


def _word(type_: Any) -> str:
    words = {"object": "JSONObject", "array": "JSONArray"}
    return words.get(type_, str(type_).capitalize())


def _type_of(schema: Any) -> Type | None:
    """The one type that values of a property have; None where they may have several."""
    if not isinstance(schema, dict):
        return None
    said = schema.get("type")
    types = {said} if isinstance(said, str) else set(said or ())
    types.discard("null")
    if len(types) != 1:
        return None
    (one,) = types
    return Type.INSTANT if one == "string" and schema.get("format") == "date-time" else _COLUMNS.get(one)
