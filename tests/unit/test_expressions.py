"""JMESPath over exact values, and the casts of columns."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from relay.expressions import Expression, cast
from relay.records import decode_json

EXPRESSIONS = [
    ("sum(p)", Decimal("20.99")),
    ("sum(n)", 5),
    ("avg(p)", Decimal("10.495")),
    ("avg(n)", Decimal("2.5")),
    ("avg(`[]`)", None),
    ("max(p)", Decimal("19.99")),
    ("abs(m)", Decimal("123456789012345678901234567890.12")),
    ("ceil(p[0])", 20),
    ("floor(p[0])", 19),
    ("to_number(s)", Decimal("19.99")),
    ("to_number(p[0])", Decimal("19.99")),
    ("to_number('x')", None),
    ("to_string(p[0])", "19.99"),
    ("type(p[0])", "number"),
    ("p[0] == `19.99`", True),
    ("big", 18446744073709551616123),
    ("sort_by(l, &d)[0].d", Decimal("0.5")),
    ("{a: p[0]}", {"a": Decimal("19.99")}),
    ("split(s, '.')[-1]", "99"),
    ("lower(trim('  Kiel '))", "kiel"),
    ("absent && split(absent, '/')[-1]", None),
]


@pytest.mark.parametrize(("text", "value"), EXPRESSIONS)
def test_numbers_stay_exact_through_an_expression(text: str, value: Any) -> None:
    data = decode_json(
        b'{"p": [19.99, 1], "n": [2, 3], "m": -123456789012345678901234567890.12, "s": "19.99",'
        b' "big": 18446744073709551616123, "l": [{"d": 1.5}, {"d": 0.5}]}'
    )
    found = Expression(text)(data)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "floor(n)",
        "ceil(n)",
        "sum([n, `1`])",
        "abs(s)",
        "s > n",
        "l[::0]",
        "keys(s)",
        "split(s, '')",
        "split(n, s)",
    ],
)
def test_an_expression_that_fails_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        Expression(text)({"n": Decimal("1e9999999"), "s": "x", "l": [1]})


CASTS = [
    (None, "int", None),
    ("", "number", None),
    ("", "text", ""),
    (True, "text", "true"),
    (Decimal("1.50"), "text", "1.50"),
    ({"a": 1}, "text", '{"a":1}'),
    (" 12 ", "int", 12),
    (Decimal("3.0"), "int", 3),
    ("1.50", "number", Decimal("1.50")),
    ("Off", "bool", False),
    (1, "bool", True),
    (1772600768, "instant", "2026-03-04T05:06:08+00:00"),
    (900719925474099312345, "id", "900719925474099312345"),
    ("12.300", "money", Decimal("12.300")),
    ('{"a": [1.50]}', "json", {"a": [Decimal("1.50")]}),
    ({"a": 1}, "json", {"a": 1}),
    ("", "json", None),
]


@pytest.mark.parametrize(("value", "form", "expected"), CASTS)
def test_a_value_is_cast_without_loss(value: Any, form: str, expected: Any) -> None:
    found = cast(value, form)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("1,5", "number"),
        (True, "int"),
        (Decimal("1.5"), "int"),
        (Decimal("1e9999999"), "int"),
        ("9" * 5000, "int"),
        ("1e9999999", "number"),
        ("maybe", "bool"),
        (2, "bool"),
        ("soon", "instant"),
        ([], "number"),
        ("{", "json"),
        ("\ud800", "json"),
        ("[" * 300 + "]" * 300, "json"),
        ("1,50", "money"),
    ],
)
def test_a_value_that_has_no_such_form_is_refused(value: Any, form: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        cast(value, form)
