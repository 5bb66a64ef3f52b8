"""What the configuration of the kind `custom` may say, and how it is told what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relay.config import load
from relay.configured import _source
from relay.errors import ConfigInvalid
from relay.expressions import MAX_CHARACTERS
from relay.records import Type, decode_json
from relay.sources.custom import build

EXAMPLE = Path(__file__).parents[1] / "payloads/custom/order_updated/source.json"


def changed(path: str, value: Any) -> dict[str, Any]:
    """The settings of the first case with one of them changed; `...` takes it away."""
    described: Any = decode_json(EXAMPLE.read_bytes())
    place = described
    *way, last = path.split("/")
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    if value is ...:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return described


FAULTS = [
    ("tables/0/columns/total", "total_price[", "tables.0.columns.total: not JMESPath"),
    ("tables/0/columns/total", "nosuch(total)", "tables.0.columns.total: there is no function nosuch()"),
    ("tables/0/columns/total", "sum(a, b)", "tables.0.columns.total: sum() takes 1 arguments, not 2"),
    ("tables/0/columns/total", "x" * (MAX_CHARACTERS + 1), "tables.0.columns.total: an expression has at most"),
    ("tables/0/columns/total", "&total", "tables.0.columns.total: a reference (&) stands only in"),
    ("tables/0/columns/total", "`1e999`", "tables.0.columns.total: a literal number is too large"),
    ("tables/0/columns/total", "|".join(["[@,@]"] * 20), "tables.0.columns.total: it may repeat its input"),
    ("tables/0/columns/total", "(" * 900 + "a" + ")" * 900, "tables.0.columns.total: the expression is nested"),
    ("tables/0/columns/total", {"path": "a["}, "tables.0.columns.total.path: not JMESPath"),
    ("tables/0/columns/total", {"path": "a", "const": 1}, "tables.0.columns.total: say one of path and const"),
    ("tables/0/columns/total", {}, "tables.0.columns.total: say one of path and const"),
    ("tables/0/columns/total", {"const": [1]}, "tables.0.columns.total.const: a constant is text"),
    ("tables/0/columns/total", {"path": "a", "cast": "float"}, "tables.0.columns.total.cast: "),
    ("tables/0/columns/id", ..., "tables.0: id is not among the columns"),
    ("tables/0/types/nosuch", "int", "tables.0: nosuch is not among the columns"),
    ("tables/0/columns/_relay_version", "v", "tables.0: _relay_version is a name of the relay's own"),
    ("tables/0/types/total", "decimal", "tables.0.types.total: "),
    ("tables/0/when", 7, "tables.0.when: a JMESPath expression is text"),
    ("tables/0/whenn", "true", "tables.0.whenn: unknown setting"),
    ("tables/0/table", "Orders!", "tables.0.table: "),
    ("tables/0/key", [], "tables.0.key: "),
    ("tables/0/rank", 100, "tables.0.rank: "),
    ("tables/0/children/items/key", [], "tables.0.children.items.key: "),
    ("tables/0/children/items/complete", "!", "tables.0.children.items.complete: not JMESPath"),
    (
        "tables/0/children/items/parent",
        {"order": "nosuch"},
        "tables.0.children.items.parent: name a column for each",
    ),
    ("tables/0/children/items/parent", {"sku": "id"}, "tables.0.children.items.parent: a column of the rows has"),
    ("tables/0/children/items/table", "parcels", "tables.0.children"),
    ("tables/0/children/a[", {"key": "x"}, "tables.0.children.a[: not JMESPath"),
    ("tables/0/children/a.b", {"key": "x"}, "tables.0.children.a.b.table: say one"),
    ("tables", [], "tables: "),
    ("nosuch", 1, "nosuch: unknown setting"),
    ("split", "", "split: not JMESPath"),
    ("verify", ..., "verify: "),
    ("verify", {}, "verify: say one of hmac, hash, token, basic, rsa, ecdsa, ed25519, jwt and any"),
    ("verify", {"basic": {}, "token": {"header": "a"}}, "verify: say one of"),
    ("verify", {"any": []}, "verify: say one of"),
    ("verify", {"any": [{"basic": {"user": "x"}}]}, "verify.any.0.basic.user: unknown setting"),
    ("verify", {"token": {}}, "verify.token: say one of header, query and field"),
    ("verify/hmac/algorithm", "md5", "verify.hmac.algorithm: "),
    ("verify/hmac/header", "", "verify.hmac.header: "),
    ("verify/hmac/message", "{bdoy}", "verify.hmac: message signs"),
    ("verify/hmac/message", "constant", "verify.hmac: message signs"),
    ("verify/hmac/message", "{id}{body}", "verify.hmac: id_header (or id) and {id}"),
    ("verify/hmac/message", "{timestamp}{body}", "verify.hmac: timestamp and {timestamp}"),
    ("verify/hmac/timestamp", {"header": "x-time"}, "verify.hmac: timestamp and {timestamp}"),
    ("verify/hmac/header", ..., "verify.hmac: say one of header, query and field"),
    ("verify/hmac/query", "sig", "verify.hmac: say one of header, query and field"),
    ("verify", {"hmac": {"field": "sign"}}, "verify.hmac: a body that holds its own signature"),
    ("verify/hmac/params", {"join": "&"}, "verify.hmac: params is for {params_sorted}"),
    (
        "verify",
        {"hmac": {"header": "a", "several": True, "pair": "v1"}},
        "verify.hmac: several, pair and versions",
    ),
    (
        "verify",
        {"hash": {"header": "a", "message": "{body}"}},
        "verify.hash: the message of a hash begins or ends",
    ),
    (
        "verify",
        {"hash": {"header": "a", "message": "{secret}{secret}{body}"}},
        "verify.hash: the message of a hash",
    ),
    (
        "verify",
        {"hmac": {"header": "a", "timestamp": {"header": "b", "field": "c"}}},
        "verify.hmac.timestamp: say one",
    ),
    (
        "verify",
        {"hmac": {"header": "a", "message": "{id}", "id": {"field": "b"}, "id_header": "c"}},
        "verify.hmac: say one of id and id_header",
    ),
    (
        "tables/0/version",
        {"path": "updated_at", "format": "%H:%M"},
        "tables.0.version.format.0: a format is `iso`",
    ),
    (
        "tables/0/version",
        {"path": "updated_at", "zone": "Moon/Sea"},
        "tables.0.version.zone: there is no time zone",
    ),
    ("tables/0/version", {"format": "%Y"}, "tables.0.version.path: "),
    (
        "tables/0/columns/total",
        {"path": "a", "cast": "int", "unit": "s"},
        "tables.0.columns.total: format, zone and",
    ),
    ("at", {"path": "body.sent_at", "unit": "weeks"}, "at.unit: "),
    ("reply", {"status": 404}, "reply.status: "),
    ("verify/hmac/timestamp", {"unit": "min"}, "verify.hmac.timestamp.unit: "),
]


@pytest.mark.parametrize(("path", "value", "said"), FAULTS)
def test_a_wrong_setting_is_named_with_its_path(path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigInvalid) as fault:
        build(changed(path, value))
    assert str(fault.value).startswith(said)


def test_all_faults_are_named_at_once() -> None:
    described = changed("tables/0/when", "[")
    described["nosuch"] = 1
    with pytest.raises(ConfigInvalid) as fault:
        build(described)
    assert len(str(fault.value).splitlines()) == 2


def test_tables_are_declared_with_key_parent_and_types() -> None:
    tables = build(decode_json(EXAMPLE.read_bytes())).tables
    assert list(tables) == ["orders", "orders_items", "parcels"]
    assert tables["orders"].key == ("id",)
    assert tables["orders"].clock == "updated_at, then revision"
    assert tables["orders"].columns == {
        "paid": Type.BOOL,
        "placed_at": Type.INSTANT,
        "id": Type.INT,
        "total": Type.MONEY,
        "tags": Type.JSON,
    }
    assert tables["orders_items"].key == ("order_id", "sku")
    assert tables["orders_items"].parent == ("order_id",)
    assert tables["orders_items"].columns == {"order_id": Type.INT, "price": Type.MONEY}
    assert tables["parcels"].key == ("order", "parcel")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"table": "rows", "key": "uuid"}, "tables.1.key: rows is declared before with the key id"),
        ({"table": "rows", "key": "id", "types": {"n": "text"}}, "tables.1.types.n: declared before as int"),
    ],
)
def test_two_entries_of_one_table_must_agree(second: dict[str, Any], said: str) -> None:
    first = {"table": "rows", "key": "id", "types": {"n": "int"}}
    described = {"verify": {"basic": {}}, "tables": [first, second]}
    with pytest.raises(ConfigInvalid, match=said):
        build(described)


def test_a_fault_points_at_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(
        "sources:\n  erp:\n    kind: custom\n    verify: {token: {header: X-Key}}\n    tables:\n"
        "      - table: rows\n        key: id\n        columns:\n          id: id\n          total: total[\n"
        "        nosuch: 1\n  desk:\n    kind: gorgias\n    tables:\n"
        "      - table: macros\n        key: id\n        when: '['\n"
    )
    config = load(path, tmp_path)
    for name, faults in {
        "erp": [
            f"{path}:10: sources.erp.tables.0.columns.total: not JMESPath",
            f"{path}:11: sources.erp.tables.0.nosuch: unknown setting",
        ],
        "desk": [f"{path}:17: sources.desk.tables.0.when: not JMESPath"],
    }.items():
        with pytest.raises(ConfigInvalid) as fault:
            _source(config, name, config.settings.sources[name])
        lines = str(fault.value).splitlines()
        assert len(lines) == len(faults)
        assert all(line.startswith(said) for line, said in zip(lines, faults, strict=True))
