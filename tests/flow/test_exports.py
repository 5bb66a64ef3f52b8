"""The export API as its clients call it: gunicorn, worker processes, a SQLite file, and files in a folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
import requests
import yaml

from relay.buffer import keys
from relay.buffer.exports import COMPLETED, ERROR, KEPT_MS, PENDING, Exports, Numbers, file_of
from relay.buffer.registry import Registry
from relay.config import load
from relay.dispatch import Bell
from relay.errors import ConfigInvalid
from tests.contracts.destinations import ORDERS, deliver, gone, postgres_server, row
from worker import exports as writing
from worker import jobs
from worker.destination import Destination

ROOT = Path(__file__).parents[2]
ASKED_S = 60
ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t)"


def until(what: Callable[[], Any], seconds: float = ASKED_S) -> Any:
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.05)
    return found


class Relay:
    """Both halves, as processes, over one SQLite file."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder, self.client = folder, redis.Redis.from_url(url)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        figures = {
            "orders by note": {"sql": "SELECT note, count(*) AS n FROM shop_orders GROUP BY note ORDER BY note",
                               "owner": "anna@example.com", "presentation": "bar"},
            "endless": {"sql": f"{ENDLESS} SELECT max(n) FROM t"},
            "two": {"sql": "SELECT 1; DELETE FROM shop_orders"},
            "writes": {"sql": "WITH one AS (SELECT 1) DELETE FROM shop_orders RETURNING id"},
            "exact": {"sql": "SELECT 9007199254740993 AS big, '19.90' AS total, NULL AS none, 1 AS none"},
        }  # fmt: skip
        self.path = folder / "relay.yaml"
        self.path.write_text(
            yaml.safe_dump(
                {
                    "redis_url": url, "host": "127.0.0.1", "port": self.port, "web_workers": 1, "workers": 1,
                    "figure_seconds": 1.0, "figures": figures, "export_max_rows": 3000,
                    "charts": {"one": {"sql": "SELECT 1 AS one"}}, "trusted_proxies": ["127.0.0.1"],
                }
            )
        )  # fmt: skip
        self.environment = {**os.environ, "RELAY_CONFIG": str(self.path), "RELAY_DATA": str(folder)}
        self.config = load(self.path, folder)
        self.exports, self.registry = Exports(self.client), Registry(self.client)
        self.key = self.registry.create("export", 12, networks=["127.0.0.0/8", "192.0.2.7"])
        self.web = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "deploy/gunicorn.conf.py"),
             "relay.app:create_app()"],
            env=self.environment, cwd=ROOT,
        )  # fmt: skip
        self.worker: subprocess.Popen[bytes] | None = None

    def work(self) -> None:
        self.worker = subprocess.Popen([sys.executable, "-m", "worker"], env=self.environment, cwd=ROOT)

    def destination(self) -> Destination:
        return jobs.open_destination(self.config, "warehouse")

    def ask(self, method: str, path: str, *, key: str | None = None, **more: Any) -> requests.Response:
        headers = {"x-rjm-api-key": self.key if key is None else key, **more.pop("headers", {})}
        url = f"http://127.0.0.1:{self.port}/0.1{path}"
        return requests.request(method, url, headers=headers, timeout=30, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        """GET; a worker that only starts is asked again, as the answer says."""
        limit = time.monotonic() + ASKED_S
        while (answer := self.ask("GET", path, **more)).status_code == 503 and time.monotonic() < limit:
            assert int(answer.headers["Retry-After"]) > 0
        return answer

    def table(self) -> int:
        (found,) = self.get("/client/12/table").json()["tables"]
        assert found["name"] == "shop_orders"
        return int(found["id"])

    def finished(self, export: int) -> dict[str, Any]:
        def info() -> Any:
            told = self.ask("GET", f"/export/{export}/info").json()
            return told if told["status"] in {COMPLETED, ERROR} else None

        return until(info)

    def close(self) -> None:
        for process in (self.web, self.worker):
            if process is not None:
                process.terminate()
        for process in (self.web, self.worker):
            if process is not None:
                process.wait(60)


@pytest.fixture
def still(redis_url: str, tmp_path: Path) -> Iterator[Relay]:
    """The web half; nobody works yet."""
    relay = Relay(redis_url, tmp_path)
    try:
        with closing(relay.destination()) as destination:
            deliver(
                destination,
                row(
                    1, id=1, total="19.90", note='a "quote", and\r\na line', updated_at="2026-01-02T03:04:05+01:00"
                ),
                row(1, id=2, total="1234567890123456789012.123456789", note="é☃", big=9007199254740993, paid=True),
                row(1, id=3, total=None, note=None, big="no number", paid=False),
                row(1, id=4, note="deleted"),
                gone(2, id=4),
                table=ORDERS,
            )
        until(lambda: _answers(relay.port))
        yield relay
    finally:
        relay.close()
        relay.client.close()


@pytest.fixture
def relay(still: Relay) -> Relay:
    """Both halves."""
    still.work()
    return still


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


def unzipped(answer: requests.Response) -> tuple[str, str]:
    """The name and the text of the one file in a zip."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        (name,) = archive.namelist()
        return name, archive.read(name).decode()


def test_a_table_becomes_a_zip_with_one_csv_that_loses_nothing(relay: Relay) -> None:
    number = relay.table()
    names = [c["name"] for c in relay.get(f"/client/12/table/{number}").json()["columns"]]
    assert names == ["id", "total", "updated_at", "note", "big", "paid", "big__text"]
    asked = relay.ask("POST", f"/client/12/table/{number}/export")
    assert asked.status_code == 200
    export = asked.json()["export_id"]
    told = relay.finished(export)
    assert (told["status"], told["rows"], told["truncated"], told["name"]) == (COMPLETED, 3, False, "shop_orders")
    name, text = unzipped(relay.ask("GET", f"/export/{export}"))
    assert name == "shop_orders.csv"
    assert text.startswith("id,total,updated_at,note,big,paid,big__text\r\n")
    _, *found = csv.reader(io.StringIO(text, newline=""))
    assert found == [
        ["1", "19.90", "2026-01-02T02:04:05.000000Z", 'a "quote", and\r\na line', "", "", ""],
        ["2", "1234567890123456789012.123456789", "", "é☃", "9007199254740993", "true", ""],
        ["3", "", "", "", "", "false", "no number"],
    ]
    assert [e["id"] for e in relay.ask("GET", "/export").json()["exports"]] == [export]
    for _ in range(20):  # no download keeps anything from the next
        assert relay.ask("GET", f"/export/{export}").status_code == 200


def test_export_py_which_asks_five_times_without_a_pause_gets_a_small_table(relay: Relay) -> None:
    export = relay.ask("POST", f"/client/12/table/{relay.table()}/export", data={}).json()["export_id"]
    answers = [relay.ask("GET", f"/export/{export}") for _ in range(5)]
    assert answers[-1].status_code == 200, [a.status_code for a in answers]


def test_an_unfinished_export_is_404_and_one_after_seven_days_is_410(still: Relay) -> None:
    number = Numbers(still.client).of("table", ["warehouse|shop_orders"])["warehouse|shop_orders"]
    export = still.ask("POST", f"/client/12/table/{number}/export").json()["export_id"]
    began = time.monotonic()
    answer = still.ask("GET", f"/export/{export}")
    assert (answer.status_code, answer.json()["code"]) == (404, 404)
    assert time.monotonic() - began >= 1.5, "it was held for a moment"
    assert still.ask("GET", f"/export/{export}/info").json()["status"] == PENDING
    assert 0 < still.client.pttl(keys.export(export)) <= KEPT_MS
    assert still.ask("GET", f"/export/{export + 1}/info").status_code == 404
    still.client.pexpire(keys.export(export), 1)
    until(lambda: still.exports.expired(export))
    for path in ("", "/info"):
        gone_ = still.ask("GET", f"/export/{export}{path}")
        assert (gone_.status_code, gone_.json()["code"]) == (410, 410)


def test_files_of_exports_that_are_no_more_are_swept_away(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(yaml.safe_dump({"redis_url": redis_url}))
    config = load(tmp_path / "relay.yaml", tmp_path)
    with redis.Redis.from_url(redis_url) as client:
        kept, old = (Exports(client).create(1, "warehouse", "t", 1, "t").id for _ in range(2))
        client.delete(keys.export(old))
    files = tmp_path / "files"
    files.mkdir()
    names = [file_of(kept), file_of(old), "answer-x.csv", "answer-y.csv", "export-9-1.part", "somebody's.txt"]
    for name in names:
        (files / name).write_text("x")
    for name in ("answer-x.csv", "export-9-1.part"):
        os.utime(files / name, (0, 0))
    writing.sweep(config)
    assert {path.name for path in files.iterdir()} == {file_of(kept), "answer-y.csv", "somebody's.txt"}


def test_copy_is_201_and_a_name_is_made_safe_as_a_file_name(relay: Relay) -> None:
    export = relay.ask("POST", f"/client/12/table/{relay.table()}/export").json()["export_id"]
    copied = relay.ask("POST", f"/export/{export}/copy", data={"name": "../../etc/päss wd"})
    assert copied.status_code == 201
    again = copied.json()["export_id"]
    assert relay.finished(again)["status"] == COMPLETED
    name, _ = unzipped(relay.ask("GET", f"/export/{again}"))
    assert name == "_.._etc_p_ss wd.csv"
    assert relay.ask("POST", "/export/999/copy").status_code == 404


def test_rows_over_the_cap_are_left_out_and_that_is_said(relay: Relay) -> None:
    with closing(relay.destination()) as destination:
        deliver(destination, *(row(3, id=n, note="x") for n in range(10, 3100)))
    told = relay.finished(relay.ask("POST", f"/client/12/table/{relay.table()}/export").json()["export_id"])
    assert (told["status"], told["rows"], told["truncated"]) == (COMPLETED, 3000, True)


def test_whatever_a_key_lacks_the_refusal_is_one_and_the_same_403(still: Relay) -> None:
    expired = still.registry.create("export", 12, days=1)
    id_ = next(k.id for k in still.registry.every() if k.expires_s)
    entry = still.client.hget(keys.API_KEYS, id_).decode().split("|")
    still.client.hset(keys.API_KEYS, id_, "|".join([*entry[:3], "1000", *entry[4:]]))
    lacking = {
        "missing": "",
        "unknown": "0" * 32,
        "expired": expired,
        "for pushes": still.registry.create("import", 12),
        "another client's": still.registry.create("export", 13),
        "from elsewhere": still.registry.create("export", 12, networks=["10.0.0.0/8"]),
    }
    answers = {what: still.ask("GET", "/client/12/fullupdatestatus", key=key) for what, key in lacking.items()}
    assert {a.status_code for a in answers.values()} == {403}
    assert len({a.text for a in answers.values()}) == 1
    (body,) = {a.text for a in answers.values()}
    assert set(json.loads(body)) == {"code", "message", "reasons"}
    for cid in ("13", "012", "abc", "0"):
        assert still.ask("GET", f"/client/{cid}/fullupdatestatus").status_code == 403


def test_only_trusted_proxies_are_believed_who_they_speak_for(still: Relay) -> None:
    def status(forwarded: str) -> int:
        path = "/client/12/fullupdatestatus"
        return still.ask("GET", path, headers={"X-Forwarded-For": forwarded}).status_code

    assert status("192.0.2.7") == 200
    assert status("192.0.2.7, 198.51.100.1") == 403, "the left one can be anybody's claim"
    assert status("198.51.100.1, 192.0.2.7") == 200
    assert status("unknown") == 403


def test_another_clients_export_is_not_there_and_a_key_for_a_table_sees_no_other(relay: Relay) -> None:
    number = relay.table()
    export = relay.ask("POST", f"/client/12/table/{number}/export").json()["export_id"]
    other = relay.registry.create("export", 13)
    assert relay.ask("GET", f"/export/{export}/info", key=other).status_code == 404
    assert relay.ask("GET", "/export", key=other).json() == {"exports": []}
    narrow = relay.registry.create("export", 12, tables=["shop_lines"])
    assert relay.get("/client/12/table", key=narrow).json() == {"tables": []}
    assert relay.ask("POST", f"/client/12/table/{number}/export", key=narrow).status_code == 404
    assert relay.ask("GET", f"/export/{export}", key=narrow).status_code == 404
    assert relay.ask("GET", "/figure", key=narrow).json() == {"figureExports": {}}


def test_figures_are_listed_described_and_exported_by_get_and_post(relay: Relay) -> None:
    found = {f["name"]: f for f in relay.ask("GET", "/figure").json()["figureExports"].values()}
    figure = found["orders by note"]
    assert (figure["presentationType"], figure["ownerEmail"]) == ("bar", "anna@example.com")
    for method in ("GET", "POST"):
        assert relay.ask(method, f"/figure/{figure['id']}/info").json() == figure
    at = f"/figure/{figure['id']}/export"
    until(lambda: relay.ask("GET", at).status_code == 200)
    sent = relay.ask("POST", at, data={"format": "csv", "includeColumnHeaders": "1"})
    assert sent.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert sent.content.decode().split("\r\n")[0] == "note,n"
    assert relay.ask("POST", at).content.decode().split("\r\n")[0] == ",1"
    exact = relay.ask("GET", f"/figure/{found['exact']['id']}/export", headers={"format": "json"})
    assert exact.headers["Content-Type"] == "application/json"
    assert '"big":9007199254740993' in exact.text
    assert exact.json() == {
        "name": "exact",
        "columns": ["big", "total", "none", "none_2"],
        "data": [{"big": 9007199254740993, "total": "19.90", "none": None, "none_2": 1}],
    }
    (chart,) = relay.ask("GET", "/chart").json()["chartExports"].values()
    assert relay.ask("POST", f"/chart/{chart['id']}/export").text == "1\r\n"
    assert relay.ask("POST", f"/chart/{figure['id']}/info").status_code == 404, "a figure is no chart"
    assert [p for p in (relay.folder / "files").iterdir() if p.name.startswith("answer")] == []


def test_a_figure_can_change_nothing_and_its_time_is_limited(relay: Relay) -> None:
    found = {f["name"]: f["id"] for f in relay.ask("GET", "/figure").json()["figureExports"].values()}
    until(lambda: relay.ask("GET", f"/figure/{found['exact']}/export").status_code == 200)
    for name, why in {"endless": "too long", "two": "could not be read", "writes": "could not be read"}.items():
        answer = relay.ask("POST", f"/figure/{found[name]}/export")
        assert answer.status_code == 500, name
        assert why in answer.json()["reasons"][0]
    with closing(sqlite3.connect(relay.folder / "warehouse.db")) as db:
        assert db.execute("SELECT count(*) FROM shop_orders").fetchone() == (4,)


def test_where_nobody_works_a_question_is_answered_503_in_time(still: Relay) -> None:
    began = time.monotonic()
    answer = still.ask("GET", "/client/12/table")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["code"] == 503
    assert time.monotonic() - began < 20


def test_the_full_update_is_the_last_drain_that_left_nothing(relay: Relay) -> None:
    empty = relay.ask("GET", "/client/12/fullupdatestatus").json()
    assert empty == {
        "clientId": 12,
        "lastCompletedUpdateJob": None,
        "lastCompletedUpdateJobWithDataSync": None,
        "timezoneAbbreviation": "UTC",
    }
    relay.client.sadd(keys.LANES, "warehouse/0/1")
    Bell(relay.client).ring("warehouse/0/1")
    job = until(lambda: relay.ask("GET", "/client/12/fullupdatestatus").json()["lastCompletedUpdateJob"])
    assert job["status"] == {"id": 4, "name": "Completed Successfully"}
    assert job["type"] == {"id": 2, "name": "Full Update"}
    assert job["start"] <= job["end"]
    assert len(job["end"]) == len("2025-12-09 03:26:25")


def test_an_export_whose_writer_is_told_to_end_is_written_by_the_next(relay: Relay) -> None:
    export, number = slow_export(relay)
    until(lambda: relay.exports.find(export).status == "In Progress")
    until(lambda: list((relay.folder / "files").glob("*.part")))
    assert relay.worker is not None
    relay.worker.terminate()
    relay.worker.wait(60)
    status = relay.exports.find(export).status
    assert status in {PENDING, COMPLETED}
    assert list((relay.folder / "files").glob("*.part")) == []
    relay.work()
    assert relay.finished(export)["rows"] == number


def test_an_export_whose_writer_is_killed_ends_in_an_error(relay: Relay) -> None:
    export, _ = slow_export(relay)
    part = until(lambda: list((relay.folder / "files").glob("*.part")))[0]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(part.stem.rpartition("-")[2])).send_signal(signal.SIGKILL)
    told = relay.finished(export)
    assert told["status"] in {ERROR, COMPLETED}
    if told["status"] == ERROR:
        assert "killed" in told["message"]
        assert relay.ask("GET", f"/export/{export}").status_code == 404


def slow_export(relay: Relay) -> tuple[int, int]:
    """An export that takes a while; its number, and its rows."""
    settings = yaml.safe_load(relay.path.read_text())
    relay.path.write_text(yaml.safe_dump({**settings, "export_max_rows": 10_000_000}))
    assert relay.worker is not None
    rows = filled(relay.folder / "warehouse.db", 400_000)
    number = relay.table()
    relay.worker.terminate()  # the next one knows the new settings
    relay.worker.wait(60)
    relay.work()
    return int(relay.ask("POST", f"/client/12/table/{number}/export").json()["export_id"]), rows


def filled(path: Path, rows: int) -> int:
    """Add rows to the orders; returns how many live ones there are."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "WITH RECURSIVE t(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM t LIMIT ?) "
            "INSERT INTO shop_orders (id, total, note, _relay_version) "
            "SELECT n, n || '.25', hex(randomblob(60)), '1' FROM t",
            (rows,),
        )
        (count,) = db.execute("SELECT count(*) FROM shop_orders WHERE _relay_deleted_at IS NULL").fetchone()
    return int(count)


