"""Lives of tickets, conversations, leads, and of the orders of a shop's own system.

https://developer.zendesk.com/api-reference/webhooks/event-types/webhook-event-types/,
https://developers.intercom.com/docs/references/webhooks/webhook-models,
https://developers.facebook.com/docs/marketing-api/guides/lead-ads/retrieving,
https://developers.google.com/google-ads/webhook/docs/implementation
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.oracle.carts import Body, amount, big, members, steps, text, without
from tests.oracle.model import Fact
from tests.oracle.sending import Delivery, secret_of
from tests.oracle.values import At, Money, Number, Ref, at, dumps

# --- Zendesk --------------------------------------------------------------------------------------------


def _zendesk(rng: Random, what: str, when: At, detail: Body, facts: list[Fact], event: Any = None) -> Delivery:
    body = {
        "type": f"zen:event-type:{what}", "account_id": 1, "id": str(uuid.UUID(int=rng.getrandbits(128))),
        "time": when, "zendesk_event_version": "2022-11-06", "detail": detail,
        "subject": f"zen:{what.partition('.')[0]}:{detail['id']}", "event": event or {},
    }  # fmt: skip
    return Delivery("zendesk", "zendesk", dumps(body), {}, tuple(facts))


def _zendesk_ticket(rng: Random, identity: str, moment: float, status: str) -> Body:
    return {
        "id": identity, "status": status, "subject": text(rng), "description": text(rng) * 20,
        "is_public": rng.random() < 0.5, "tags": [text(rng)], "created_at": at(0), "updated_at": at(int(moment)),
        "assignee_id": rng.choice((None, str(big(rng)))), "via": {"channel": "web"},
    }  # fmt: skip


def _ticket(rng: Random) -> Iterator[Delivery]:
    """Changes may share a second: nanoseconds tell them apart."""
    identity, moment, comments = str(rng.randrange(10**9)), rng.randrange(10**6) + 0.000000001, []
    key = (identity,)
    for number in range(rng.randint(1, 5)):
        moment += rng.choice((0.000001, 0.25, 40))
        when, detail = at(moment, "nano"), _zendesk_ticket(rng, identity, moment, "OPEN")
        facts = [Fact("zendesk_tickets", "row", key, when.ns, values=detail)]
        event = None
        if number:
            if not comments or rng.random() < 0.7:
                comments.append({"id": str(big(rng)), "author": {"id": "1"}})
            comment = {**rng.choice(comments), "body": text(rng), "is_public": rng.random() < 0.5}
            event = {"comment": comment}
            rows = members("ticket_id", identity, [comment], "id")
            facts.append(Fact("zendesk_ticket_comments", "set", key, when.ns, members=rows, complete=False))
        what = "ticket.comment_added" if number else "ticket.created"
        yield _zendesk(rng, what, when, detail, facts, event)
    if rng.random() < 0.4:
        yield from _binned(rng, identity, moment + 3)


def _binned(rng: Random, identity: str, moment: float) -> Iterator[Delivery]:
    key, when, detail = (identity,), at(moment, "nano"), _zendesk_ticket(rng, identity, moment, "DELETED")
    emptied = Fact("zendesk_ticket_comments", "set", key, when.ns, 0, 90)
    if rng.random() < 0.5:
        gone = Fact("zendesk_tickets", "gone", key, when.ns, 0, 90)
        yield _zendesk(rng, "ticket.permanently_deleted", when, {"id": identity}, [gone, emptied])
        return
    gone = Fact("zendesk_tickets", "full_gone", key, when.ns, 0, 90, detail)
    yield _zendesk(rng, "ticket.soft_deleted", when, detail, [gone, emptied])
    if rng.random() < 0.5:
        when, detail = at(moment + 5, "nano"), _zendesk_ticket(rng, identity, moment, "OPEN")
        back = [Fact("zendesk_tickets", "row", key, when.ns, values=detail)]
        yield _zendesk(rng, "ticket.undeleted", when, detail, back)


def _zendesk_plain(rng: Random) -> Iterator[Delivery]:
    noun = rng.choice(("user", "organization"))
    identity, moment = str(big(rng)), 0.0
    for moment in steps(rng, 4):
        detail = {"id": identity, "external_id": text(rng), "created_at": at(0), "updated_at": at(moment)}
        extra = (
            {"email": text(rng), "role": "agent"}
            if noun == "user"
            else {"name": text(rng), "shared_tickets": True}
        )
        detail |= extra
        when = at(moment + 0.5, "nano")
        facts = [Fact(f"zendesk_{noun}s", "row", (identity,), when.ns, values=detail)]
        yield _zendesk(rng, f"{noun}.external_id_changed", when, detail, facts)
    if rng.random() < 0.3:
        when = at(moment + 1, "nano")
        facts = [Fact(f"zendesk_{noun}s", "full_gone", (identity,), when.ns, 0, 90, detail)]
        yield _zendesk(rng, f"{noun}.deleted", when, detail, facts)


def zendesk(rng: Random) -> Iterator[Delivery]:
    """One object's life."""
    yield from rng.choice((_ticket, _ticket, _zendesk_plain))(rng)


