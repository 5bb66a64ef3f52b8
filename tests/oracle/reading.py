"""The actual rows, by plain SQL, held against the model."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from tests.oracle.model import Expected, Key, Model
from tests.oracle.values import At, loads, moment, same

Row = Mapping[str, Any]
#: Table (by the end of its name) -> its key columns, where they are not `id`.
KEYS = {
    "shopify_order_lines": ("order_id", "id"),
    "shopify_order_discount_codes": ("order_id", "code"),
    "shopify_product_variants": ("product_id", "id"),
    "shopify_inventory_levels": ("inventory_item_id", "location_id"),
    "stripe_invoice_lines": ("invoice_id", "id"),
    "stripe_subscription_items": ("subscription_id", "id"),
    "zendesk_ticket_comments": ("ticket_id", "id"),
    "intercom_conversation_parts": ("conversation_id", "id"),
    "intercom_contact_tags": ("contact_id", "tag_id"),
    "meta_leads": ("leadgen_id",),
    "meta_lead_fields": ("leadgen_id", "name"),
    "google_ads_leads": ("lead_id",),
    "google_ads_lead_fields": ("lead_id", "column_id"),
    "erp_orders_items": ("order_id", "sku"),
}


def key_columns(table: str) -> tuple[str, ...]:
    """The columns that identify a row."""
    return KEYS.get(table, ("order_id", "id") if table.startswith("woo_order_") else ("id",))


def sqlite_tables(path: Path) -> dict[str, list[Row]]:
    """Every table of the relay's in a SQLite file."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        ours = [name for (name,) in names if not name.startswith(("_relay", "sqlite_"))]
        return {n: [dict(row) for row in database.execute(f'SELECT * FROM "{n}"')] for n in ours}


def postgres_tables(dsn: str, schema: str) -> dict[str, list[Row]]:
    """Every table of the relay's in a PostgreSQL schema."""
    with psycopg.connect(dsn, row_factory=dict_row) as database:
        set_json_loads(loads, database)
        names = database.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (schema,)
        ).fetchall()
        ours = [row["table_name"] for row in names if not row["table_name"].startswith("_relay")]
        return {n: database.execute(f'SELECT * FROM "{schema}"."{n}"').fetchall() for n in ours}  # type: ignore[arg-type]


def differences(model: Model, tables: Mapping[str, list[Row]]) -> list[str]:
    """Everything that is not as it must be, a sentence each; empty when all is well."""
    found = [
        f"{table}: unexpected, with {len(tables[table])} rows" for table in sorted(tables.keys() - model.tables())
    ]
    for table in sorted(model.tables()):
        found += _table(model, table, tables.get(table, []))
    return found


def _table(model: Model, table: str, rows: list[Row]) -> Iterator[str]:
    actual: dict[Key, Row] = {}
    for row in rows:
        key = tuple(str(row[column]) for column in key_columns(table))
        if key in actual:
            yield f"{table} {key}: there twice"
        actual[key] = row
    expected, possible = model.rows(table), model.keys(table)
    for key in sorted(actual.keys() - expected.keys()):
        if key not in possible:
            yield f"{table} {key}: nobody ever sent it"
        elif actual[key]["_relay_deleted_at"] is None:
            yield f"{table} {key}: is live, but its parent lost it"
    for key, wanted in expected.items():
        if key not in actual:
            yield f"{table} {key}: missing"
        else:
            yield from (f"{table} {key}: {fault}" for fault in _row(wanted, actual[key]))


def _row(wanted: Expected, row: Row) -> Iterator[str]:
    for column, value in wanted.values.items():
        if not same(value, row.get(column)):
            yield f"{column} is {row.get(column)!r}, not {value!r}"
    if wanted.deleted_at is not None:
        if not same(At(wanted.deleted_at), row["_relay_deleted_at"]):
            yield f"deleted at {row['_relay_deleted_at']}, not at {moment(wanted.deleted_at)}"
        return
    if row["_relay_deleted_at"] is not None:
        yield f"is deleted at {row['_relay_deleted_at']}, but must live"
    if row["_relay_source"] != wanted.source or bool(row["_relay_test"]) is not wanted.test:
        yield f"is of {row['_relay_source']}, test {row['_relay_test']}"
    event = int(row["_relay_event"])
    if not wanted.received <= event < wanted.received + wanted.spread:
        yield f"came with {event}, not with {wanted.received}, the newest"
    version = row["_relay_version"]
    clock = event * 1000 if wanted.version[0] == wanted.received * 1000 else wanted.version[0]
    if len(version) != 57 or int(version[:20]) != clock or int(version[-16:]) != event:
        yield f"has version {version}"
    if not same(At(event * 1000), row["_relay_received_at"]):
        yield f"received at {row['_relay_received_at']}, not at {moment(event * 1000)}"
