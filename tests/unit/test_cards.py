"""Card numbers in free text are masked; ids and numbers never are."""

from __future__ import annotations

import json
import re
import time
from urllib.parse import urlencode
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from relay import cards
from relay.bodies import decode_body, unread_without_cards, without_cards
from relay.records import Request

ISSUERS = {
    "visa": (["4"], [13, 16, 19]),
    "mastercard": ([str(n) for n in range(51, 56)] + ["2221", "2300", "2720"], [16]),
    "amex": (["34", "37"], [15]),
    "discover": (["6011", "644", "649", "65"], [16]),
    "jcb": (["3528", "3589"], [16]),
    "diners": (["300", "305", "36", "38"], [14]),
    "unionpay": (["62"], [16, 17, 18, 19]),
}
SHAPES = {
    13: [(4, 4, 4, 1)],
    14: [(4, 6, 4)],
    15: [(4, 6, 5)],
    16: [(4, 4, 4, 4)],
    17: [(4, 4, 4, 4, 1)],
    18: [(4, 4, 4, 4, 2)],
    19: [(4, 4, 4, 4, 3), (6, 13)],
}


def check_digit(digits: str) -> str:
    """The one that Luhn's formula wants behind these."""
    total = sum(sum(divmod(int(d) * (2 - n % 2), 10)) for n, d in enumerate(reversed(digits)))
    return str(-total % 10)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """A valid card number, plain."""
    prefixes, lengths = ISSUERS[draw(st.sampled_from(sorted(ISSUERS)))]
    prefix, length = draw(st.sampled_from(prefixes)), draw(st.sampled_from(lengths))
    rest = length - len(prefix) - 1
    body = prefix + draw(st.text("0123456789", min_size=rest, max_size=rest))
    return body + check_digit(body)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A valid card number as people write it."""
    digits = draw(numbers())
    shape = draw(st.sampled_from([(len(digits),), *SHAPES[len(digits)]]))
    separator, groups = draw(st.sampled_from([" ", "-"])), []
    for size in shape:
        groups.append(digits[:size])
        digits = digits[size:]
    return separator.join(groups)


def hidden(number: str) -> str:
    """As it is to be stored."""
    keep = sum(c.isdigit() for c in number) - 4
    return re.sub("[0-9]", "*", number, count=keep)


words = st.text(st.characters(exclude_categories=("N", "Cs")), max_size=30)
before = st.sampled_from(["", " ", ": ", ":", "(", '"', ", ", "\n", "“", "\u00a0", "* ", "25 ", "2025 ", "é "])
behind = st.sampled_from(["", " ", ".", ",", ")", '"', "\n", " 12/27 123", "/12/27", ";", " 123", "\u00a0"])


def as_stored(body: bytes) -> object:
    """A JSON body as intake has it."""
    request = Request("POST", "", {"content-type": "application/json"}, body)
    return without_cards(request, decode_body(request, forms=False))


# --- cards are found --------------------------------------------------------------------------------------


@given(written(), words, before, behind, words)
@example("4111 1111 1111 1111", "paid with", "\u00a0", "", "")
@example("4222222222222", "x", "é ", "", "")
def test_a_card_in_text_is_masked_for_every_issuer_and_grouping(number, left, near, after, right):
    left = left.rstrip("/=#_&?@%+~\\-*.,")
    text = f"text {left} {near}{number}{after} {right}"
    assume("://" not in text)
    assume("www." not in text.lower())
    expected = f"text {left} {near}{hidden(number)}{after} {right}"
    assert cards.text(text) == expected
    for escaped in (True, False):
        body = json.dumps({"id": 1, "list": [{"note": text}]}, ensure_ascii=escaped).encode()
        assert as_stored(body) == {"id": 1, "list": [{"note": expected}]}


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("Visa 4111111111111111 exp 12/27", "Visa ************1111 exp 12/27"),
        ("amex 3782 822463 10005.", "amex **** ****** *0005."),
        ("4111 1111 1111 1111 and 5555-5555-5555-4444", "**** **** **** 1111 and ****-****-****-4444"),
        ("qty 25 4111 1111 1111 1111 123", "qty 25 **** **** **** 1111 123"),
        ("2221 4111 1111 1111 1111", None),  # nothing but digits
        ("card:4111111111111111", "card:************1111"),
        (
            '{"id": 4111111111111111, "note": "my card 4111111111111111"}',
            '{"id":4111111111111111,"note":"my card ************1111"}',
        ),
        ('["4111111111111111", 4111111111111111]', None),
        (
            "see https://a.example/4111111111111111?c=4111111111111111 or 4111111111111111",
            "see https://a.example/4111111111111111?c=4111111111111111 or ************1111",
        ),
        ("**4111 1111 1111 1111**", "**" + "**** **** **** 1111**"),
    ],
)  # fmt: skip
def test_examples(text, stored):
    assert cards.text(text) == (text if stored is None else stored)


def test_digits_and_separators_that_are_written_as_escapes_are_seen():
    for body in (rb'{"n": "card \u0034111111111111111"}', rb'{"n": "card 4111\u002d1111-1111\u002D1111"}'):
        assert as_stored(body)["n"].endswith("1111")
        assert "4111" not in as_stored(body)["n"]
    assert as_stored(rb'{"n": "card\u00204111\u00201111\u00201111\u00201111"}') == {
        "n": "card **** **** **** 1111"
    }


@given(st.lists(st.one_of(written(), words, st.sampled_from([" ", "-", "4242", "*", "4", "/"])), max_size=12))
def test_masking_twice_is_masking_once(parts):
    once = cards.text("".join(parts))
    assert cards.text(once) == once
    again = cards.unread(cards.unread("".join(parts).encode()))
    assert cards.unread("".join(parts).encode()) == again


# --- ids are not ------------------------------------------------------------------------------------------


@given(numbers(), written())
def test_ids_and_numbers_are_never_touched(digits, grouped):
    uuid_like = f"{digits:0<32}"[:32]
    hexed = f"a{digits}f"
    value = {
        "id": int(digits), "text_id": digits, "grouped": grouped, "spaced": f" {digits}\n",
        "gid": f"gid://shopify/Order/{digits}", "path": f"/orders/{digits}/lines", "query": f"a=1&order={digits}",
        "fragment": f"page#{digits}", "snake": f"order_{digits}", "under": f"{digits}_1", "hex": hexed,
        "url": f"see https://a.example/x-{digits},{digits};{digits}?q={digits}&r=1#{digits} there",
        "www": f"www.a.example:{digits} there", "uuid": str(UUID(uuid_like)),
        "phone": f"call +{digits} now", "decimal": f"at 0.{digits} of {digits}.5",
        "token": f"order-{digits} is here", "mail": f"to {digits}@a.example",
        "html": f'<a data-id="{digits}">x</a>', "number": -int(digits), "list": [int(digits), digits],
        "json": json.dumps({"id": int(digits), "ids": [digits]}), "letters": f"n{digits} {digits}n",
    }  # fmt: skip
    assert cards.masked(value) is value
    body = json.dumps(value).encode()
    assert as_stored(body) == value


@given(st.uuids(), st.text("0123456789abcdef", min_size=8, max_size=64), st.integers())
def test_uuids_hex_and_integers_are_never_touched(uuid, text, number):
    value = {"uuid": f"the id {uuid} of it", "hex": f"the digest {text}", "number": number, "digits": str(number)}
    assume(not re.fullmatch("[0-9]+", text))
    assert cards.masked(value) is value


def test_a_wrong_check_digit_length_or_issuer_is_no_card():
    for text in (
        "4111111111111112",
        "411111111111116",
        "9111111111111111",
        "2220999999999999",
        "41111111111111111111",
    ):
        assert cards.text(f"card {text} here") == f"card {text} here"


def test_unusual_groups_are_no_card():
    for text in ("41111 11111 11111 1", "4111  1111 1111 1111", "4111 11111111 1111", "41 11 11 11 11 11 11 11"):
        assert cards.text(f"card {text} here") == f"card {text} here"


# --- whole bodies -----------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.one_of(st.integers(), words, written(), st.none()), lambda v: st.lists(v) | st.dictionaries(words, v)
    )
)
def test_the_quick_look_never_says_no_where_a_card_would_be_masked(value):
    for escaped in (True, False):
        body = json.dumps(value, ensure_ascii=escaped).encode()
        assert as_stored(body) == cards.masked(value)


def test_forms_are_masked_as_well():
    fields = {"note": "my card 4111 1111 1111 1111", "id": "4111111111111111"}
    request = Request(
        "POST", "", {"content-type": "application/x-www-form-urlencoded"}, urlencode(fields).encode()
    )
    stored = without_cards(request, decode_body(request, forms=False))
    assert stored == {"note": "my card **** **** **** 1111", "id": "4111111111111111"}
    cut = Request("POST", "", request.headers, request.body + b"&\xff")
    assert json.loads(unread_without_cards(cut))["size"] == len(cut.body)


def test_a_body_that_cannot_be_read_is_masked_in_its_bytes():
    body = b'{"id": 4111111111111111, "text_id": "4111111111111111", "note": "card 4111 1111 1111 1111, \xff'
    assert cards.unread(body) == body.replace(b"4111 1111 1111 1111", b"**** **** **** 1111")


@pytest.mark.parametrize(
    "unit", ["4111111111111111,", "4111-1111-1111-1111-", "4", "4111 ", "*" * 13, "\\u0034", "{[1,"]
)
def test_no_body_takes_long(unit):
    body = json.dumps({"n": "x " + unit * (2_000_000 // len(unit))}).encode()
    began = time.process_time()
    as_stored(body)
    cards.unread(body)
    assert time.process_time() - began < 20