# --- Intercom -------------------------------------------------------------------------------------------

_LAST = 10**15


def _intercom(rng: Random, topic: str, seconds: float, item: Body, facts: list[Fact]) -> Delivery:
    body = {
        "type": "notification_event", "app_id": "k7", "id": f"notif_{uuid.UUID(int=rng.getrandbits(128))}",
        "topic": topic, "created_at": at(seconds, "epoch"), "delivery_attempts": 1, "data": {"item": item},
    }  # fmt: skip
    return Delivery("intercom", "intercom", dumps(body), {}, tuple(facts))


def _clock(seconds: float, updated: At | None) -> tuple[int, int]:
    """The notification's second; within it, the object's `updated_at` in milliseconds."""
    return at(int(seconds)).ns, _LAST if updated is None else updated.ns // 10**6


def _conversation(rng: Random) -> Iterator[Delivery]:
    identity, moment, known = str(big(rng)), float(rng.randrange(10**6)), []
    for number in range(rng.randint(1, 5)):
        moment += rng.choice((0, 1, 500))
        updated = at(moment + number, "epoch")
        known += [{"id": str(big(rng)), "type": "conversation_part"} for _ in range(rng.randint(0, 2))]
        shown = [
            {**part, "body": text(rng), "created_at": updated} for part in rng.sample(known, min(2, len(known)))
        ]
        item = {
            "type": "conversation", "id": identity, "created_at": at(0, "epoch"), "updated_at": updated,
            "open": True, "state": "open", "title": text(rng), "admin_assignee_id": Ref(77),
            "source": {"body": text(rng)}, "waiting_since": None,
            "conversation_parts": {"conversation_parts": shown, "total_count": len(shown)},
        }  # fmt: skip
        when, tie = _clock(moment, updated)
        own = without(item, "conversation_parts")
        facts = [Fact("intercom_conversations", "row", (identity,), when, tie, number, own)]
        if shown:
            rows = members("conversation_id", identity, shown, "id")
            facts.append(
                Fact(
                    "intercom_conversation_parts",
                    "set",
                    (identity,),
                    when,
                    tie,
                    number,
                    members=rows,
                    complete=False,
                )
            )
        yield _intercom(rng, "conversation.user.replied", moment, item, facts)
    if rng.random() < 0.3:
        when, tie = _clock(moment + 1, None)
        facts = [Fact("intercom_conversations", "gone", (identity,), when, tie, 99)]
        facts += [Fact("intercom_conversation_parts", "set", (identity,), when, tie, 99)]
        yield _intercom(rng, "conversation.deleted", moment + 1, {"conversation_id": identity}, facts)


def _person(rng: Random, identity: str, moment: float) -> Body:
    return {
        "type": "contact", "id": identity, "role": "user", "email": text(rng), "created_at": at(0, "milli"),
        "updated_at": at(moment, "milli"), "unsubscribed_from_emails": rng.random() < 0.5,
        "custom_attributes": {"plan": text(rng)}, "signed_up_at": rng.choice((None, at(9, "epoch"))),
    }  # fmt: skip


