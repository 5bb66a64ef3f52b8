"""The console's tables over real destinations: what a worker delivered is counted, browsed, found and traced."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec
import psycopg
import pytest
import redis
import yaml

from relay.app import create_app
from relay.buffer import keys, ledger
from relay.buffer.drift import Drift, Finding, Seen
from relay.buffer.looking import Look
from relay.buffer.looking import Seen as Looked
from relay.buffer.registry import Registry
from relay.config import load
from relay.errors import Permanent
from relay.web.console import asking
from relay.web.console.asking import NoAnswer
from tests.contracts.destinations import ORDERS, deliver, gone, postgres_server
from tests.contracts.destinations import row as delivered
from tests.flow.test_console import XSS, Browser, Tags, text
from tests.oracle.machine import eventually
from worker import browsing, jobs

ROOT = Path(__file__).parents[2]
NAMES = ["id", "name", "at", "long", "flag", "big", "price"]
THINGS = {
    "table": "things", "key": ["id"], "version": "at", "when": "type=='t'",
    "columns": {name: name for name in NAMES} | {"extra": "extra"},
    "types": {"big": "int", "flag": "bool", "price": "money", "at": "instant"},
}  # fmt: skip
LINES = {"table": "lines", "key": ["no", "sku"], "version": "at", "when": "type=='line'",
         "types": {"no": "int"}}  # fmt: skip
MILLION = "<b>" + "x" * 999_990 + "</b>end"
HARD = 'it\'s "quoted" <i>&amp;</i> ☃'
COUNT = 125


class World(Browser):
    """A relay with a web half in this process and a worker beside it; one source, three destinations."""

    def __init__(self, url: str, folder: Path, dsn: str):
        self.worker: subprocess.Popen[bytes] | None = None
        destinations = {
            "warehouse": {"kind": "sqlite"},
            "pg": {"kind": "postgres", "dsn": dsn},
            "mbi": {
                "kind": "import_api",
                "client_id": 1,
                "api_key": "zzz-hidden-zzz",
                "url": "http://127.0.0.1:1",
            },
        }
        clients = {12: {"to": "warehouse"}}
        super().__init__(url, folder, destinations=destinations, clients=clients, archive_days=30, workers=1)

    def start(self, _table):
        erp = {
            "kind": "custom", "secrets": ["k"], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
            "id": 'headers."x-delivery"', "tables": [THINGS, LINES], "to": ["warehouse", "pg", "mbi"],
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump({**self.settings, "sources": {"erp": erp}}))
        self.config = load(self.path, self.folder)
        self.app = create_app(self.config)
        self.web = self.app.test_client()

    def work(self):
        environment = {**os.environ, "RELAY_CONFIG": str(self.path), "RELAY_DATA": str(self.folder)}
        self.worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, cwd=ROOT)

    def settled(self):
        limit = time.monotonic() + 60
        while any(
            states.get("pending") for (_, to, _), states in ledger.read(self.client).records.items() if to != "mbi"
        ) or self.client.zcard("rh:queue:archive/0/1|erp"):
            assert time.monotonic() < limit, "not delivered in time"
            time.sleep(0.05)

    def push(self, table, rows):
        key = Registry(self.client).create("import", 12)
        at = f"/v2/client/12/table/{quote(table, safe='')}/data?apikey={key}"
        return self.app.test_client().post(at, data=json.dumps(rows), content_type="application/json")

    def see(self, page, table="erp_things", destination="pg", status=200, **more):
        query = [("table", table), ("destination", destination)]
        for name, value in more.items():
            query += [(name, one) for one in (value if isinstance(value, list) else [value])]
        answer = self.web.get(f"/console/tables/{page}", query_string=query)
        assert answer.status_code == status, answer.text
        assert Tags(answer.text).inert()
        return answer.text

    @contextmanager
    def alone(self):
        """Without a worker that answers."""
        assert self.worker is not None
        self.worker.terminate()
        self.worker.wait(60)
        try:
            yield
        finally:
            self.work()
            limit = time.monotonic() + 60
            while not self.client.scard("rq:workers"):
                assert time.monotonic() < limit
                time.sleep(0.05)


def fill(world):
    for n in range(COUNT):
        body = {
            "type": "t", "id": f"n{n:04}", "name": f"<i>{n}</i>", "at": f"2026-01-01T00:{n // 60:02}:{n % 60:02}Z",
            "flag": n % 2 == 0, "big": 9007199254740993 + n, "price": 1.10,
        }  # fmt: skip
        assert world.post_event(body).status_code == 202
    world.post_event({"type": "t", "id": HARD, "name": XSS, "at": "2026-01-02T00:00:00Z", "long": MILLION})
    for second, name in ((1, "first"), (3, "third"), (2, "second, late")):
        body = {"type": "t", "id": "traced", "name": name, "at": f"2026-01-03T00:00:0{second}Z"}
        world.post_event(body, **{"X-Delivery": f"d{second}"})
    for no in (9, 10):
        for sku in ("a", "b"):
            world.post_event({"type": "line", "no": no, "sku": sku, "at": "2026-01-01T00:00:00Z"})


@pytest.fixture(scope="module")
def world(valkey_url, tmp_path_factory) -> Iterator[World]:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    with postgres_server() as dsn:
        world = World(valkey_url, tmp_path_factory.mktemp("tables"), dsn)
        try:
            fill(world)
            assert world.push("kiosks", [{"keys": ["id"], "id": 1, "v": "a"}]).status_code == 201
            world.work()
            world.settled()
            world.log_in()
            yield world
        finally:
            world.worker.terminate()
            world.worker.wait(60)


READABLE = pytest.mark.parametrize("destination", ["warehouse", "pg"])


def names(page: str) -> list[str]:
    """Ids of the rows that a page shows, in its order."""
    return [html.unescape(name) for name in re.findall(r'aria-label="Whole row ([^"]*)"', page)]


# --- the list and a table's page ---------------------------------------------------------------------------


def test_the_list_says_destination_key_clock_counts_and_lag(world):
    page = text(world.get("tables/"))
    assert "erp_things key id; newer by at pg erp 12" in page
    assert re.search(r"erp_things key id; newer by at pg erp 12[78] [12] 0 0", page)
    assert "kiosks key id; newer by each push warehouse client:12 1 0 0 0" in page
    assert re.search(r"pg \d+\.\d s \d+\.\d s 0 ", page), "half, 99 of 100, what waits"
    assert re.search(r"mbi \S \S \d+ \d+ \w+ ago", page)


@READABLE
def test_a_table_says_its_columns_its_rows_there_and_its_key(world, destination):
    page = text(world.see("one", destination=destination))
    assert f"{COUNT + 2} deleted rows there 0" in page
    assert "rows there now" in page
    assert re.search(r'In SQL \S*"erp_things" ', page)
    types = {"warehouse": "big int big column", "pg": "big int big bigint"}
    assert types[destination].removesuffix(" column") in page
    assert ("timestamptz" in page or "timestamp with time zone" in page) == (destination == "pg")
    assert "records of erp stored" in page


def test_drift_of_a_table_names_the_field_and_the_setting(world):
    now = int(time.time() * 1000)
    first = now - 9 * 3_600_000
    seen = [
        Finding("gift note", "", "object", 3, now - 60_000, now, 40),
        Finding("old", "", "text", 9, first, now, 40),
    ]
    Drift(world.client).note(
        [Seen("erp", "erp_lines", first, now, 40, seen, [Finding("no", "int", "text", 1, now, now, 40)])]
    )
    page = text(world.see("one", "erp_lines"))
    assert "gift note new object 3" in page
    assert 'sources.erp.tables, of `lines`: types: {"gift note": json}' in page
    assert "old since the first rows text 9" in page
    assert "changed no : text where int is expected, in 1 row" in page
    listed = text(world.get("tables/"))
    assert re.search(r"erp_lines .{0,80} \d new 1 changed \d undeclared", listed), listed


def test_a_destination_that_cannot_be_read_back_says_so_and_offers_lineage(world):
    page = world.see("one", destination="mbi")
    assert "cannot be read back" in page
    assert "Browse rows" not in page
    assert "Its lineage" in page
    rows = world.see("rows", destination="mbi")
    assert "cannot be read back" in rows
    assert "Its lineage" in rows
    assert "127.0.0.1" not in page


# --- rows --------------------------------------------------------------------------------------------------


@READABLE
@pytest.mark.parametrize("order", ["newest", "key"])
def test_rows_are_browsed_page_by_page_each_once_and_in_order(world, destination, order):
    page = world.see("rows", destination=destination, order=order)
    seen = names(page)
    while found := re.search(r'href="(/console/tables/rows[^"]*)" rel="next"', page):
        assert len(seen) % 50 == 0
        page = world.web.get(html.unescape(found[1])).text
        seen += names(page)
    assert len(seen) == len(set(seen)) == COUNT + 2
    plain = [name for name in seen if re.fullmatch(r"n\d{4}", name)]
    assert plain == sorted(plain, reverse=order == "newest")


@READABLE
def test_a_page_of_a_key_of_two_columns_is_ordered_as_numbers_are(world, destination):
    assert names(world.see("rows", "erp_lines", destination, order="key")) == ["9, a", "9, b", "10, a", "10, b"]
    later = names(world.see("rows", "erp_lines", destination, order="key", after=["9", "b"]))
    assert later == ["10, a", "10, b"]
    assert "Received" in world.see("row", "erp_lines", destination, key=["10", "a"])


@READABLE
def test_values_are_shown_as_they_are_stored_and_markup_in_them_is_inert(world, destination):
    page = world.see("row", destination=destination, key="n0007")
    shown = text(page)
    assert "9007199254741000" in shown
    assert "&lt;i&gt;7&lt;/i&gt;" in page
    assert "flag false" in shown
    assert re.search(r"price 1\.10? ", shown)
    assert "2026-01-01T00:00:07.000000Z" in shown
    hard = world.see("row", destination=destination, key=HARD)
    assert html.escape(XSS).split("&#39;")[0].split("&#34;")[0][:30] in hard


@READABLE
def test_a_cell_of_a_million_characters_is_cut_and_can_be_read_to_its_end(world, destination):
    rows = world.see("rows", destination=destination)
    assert len(rows) < 200_000
    assert names(rows)[:2] == ["traced", HARD]
    page = world.see("row", destination=destination, key=HARD)
    assert len(page) < 100_000
    assert "Only its beginning is shown." in page
    part, got = world.see("row", destination=destination, key=HARD, column="long"), ""
    while True:
        got += html.unescape(re.search(r'aria-labelledby="cell">([^<]*)</pre>', part, re.DOTALL)[1])
        found = re.search(r'href="([^"]*)" rel="next"', part)
        if found is None:
            break
        part = world.web.get(html.unescape(found[1])).text
    assert got == MILLION


@READABLE
def test_a_row_that_is_deleted_is_shown_as_such(world, destination):
    with closing(jobs.open_destination(world.config, destination)) as opened:
        deliver(opened, delivered(1, id="gone-one", total="1.50"), delivered(1, id="here", total="2"))
        deliver(opened, gone(2, id="gone-one"))
    with closing(jobs.open_destination(world.config, destination)) as opened, opened.reader() as reader:
        found = browsing.look(reader, ORDERS.name, Look())
        assert isinstance(found, Looked)
        assert {row.key[0]: bool(row.deleted) for row in found.rows} == {"gone-one": True, "here": False}
        shape = browsing.shape(reader, ORDERS.name)
    assert (shape.rows, shape.deleted, shape.key) == (1, 1, ["id"])


@READABLE
def test_a_key_that_no_row_has_is_said_not_failed(world, destination):
    for key in ("nowhere", "' OR 1=1 --", "\0", "x" * 100_000, XSS):
        assert "No row there has this key" in world.see("row", destination=destination, key=key, status=404)
    assert "No row there" in world.see("row", "erp_lines", destination, key=["ten", "a"], status=404)
    assert "No row there" in world.see("row", "erp_lines", destination, key=["9"], status=404)
    assert "No row there" in world.see("row", "erp_lines", destination, key=["9" * 4000, "a"], status=404)
    bytes_ = world.web.get(f"/console/tables/row?table=erp_things&destination={destination}&key=%ff%fe%00")
    assert bytes_.status_code == 404
    assert "Say which" in world.see("row", destination=destination, status=404)
    assert "Say which" in world.see("row", destination=destination, key="", status=404)


@READABLE
def test_a_place_or_column_that_is_made_up_is_said_not_failed(world, destination):
    for after in (["x"], ["x", "y", "z"], ["\0", "\0"]):
        assert 'role="alert"' in world.see("rows", destination=destination, after=after)
    assert "It is not there" in world.see("row", destination=destination, key="n0001", column='"; --', status=404)
    assert names(world.see("rows", destination=destination, order="'; DROP TABLE x"))[0] == "traced"
    assert "from character 1" in text(
        world.see("row", destination=destination, key="traced", column="id", start="-9")
    )


@pytest.mark.parametrize("page", ["one", "rows", "row", "lineage"])
def test_a_table_that_nobody_knows_is_a_404(world, page):
    for table in ("nowhere", "", XSS, "_relay_tables", "pg_class", 'erp_things" --'):
        assert "Not Found" in world.see(page, table, status=404, key="1")
    assert "Not Found" in world.see(page, destination=XSS, status=404, key="1")


@READABLE
def test_a_table_with_quotes_and_markup_in_its_name_is_browsed(world, destination):
    name = f"a'b\"c <i>x</i>; DROP {destination}"
    spec = msgspec.structs.replace(ORDERS, name=name, columns={**ORDERS.columns, XSS: "text", "per%cent": "text"})
    with closing(jobs.open_destination(world.config, destination)) as opened:
        deliver(opened, delivered(1, id="7", **{XSS: "<b>", "per%cent": "100 %"}), table=spec)
    world.client.hset(
        keys.LEDGER, mapping={f"r|client:12|{destination}|{name}|{s}": 1 for s in ("emitted", "stored")}
    )
    Registry(world.client).table_key(name, 12, ["id"])
    links = map(html.unescape, re.findall(r'href="(/console/tables/one[^"]*DROP[^"]*)"', world.get("tables/")))
    (link,) = {link for link in links if f"destination={destination}&" in link}
    assert "rows there now" in world.web.get(link).text
    assert names(world.see("rows", name, destination)) == ["7"]
    shown = world.see("row", name, destination, key="7")
    assert "&lt;script&gt;" in shown
    assert "100 %" in shown
    assert "No delivery that is kept" in world.see("lineage", name, destination, key="7")


def test_a_table_too_large_for_a_look_is_said_to_be_so_and_its_shape_has_no_count(world, monkeypatch):
    monkeypatch.setattr(browsing, "LOOK_S", 0.0)
    monkeypatch.setattr(browsing, "_left", lambda _: 0.0)
    with closing(jobs.open_destination(world.config, "pg")) as opened, opened.reader() as reader:
        shape = browsing.shape(reader, "erp_things")
        assert (shape.rows, shape.key, len(shape.columns)) == (None, ["id"], 7)
        with pytest.raises(Permanent, match="too long"):
            browsing.look(reader, "erp_things", Look())

    def slow(_):
        raise NoAnswer("It took too long.", later=False)

    monkeypatch.setattr(asking, "ask", slow)
    page = world.see("rows")
    assert "too large to be sorted by receipt" in page
    assert "order=key" in page


# --- lineage -----------------------------------------------------------------------------------------------


def test_the_lineage_of_a_row_says_which_delivery_won_and_why_the_others_lost(world):
    page = world.see("lineage", key="traced")
    shown = text(page)
    first, second, third = (shown.index(f"2026-01-03 00:00:0{n} UTC") for n in (1, 2, 3))
    assert third < second < first, "the newest version first"
    assert "won The newest version that was taken: the row holds it." in shown
    assert shown.count("Older than the one that won") == 2
    (won, *_) = re.findall(r"events/(\d{16})", page)

    def event():
        """Of the buffer at once; of the archive, once a worker has looked."""
        answer = world.web.get(f"/console/events/{won}", follow_redirects=True)
        assert answer.status_code == 200, answer.text
        return answer.text if "Refresh" not in answer.headers else ""

    assert "third" in eventually(event, "the event is shown")
    assert "third" in text(world.see("row", key="traced"))


def test_lineage_without_a_key_or_of_an_unknown_row_says_so(world):
    assert "the key of erp_things is id" in world.see("lineage", key=["a", "b"]).lower()
    assert "No delivery that is kept touched this row." in world.see("lineage", key="nobody")
    assert "No delivery" in world.see("lineage", key=XSS)


# --- destinations ------------------------------------------------------------------------------------------


def test_a_destination_says_batches_answers_the_next_try_and_no_secret(world):
    pg = text(world.get("destinations/pg"))
    assert "rows on average" in pg
    assert "dsn present" in pg
    assert "statement_timeout_s 60" in pg
    limit = time.monotonic() + 30
    while "At 20" not in (mbi := text(world.get("destinations/mbi"))) and time.monotonic() < limit:
        time.sleep(0.1)
    assert "At 20" in mbi, "when it is tried next"
    assert "api_key present" in mbi
    assert "zzz-hidden-zzz" not in world.get("destinations/mbi")
    assert re.search(r"not now [1-9]", mbi)
    assert "relay resume mbi" in mbi
    world.get("destinations/nowhere", 404)
    assert 'href="/console/destinations/pg"' in world.get("destinations/")


# --- faults ------------------------------------------------------------------------------------------------


def test_a_table_that_was_dropped_by_hand_and_one_that_is_not_there_yet_say_so(world):
    dsn = world.settings["destinations"]["pg"]["dsn"]
    with closing(psycopg.connect(dsn, autocommit=True)) as database:
        database.execute("ALTER TABLE erp_lines RENAME TO elsewhere")
        try:
            assert "It is not at pg yet" in world.see("one", "erp_lines")
            assert "It is not there" in world.see("rows", "erp_lines")
        finally:
            database.execute("ALTER TABLE elsewhere RENAME TO erp_lines")
    assert names(world.see("rows", "erp_lines"))


def test_without_a_worker_every_page_says_so_at_once_and_shows_the_rest(world):
    with world.alone():
        began = time.monotonic()
        for page in ("one", "rows", "row", "lineage"):
            assert "No worker runs" in world.see(page, key="n0001")
        assert "No worker runs" in world.get("destinations/pg")
        assert "records of erp stored" in text(world.see("one"))
        assert time.monotonic() - began < 30
