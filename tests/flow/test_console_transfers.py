"""The console's imports, exports and keys: what clients send and read, with acts that ask once and are logged."""

from __future__ import annotations

import html
import json
import re

import pytest
from typer.testing import CliRunner

from relay import expanding
from relay.buffer import keys
from relay.buffer.documents import Documents
from relay.buffer.exports import Exports
from relay.buffer.registry import Registry
from relay.cli.main import app as command
from relay.config import load
from tests.flow.test_console import XSS, Browser, Tags, acts, text

FIGURES = {"orders by <note>": {"sql": "SELECT '<b>' FROM erp_things", "owner": "anna@example.com"}}


class Desk(Browser):
    """A relay with a client that sends documents, pushes and reads."""

    def __init__(self, url, folder):
        super().__init__(url, folder, figures=FIGURES)
        self.key = Registry(self.client).create("import", 12, name="crm")
        self.log_in()

    def call(self, method, path="", body=None, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body)
        at = f"/v1/datamarts/12/document_imports{path}"
        headers = {"Authorization": self.key, "Content-Type": kind}
        answer = self.app.test_client().open(at, method=method, data=data, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.get_json()["data"]

    def make(self, name="mine"):
        told = {"document_type": "USER_PROFILE", "mime_type": "APPLICATION_X_NDJSON", "name": name}
        return self.call("POST", "", told)["id"]

    def send(self, import_id, *lines):
        document = b"".join(line + b"\n" for line in lines)
        return int(self.call("POST", f"/{import_id}/executions", document, "application/x-ndjson")["id"])

    def work(self, execution):
        expanding.work(load(self.path, self.folder), execution, "job-1")


@pytest.fixture
def me(redis_url, tmp_path):
    return Desk(redis_url, tmp_path)


def profile(n):
    return json.dumps({"operation": "UPSERT", "user_account_id": str(n), "user_profile": {"n": n}}).encode()


def test_documents_are_shown_with_their_state_and_what_was_refused(me):
    made = me.make()
    done = me.send(made, profile(1), b"{oops", profile(2))
    me.work(done)
    waits = me.send(made, profile(3))
    page = text(me.get("transfers/"))
    assert f"{made} 12 mine USER_PROFILE APPLICATION_X_NDJSON pending 0 % " in page
    one = me.get(f"transfers/imports/12/{made}")
    assert re.search(rf"{done} document-{done} \d+ B succeeded", text(one))
    assert "2 1 Errors" in text(one)
    assert f'aria-label="Cancel {waits}"' in one
    assert f'aria-label="Cancel {done}"' not in one
    part = me.get(f"transfers/imports/12/{made}", **{"X-Console-Part": "live"})
    assert "<html" not in part
    assert f'aria-label="Cancel {waits}"' in part


def test_error_lines_are_shown_inert_and_can_be_fetched_whole(me):
    run = me.send(me.make(), profile(1), b"{" + XSS.encode(), b'{"operation": "NO"}')
    me.work(run)
    page = me.get(f"transfers/errors/{run}")
    assert "2 of 2 lines, after redaction" in text(page)
    assert "&lt;script&gt;" in page
    assert Tags(page).inert()
    answer = me.web.get(f"/console/transfers/errors/{run}?file=1")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert [json.loads(line)["line"] for line in answer.data.splitlines()] == [2, 3]
    assert me.app.test_client().get(f"/console/transfers/errors/{run}").status_code == 303, "only who is logged in"


def test_an_execution_is_canceled_after_one_question_and_it_is_logged(me, caplog):
    made = me.make()
    run = me.send(made, profile(1))
    asked = me.submit("/console/transfers/cancel", {"id": str(run)})
    assert f"Cancel execution {run}?" in asked.text
    assert f"relay imports cancel {run}" in text(asked.text)
    assert Documents(me.client).execution(run).status == "PENDING"
    answer = me.submit("/console/transfers/cancel", {"id": str(run), "sure": "yes"})
    assert answer.status_code == 303
    assert f"Execution {run} is canceled." in text(me.get(f"transfers/imports/12/{made}"))
    assert Documents(me.client).execution(run).status == "CANCELED"
    assert [(a["act"], a["admin"], a["execution"]) for a in acts(caplog)] == [("execution_cancel", "ada", run)]
    assert me.submit("/console/transfers/cancel", {"id": str(run), "sure": "yes"}).status_code == 404
    assert me.submit("/console/transfers/cancel", {"id": XSS, "sure": "yes"}).status_code == 404


def test_the_same_is_possible_by_command(me):
    run = me.send(me.make(), profile(1))
    given = ["--config", str(me.path), "--data", str(me.folder)]
    listed = CliRunner().invoke(command, ["imports", "list", *given])
    assert re.match(rf"{run}  client 12, import \d+, USER_PROFILE document-{run}: PENDING, 0 taken", listed.output)
    (told,) = json.loads(CliRunner().invoke(command, ["imports", "list", "--json", *given]).output)
    assert (told["id"], told["status"], told["client"]) == (run, "PENDING", 12)
    gone = CliRunner().invoke(command, ["imports", "cancel", str(run), *given])
    assert gone.output == f"{run} is canceled; 0 commands of it stay\n"
    assert Documents(me.client).execution(run).status == "CANCELED"
    again = CliRunner().invoke(command, ["imports", "cancel", str(run), *given])
    assert "waits or runs" in str(again.exception)


def test_exports_pushes_and_saved_queries_are_shown(me):
    exports = Exports(me.client)
    Registry(me.client).create("export", 12, name="bi tool")
    done, failed = (exports.create(12, "warehouse", "kiosks", 1, "kiosks") for _ in range(2))
    exports.begin(done.id)
    exports.complete(done.id, 1234, 5_000_000, truncated=True)
    exports.fail(failed.id, "the destination could not be read")
    point = [{"keys": ["id"], "id": 1}]
    pushed = me.app.test_client().post(f"/v2/client/12/table/kiosks/data?apikey={me.key}", json=point)
    assert pushed.status_code == 201
    source = me.get("transfers/")
    page = text(source)
    assert f"{done.id} kiosks warehouse client 12 bi tool completed cut at export_max_rows 1,234 4.8 MiB" in page
    assert "error the destination could not be read" in page
    assert "Client 12 1 event" in page
    assert "kiosks warehouse 0 0 1 0" in page
    assert "orders by &lt;note&gt;" in source
    assert "SELECT &#39;&lt;b&gt;&#39; FROM erp_things" in source
    assert Tags(source).inert()


def test_what_is_not_there_is_a_404_and_markup_in_names_is_inert(me):
    made = me.make(XSS)
    me.send(made, profile(1))
    for path in ("transfers/", f"transfers/imports/12/{made}"):
        page = me.get(path)
        assert "&lt;script&gt;" in page
        assert Tags(page).inert()
    for path in (
        f"imports/13/{made}",
        "imports/12/x",
        "imports/12/99",
        "errors/99",
        "errors/-1",
        f"errors/{'9' * 99}",
    ):
        me.get(f"transfers/{path}", 404)
    assert "kept no longer" in text(me.get(f"transfers/errors/{int(made) + 1}", 404))


def test_without_anything_the_page_says_so(me):
    me.client.delete(keys.API_KEYS)
    page = text(me.get("transfers/"))
    for word in ("None was made.", "No client pushed anything yet.", "None was asked for in the last seven days."):
        assert word in page


def test_a_key_says_when_it_was_used_and_by_which_command_it_is_revoked(me):
    registry = Registry(me.client)
    (key,) = registry.every()
    assert re.search(r"import 12 crm nothing \d s ago never when revoked Revoke", text(me.get("keys/")))
    registry.used(key)
    assert re.search(r"import 12 crm nothing \d s ago \d s ago when revoked Revoke", text(me.get("keys/")))
    asked = me.submit("/console/keys/revoke", {"id": key.id})
    assert f"relay keys revoke {key.short}" in html.unescape(text(asked.text))