def _contact(rng: Random) -> Iterator[Delivery]:
    """Several notifications in one second are told apart by milliseconds of `updated_at`."""
    identity, moment = f"{rng.getrandbits(96):024x}", float(rng.randrange(10**6))
    key, tags = (identity,), [str(rng.randrange(10**6)) for _ in range(2)]
    for number in range(rng.randint(1, 5)):
        moment = moment + 0.1 if number and rng.random() < 0.3 and moment % 1 < 0.8 else int(moment) + 60
        item = _person(rng, identity, moment)
        when, tie = _clock(moment, item["updated_at"])
        facts = [Fact("intercom_contacts", "row", key, when, tie, values=item)]
        if rng.random() < 0.3 and moment % 1 == 0:
            yield _tagged(rng, tags[number % 2], moment, item, facts)
        else:
            yield _intercom(rng, "contact.user.updated", moment, item, facts)
    if rng.random() < 0.4:
        moment = int(moment) + 5
        when, tie = _clock(moment, None)
        if rng.random() < 0.5:
            gone = [Fact("intercom_contacts", "gone", key, when, tie, 99)]
            yield _intercom(rng, "contact.deleted", moment, {"id": identity, "email": text(rng)}, gone)
            return
        gone = [Fact("intercom_contacts", "full_gone", key, when, tie, 99, item)]
        yield _intercom(rng, "contact.archived", moment, item, gone)
        item = _person(rng, identity, moment + 7)
        when, tie = _clock(moment + 7, item["updated_at"])
        back = [Fact("intercom_contacts", "row", key, when, tie, values=item)]
        yield _intercom(rng, "contact.unarchived", moment + 7, item, back)


def _tagged(rng: Random, tag: str, moment: float, person: Body, facts: list[Fact]) -> Delivery:
    key, when = (person["id"], tag), at(moment, "epoch")
    item = {"type": "contact_tag", "created_at": when, "tag": {"id": tag, "name": text(rng)}, "contact": person}
    if rng.random() < 0.5:
        facts = [*facts, Fact("intercom_contact_tags", "gone", key, when.ns, 0, 99)]
        return _intercom(rng, "contact.user.tag.deleted", moment, item, facts)
    own = {"contact_id": person["id"], "tag_id": tag, "name": item["tag"]["name"], "created_at": when}
    facts = [*facts, Fact("intercom_contact_tags", "row", key, when.ns, 0, 0, own)]
    return _intercom(rng, "contact.user.tag.created", moment, item, facts)


def _company(rng: Random) -> Iterator[Delivery]:
    identity = f"{rng.getrandbits(96):024x}"
    for moment in steps(rng, 4):
        item = {
            "type": "company", "id": identity, "name": text(rng), "created_at": at(0, "epoch"), "size": 3,
            "updated_at": at(moment, "epoch"), "monthly_spend": Number("12345678901234567.89"),
            "plan": {"name": "x"},
        }  # fmt: skip
        when, tie = _clock(moment, item["updated_at"])
        facts = [Fact("intercom_companies", "row", (identity,), when, tie, values=item)]
        yield _intercom(rng, "company.updated", moment, item, facts)


def intercom(rng: Random) -> Iterator[Delivery]:
    """One object's life."""
    yield from rng.choice((_conversation, _contact, _contact, _company))(rng)


# --- Meta and Google Ads --------------------------------------------------------------------------------


