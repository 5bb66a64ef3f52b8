"""What the contract cannot see: the choice between two proofs, and what is told apart."""

from __future__ import annotations

import pytest

from relay.errors import Unauthenticated
from relay.records import Request, encode_json
from relay.signatures import Basic, Token
from relay.sources import postmark

BASIC, HEADER = (postmark.vendor.verifier({"token_header": name}) for name in ("", "X-Relay-Token"))
PLAIN = Request("POST", "https://relay.example/", {}, b"{}")


def test_a_setting_picks_the_proof_and_the_sender_does_not():
    assert isinstance(BASIC, Basic)
    assert isinstance(HEADER, Token)
    for one, other in ((BASIC, HEADER), (HEADER, BASIC)):
        with pytest.raises(Unauthenticated):
            other.verify(one.sign(PLAIN, "user:password", 0), ("user:password",), 0)


def test_an_accepted_delivery_is_answered_with_200():
    """A 202 fails the verification of a webhook, and has received mails sent again."""
    assert postmark.vendor.reply is not None
    assert postmark.vendor.reply.status == 200


def events(*bodies):
    found = [postmark.vendor.read(PLAIN, body)[0] for body in bodies]
    mapper = postmark.vendor.mapper(found[0].type)
    assert mapper is not None
    return [(event.id, [record.data for record in mapper(event)]) for event in found]


def test_a_mail_that_is_delivered_twice_is_two_rows_and_a_second_try_is_one():
    first = {"RecordType": "Delivery", "MessageID": "m", "Recipient": "a@b.example", "DeliveredAt": "2026-03-01"}
    again = dict(reversed(first.items()))
    (one, rows), (same, same_rows), (other, _) = events(first, again, {**first, "DeliveredAt": "2026-03-02"})
    assert one == same != other
    assert encode_json(rows[0]["event_id"]) == encode_json(same_rows[0]["event_id"])


def test_a_bounce_without_an_id_is_quarantined():
    for body in ({"RecordType": "Bounce"}, {"RecordType": "Bounce", "ID": None}):
        with pytest.raises(KeyError, match="ID"):
            events(body)
