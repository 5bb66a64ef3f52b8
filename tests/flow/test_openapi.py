"""The description of all that is served: complete, the same for every relay, and true of every answer.

schemathesis makes requests up from it, right ones and wrong ones, and holds each answer against it.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from rq.utils import import_attribute
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    missing_required_header,
    positive_data_acceptance,
)

from relay import app as application
from relay import dispatch, exports
from relay.web import door, openapi
from tests.flow.test_documents import Datamart, lines, profile
from tests.flow.test_history import ERP, ORDERS
from tests.servers.valkey import valkey
from worker import jobs

#: Requests that are made up for an operation, besides those at the edges of its schemas.
WITH_KEYS, WITHOUT_KEYS = 5, 4
#: What is allowed may still name a key that a row lacks, or a table that is known by another: no schema says that.
NOT_SAID = [positive_data_acceptance]
#: Keys are wrong where they are made up, and after some of them the answer is another one.
NOT_ALONE = [*NOT_SAID, missing_required_header]
#: Another spelling of what is there already: the same handlers, so that one of them is enough.
TWICE = "/documents_imports"
NUMBER = re.compile(r"[1-9][0-9]*")


def described() -> dict[str, Any]:
    app = Flask("relay", static_folder=None)
    application.serve(app)
    return openapi.describe(app)


class Inline:
    """A queue whose jobs are done at once, where they answer; those that deliver stay undone."""

    count = 0

    def __init__(self, name: str, connection: Any) -> None:  # noqa: ARG002
        self._answers = name != dispatch.QUEUE

    def enqueue(self, job: str, *args: Any, **_: Any) -> None:
        if self._answers:
            import_attribute(job)(*args)


class Whole(Datamart):
    """A relay that has something of everything, and keys for it."""

    def __init__(self, url: str, folder: Path) -> None:
        saved = {"orders": {"sql": "SELECT 1 AS n", "owner": "anna@example.com"}}
        sources = {"erp": {**ERP, "tables": [ORDERS]}}
        super().__init__(url, folder, sources=sources, figures=saved, charts=saved)
        created = self.run("keys", "create", "--kind", "export", "--client", "12")
        self.export_key = str(created.stdout.splitlines()[0])
        self.push({"keys": ["id"], "id": 1})
        self.drain()
        self.made = self.make()
        told = self.run_through(self.made, lines(profile(1), {"operation": "none"}))
        self.error_file = told["result"]["error_file_uri"]
        self.table = self.ask("GET", "/client/12/table")["tables"][0]["id"]
        export = self.ask("POST", f"/client/12/table/{self.table}/export")["export_id"]
        (figure,), (chart,) = (self.ask("GET", f"/{kind}")[f"{kind}Exports"] for kind in ("figure", "chart"))
        self.numbers = {
            ("figure", "fid"): figure, ("chart", "fid"): chart, ("export", "eid"): export,
            ("document_imports", "eid"): told["id"], ("documents_imports", "eid"): told["id"],
        }  # fmt: skip

    def ask(self, method: str, path: str) -> Any:
        answer = self.web.open(f"/0.1{path}", method=method, headers={"X-RJM-API-Key": self.export_key})
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    def forgive(self) -> None:
        """Forget that wrong keys came."""
        self.web.application.extensions["rowhook"].door._wrong.clear()

    def keys_for(self, scheme: str) -> dict[str, dict[str, str]]:
        """What a request brings to be let in."""
        headers, params = {"X-Key": "k"}, {}
        if scheme in {"importKey", "fileToken"}:
            params[openapi.SCHEMES[scheme]["name"]] = self.key
        elif scheme == "bearer":
            headers["Authorization"] = f"Bearer {self.key}"
        elif scheme == "datamartToken":
            headers["Authorization"] = self.key
        elif scheme == "exportKey":
            headers["X-RJM-API-Key"] = self.export_key
        return {"headers": headers, "params": params}

    def aim(self, case: Any) -> None:
        """Most of what is made up asks for what is there; numbers that begin with 9 and wrong ones are left."""
        parts = case.path.split("/")
        there = {
            "cid": 12, "dm": 12, "tid": self.table, "iid": self.made,
            **{name: number for (api, name), number in self.numbers.items() if api in parts},
        }  # fmt: skip
        for name, value in case.path_parameters.items():
            if name in there and NUMBER.fullmatch(str(value)) and not str(value).startswith("9"):
                case.path_parameters[name] = there[name]
            elif name == "name" and str(value) == "shop":
                case.path_parameters[name] = "erp"
        if case.method == "DELETE" and case.path_parameters.get("iid") == self.made:
            case.path_parameters["iid"] = self.make()
        if len(str(case.query.get("uri", "9" * 9))) < 9:
            case.query["uri"] = self.error_file
        for one in case.body if isinstance(case.body, list) else [case.body]:
            if isinstance(one, dict):
                complete(one)


def complete(body: dict[str, Any]) -> None:
    """Give a row the fields of its key, and what else no schema can ask for."""
    for names, row in ((body.get("keys"), body), (body.get("key_names"), body.get("data"))):
        if isinstance(names, list) and isinstance(row, dict):
            row |= {name: 1 for name in names if isinstance(name, str)}
    if type(body.get("client_id")) is int:
        body["client_id"] = 12
    if isinstance(body.get("schema"), dict) and isinstance(body.get("messages"), list):
        body |= {"schema": {"type": "object"}, "key_names": None}


class Standing:
    """Stands for the relay before it is there: what is tested is known before anything is started."""

    whole: Whole

    def __call__(self, environ: Any, start: Any) -> Any:
        body = self.whole.web.application(environ, start)
        try:
            return [b"".join(body)]
        finally:
            body.close()


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """The same, but that no answer may have a field that is not described."""
    strict = copy.deepcopy(document)
    schemas, seen, left = strict["components"]["schemas"], set(), []
    left += re.findall(r'schemas/(\w+)"', json.dumps([strict["components"]["responses"], _answers(strict)]))
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += re.findall(r'schemas/(\w+)"', json.dumps(schemas[name]))
            schemas[name]["additionalProperties"] = False
    return strict


def _answers(document: dict[str, Any]) -> list[Any]:
    return [one["responses"] for path in document["paths"].values() for one in path.values()]


def _schema(examples: int, *, keys: bool) -> Any:
    """Operations to be asked.

    Args:
        examples: requests for each.
        keys: they bring made up keys; else those at the edges of the schemas are made as well.
    """
    generation = {
        "deterministic": True, "max-examples": examples, "database": "none", "no-shrink": True,
        "with-security-parameters": keys,
    }  # fmt: skip
    config = SchemathesisConfig.from_dict(
        {"generation": generation, "phases": {"coverage": {"enabled": not keys}, "examples": {"enabled": False}}}
    )
    schema = schemathesis.openapi.from_dict(closed(described()), config=config)
    schema.app = Standing()
    return schema


@schemathesis.serializer("application/x-ndjson")
def _ndjson(_: Any, value: Any) -> dict[str, Any]:
    return {"data": json.dumps(value).encode()}


entitled, stranger = _schema(WITH_KEYS, keys=False), _schema(WITHOUT_KEYS, keys=True)
#: How often an operation was answered with a status.
answered: Counter[tuple[str, int]] = Counter()
asked = itertools.count()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    write = Whole.write

    def noted(self: Whole, **changes: Any) -> None:
        write(self, **changes)
        patch.setattr(jobs._Process, "config", self.config)

    with pytest.MonkeyPatch.context() as patch, valkey() as url:
        patch.setattr(exports, "Queue", Inline)
        patch.setattr(dispatch, "Queue", Inline)
        patch.setattr(door, "_MOST_WRONG", 5)
        patch.setattr(Whole, "write", noted)
        Standing.whole = Whole(url, tmp_path_factory.mktemp("relay"))
        yield Standing.whole


@entitled.exclude(path_regex=TWICE).parametrize()
def test_who_has_a_key_is_answered_as_described(case, whole):
    whole.forgive()
    whole.aim(case)
    scheme = next(iter((case.operation.definition.raw["security"] or [{"": []}])[0]))
    answer = case.call_and_validate(**whole.keys_for(scheme), excluded_checks=NOT_SAID)
    answered[case.operation.label, answer.status_code] += 1


@stranger.parametrize()
def test_who_has_none_is_answered_as_described(case, whole):
    if next(asked) % 8 == 0:  # between that, keys are refused unseen
        whole.forgive()
    case.call_and_validate(excluded_checks=NOT_ALONE)


def test_every_operation_was_asked_for_what_it_does():
    """Of the run above, so that this file is run as a whole: what is only ever refused is not tested."""
    document = described()
    done = {label for label, status in answered if 200 <= status < 300}
    labels = {f"{method.upper()} {path}" for path, found in document["paths"].items() for method in found}
    assert {label for label in labels - done if TWICE not in label} == set()


# --- the description itself ---------------------------------------------------------------------------


def test_every_route_is_described_but_for_pages_that_people_look_at(whole):
    """A route whose handler declares nothing makes this fail, and names it."""
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in whole.web.application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(("/console", "/favicon.ico"))
    }
    paths = whole.web.get("/openapi.json").get_json()["paths"]
    assert {(path, method) for path, found in paths.items() for method in found} == routes


def test_a_route_that_nothing_is_declared_of_is_named():
    app = Flask("relay", static_folder=None)
    application.serve(app)
    app.add_url_rule("/v3/rows", "rows", lambda: "", methods=["POST"])
    with pytest.raises(openapi.Undeclared, match="POST /v3/rows"):
        openapi.describe(app)


def test_the_description_is_the_same_for_every_relay_and_tells_nothing_of_this_one(whole):
    answer = whole.web.get("/openapi.json")
    assert answer.get_json() == described()
    assert answer.content_type == "application/json"
    for secret in (whole.key, whole.export_key, "erp", "warehouse"):
        assert secret not in answer.text


def test_a_copy_of_the_description_is_asked_for_again_in_vain(whole):
    answer = whole.web.get("/openapi.json")
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    again = whole.web.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_operations_have_names_of_their_own_and_what_they_refer_to_is_there():
    document = described()
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))
    for kind, name in re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(document)):
        assert name in document["components"][kind]
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert used == set(document["components"]["schemas"])