def meta(rng: Random) -> Iterator[Delivery]:
    """Leads of several pages in one delivery, some thin, sometimes beside a change that is no lead."""
    facts: list[Fact] = []
    entries, others = [], rng.random() < 0.1
    for _ in range(rng.randint(1, 3)):
        lead, page, when = str(big(rng)), str(big(rng)), at(rng.randrange(10**6), "epoch")
        value = {
            "leadgen_id": lead, "page_id": page, "form_id": Ref(big(rng)), "created_time": when,
            "is_organic": rng.random() < 0.5, "campaign_name": text(rng), "ad_id": None,
        }  # fmt: skip
        facts.append(Fact("meta_leads", "row", (lead,), when.ns, values={**value, "entry_id": page}))
        if rng.random() < 0.7:
            answers = [{"name": f"{text(rng)} {i}", "values": [text(rng)]} for i in range(rng.randint(0, 4))]
            rows = members("leadgen_id", lead, answers, "name")
            facts.append(Fact("meta_lead_fields", "set", (lead,), when.ns, members=rows))
            value = {**value, "field_data": answers}
        entries.append({"id": page, "time": when, "changes": [{"field": "leadgen", "value": value}]})
    if others:
        change = {"field": "feed", "value": {"item": "post", "post_id": str(big(rng))}}
        entries[0]["changes"].append(change)
    count = sum(len(entry["changes"]) for entry in entries)
    body = dumps({"object": "page", "entry": entries})
    yield Delivery("meta", "meta", body, {}, tuple(facts), events=count, ignored=int(others))


def google_ads(rng: Random) -> Iterator[Delivery]:
    """A lead; test leads all have one id, and the newest stays. Some leads have no time but the receipt's."""
    test = rng.random() < 0.03
    lead = "TeSter-123-AbCdEf" if test else f"Cjw{rng.getrandbits(128):032x}"
    when = at(rng.randrange(10**6)) if test or rng.random() < 0.8 else None
    answers = [
        {"column_id": f"Q{i}", "column_name": text(rng), "string_value": text(rng)}
        for i in rng.sample(range(6), rng.randint(0, 4))
    ]
    own = {
        "lead_id": lead, "form_id": big(rng), "campaign_id": big(rng), "is_test": test, "gcl_id": text(rng),
        **({"lead_submit_time": when} if when else {}),
    }  # fmt: skip
    ns, key = when.ns if when else None, (lead,)
    facts = [Fact("google_ads_leads", "row", key, ns, values=own)]
    rows = members("lead_id", lead, answers, "column_id")
    facts.append(Fact("google_ads_lead_fields", "set", key, ns, members=rows))
    body = dumps({**own, "google_key": secret_of("google_ads"), "user_column_data": answers})
    yield Delivery("google_ads", "google_ads", body, {}, tuple(facts), test=test, repeats=test)


# --- a shop's own system --------------------------------------------------------------------------------

#: How `relay.yaml` describes it.
ERP = """\
    verify: {hmac: {header: X-Signature}}
    type: body.type
    id: headers."x-delivery"
    tables:
      - table: orders
        when: "starts_with(type, 'order.')"
        root: order
        key: id
        version: updated_at
        deleted: cancelled
        types: {total: money, rate: number, updated_at: instant}
        children:
          items: {key: sku, types: {price: money}}
"""


def erp(rng: Random) -> Iterator[Delivery]:
    """One order's life."""
    identity, last = big(rng), False
    for moment in steps(rng, 5):
        items = [
            {"sku": f"S-{i}", "price": amount(rng), "note": text(rng)}
            for i in rng.sample(range(9), rng.randint(0, 5))
        ]
        last = rng.random() < 0.1
        order = {
            "id": identity, "total": amount(rng), "rate": Number("0.1000000000000000055511151231257827"),
            "updated_at": at(moment, "milli"), "cancelled": last, "buyer": {"name": text(rng)}, "ref": Money("7"),
        }  # fmt: skip
        headers = {"X-Delivery": f"{rng.getrandbits(128):032x}"}
        key, ns = (str(identity),), at(moment).ns
        rank = 99 if last else 0
        rows = {} if last else members("order_id", identity, items, "sku")
        facts = (
            Fact("erp_orders", "full_gone" if last else "row", key, ns, 0, rank, order),
            Fact("erp_orders_items", "set", key, ns, 0, rank, members=rows),
        )
        body = dumps({"type": "order.changed", "order": {**order, "items": items}})
        yield Delivery("erp", "custom", body, headers, facts)