MEASURED = """
import resource, sys
from pathlib import Path
from relay.config import load
from worker import exports, jobs
folder = Path(sys.argv[1])
jobs.setup(load(folder / "relay.yaml", folder))
exports.write(int(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    with postgres_server() as dsn:
        yield dsn


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_memory_of_a_job_does_not_grow_with_the_table(
    kind: str, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    block = {"kind": kind, **({"dsn": request.getfixturevalue("dsn")} if kind == "postgres" else {})}
    settings = {"redis_url": redis_url, "destinations": {"warehouse": block}}
    (tmp_path / "relay.yaml").write_text(yaml.safe_dump(settings))
    config = load(tmp_path / "relay.yaml", tmp_path)
    with closing(jobs.open_destination(config, "warehouse")) as destination:
        deliver(destination, row(1, id=1, note="x"))
    peaks = []
    with redis.Redis.from_url(redis_url) as client:
        for rows in (2_000, 200_000):
            if kind == "sqlite":
                with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db, db:
                    db.execute("DELETE FROM shop_orders")
                filled(tmp_path / "warehouse.db", rows)
            else:
                with closing(psycopg.connect(request.getfixturevalue("dsn"), autocommit=True)) as pg:
                    pg.execute("DELETE FROM shop_orders")
                    pg.execute(
                        "INSERT INTO shop_orders (id, total, updated_at, note, _relay_version) "
                        "SELECT n, n + 0.25, now(), repeat(md5(n::text), 4), '1' FROM generate_series(1, %s) AS n",
                        (rows,),
                    )
            export = Exports(client).create(1, "warehouse", "shop_orders", 1, "orders").id
            command = [sys.executable, "-c", MEASURED, str(tmp_path), str(export)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            found = Exports(client).find(export)
            assert found is not None
            assert (found.status, found.rows) == (COMPLETED, rows)
            peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 12_000, f"KiB at the peak: {peaks}"


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"figures": {"a": {"sql": "SELECT 1", "destination": "elsewhere"}}}, "figures.a.destination"),
        ({"charts": {"a": {"destination": "warehouse"}}}, "charts.a.sql"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "trusted_proxies"),
    ],
)
def test_a_faulty_setting_is_named(more: dict[str, Any], where: str, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(yaml.safe_dump(more))
    with pytest.raises(ConfigInvalid) as fault:
        load(tmp_path / "relay.yaml", tmp_path)
    assert where in str(fault.value)
