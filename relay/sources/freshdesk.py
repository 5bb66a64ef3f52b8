"""Freshdesk: tickets, as automation rules send them.

Nothing is signed. A rule's action “Trigger Webhook” sends what its author put together: simple content comes as
`{"freshdesk_webhook": {…}}` with the fields that were ticked, advanced content is any JSON at all. So the fields
of a row are those of the rule, and values are the words of the user interface (`Open`, not 2).
https://support.freshdesk.com/support/solutions/articles/132589-using-webhooks-in-automation-rules
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload
from relay.records import Event, Record, Request
from relay.signatures import Basic, Token, Verifier
from relay.source import Sample, Setting, Vendor, table

#: A header's name, as HTTP has it.
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
#: What a rule says of the event that set it off; it looks like JSON and is none: `{ticket_action:deleted}`.
_DELETED: Final = re.compile(r"""ticket_action["']?\s*:\s*["']?deleted\b""")

# fmt: off
TICKETS = table(
    "tickets", "ticket_id", "the delivery's receipt",
    id="ticket_id",
    text="triggered_event ticket_url ticket_portal_url ticket_public_url ticket_type ticket_subject "
    "ticket_description ticket_status ticket_priority ticket_source ticket_tags ticket_group_name "
    "ticket_agent_name ticket_agent_email ticket_due_by_time ticket_product_description "
    "ticket_latest_public_comment ticket_latest_private_comment ticket_satisfaction_rating "
    "ticket_satisfaction_survey ticket_company_name ticket_requester_name ticket_requester_email "
    "ticket_requester_phone requester_name requester_email",
)
# fmt: on


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """HTTP Basic, or a header of one's own where a name is set."""
    name = settings["header"]
    if not name:
        return Basic()
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigInvalid(f"header is the name of a header, not {name!r}")
    return Token(header=name)


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One ticket, never taken for a repetition: with neither id nor time, open, closed, open is no repetition.

    Raises:
        MalformedPayload: the body is not an object.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    yield Event(type="ticket", data=data, dedup="never")


vendor = Vendor(
    title="Freshdesk",
    family="helpdesk",
    docs="https://support.freshdesk.com/support/solutions/articles/132589-using-webhooks-in-automation-rules",
    verify=verifier,
    events=read,
    tables=(TICKETS,),
    settings={
        "header": Setting(
            help="Name of a header in which the rule sends the secret; empty (default) for HTTP Basic.",
            default="",
        )
    },
    setup=(
        "Admin → Workflows → Automations: a rule for created tickets and one for updates; action Trigger Webhook.",
        "POST to this URL, encoding JSON, “Requires authentication” with a user name and a password of your own.",
        "The secret: `user:password`. Or a custom header, named in the setting `header`; its value is the secret.",
        "Content: the same fields in every rule, the ticket id among them; a row holds what came last, no more.",
    ),
    deletes="A rule on “Ticket is deleted” marks the row deleted, if its content has the triggered event.",
    limits=(
        "nothing is signed: whoever knows the secret can send a ticket",
        "no times are sent: rows are ordered by receipt, so what Freshdesk repeats late counts as new",
        "rules with other fields blank the columns that they do not send",
        "a placeholder with a quotation mark in it may make advanced content no JSON: it is quarantined",
    ),
    proof="documented: a user and a password, by the vendor's page; HTTP Basic itself passes RFC 7617's examples",
    # Three more attempts within two hours, then a mail to the administrators:
    # https://support.freshdesk.com/support/solutions/articles/11000000028141
    fragile=True,
)


@vendor.maps("ticket")
def ticket(event: Event) -> Iterator[Record]:
    """The ticket as the rule tells it.

    Raises:
        KeyError: the body names no ticket.
    """
    body = event.data.get("freshdesk_webhook", event.data)
    inner = body.get("ticket")
    for found in (body.get("ticket_id"), inner.get("id") if isinstance(inner, dict) else None, body.get("id")):
        if isinstance(found, (str, int)) and not isinstance(found, bool) and found != "":
            gone = _DELETED.search(str(body.get("triggered_event", ""))) is not None
            yield TICKETS.row({**body, "ticket_id": found}, gone=gone, rank=99 if gone else 0)
            return
    raise KeyError("ticket_id, ticket.id or id")


@vendor.sample("ticket")
def ticket_sample(n: int, now: int) -> Sample:
    """A ticket whose status changed, as a rule with simple content sends it."""
    body = {
        "triggered_event": "{status:{from:2,to:4}}",
        "ticket_id": 40_000 + n,
        "ticket_url": f"https://shop.freshdesk.example/helpdesk/tickets/{40_000 + n}",
        "ticket_type": ("Question", "Incident", "Problem")[n % 3],
        "ticket_subject": f"Parcel {n} came without its lid",
        "ticket_description": f"<div>Could you send a new one? (ref {now // 1_000_000_000})</div>",
        "ticket_status": "Resolved",
        "ticket_priority": ("Low", "Medium", "High", "Urgent")[n % 4],
        "ticket_source": "Email",
        "ticket_tags": "breakage",
        "ticket_agent_name": f"Ida Brandt {n % 9}",
        "ticket_requester_name": f"Customer {n}",
        "ticket_requester_email": f"customer{n}@mail.example",
        "ticket_cf_order_number": str(90_000 + n),
    }
    return Sample({"freshdesk_webhook": body})
