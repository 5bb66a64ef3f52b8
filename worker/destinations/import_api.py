"""The RJMetrics / Magento BI Data Import API, and any server that speaks it.

https://developer.adobe.com/commerce/services/reporting/import-api/

One POST carries up to 100 points of one table; a point replaces the whole row with equal `keys`. The API knows
no versions and no deletes, so `worker.delivery` keeps a version fence before it, and a tombstone is a column. It
says little of its answers: success here is a 2xx that is a JSON object, and anything else that begins with 2 is
an unknown outcome (a proxy's page is no receipt).
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, SecretStr, field_validator

from relay.errors import MalformedPayload, Permanent, Transient
from relay.records import NS, Type, decode_json, encode_json, instant_ns, instant_of_ns, version_instant
from worker.destination import STORED, Batch, Destination, Item, Limits, TableSpec, Verdict
from worker.wire import Answer, HttpSettings, Wire, one_line, scrub

#: The API's own caps: 100 points, and (by the word of an official client) 5 MB; that client stops at 4 MiB.
_POINTS: Final = 100
_BATCH_BYTES: Final = 4 * 1024 * 1024
_CAP_BYTES: Final = 5_000_000
_TABLE: Final = re.compile(r"[A-Za-z0-9_]+")
#: `keys` belongs to the protocol. Each such name gets one underscore more, so that two never become one.
_PROTOCOL_COLUMN: Final = re.compile(r"keys_*")

_NO_CONTENT, _FAULTS = 204, 400
#: The years that `YYYY-MM-DD` can say, as nanoseconds since 1970.
_FIRST_NS, _LAST_NS = -62_135_596_800 * NS, 253_402_300_800 * NS


class ImportApiSettings(HttpSettings):
    """A destination of kind `import_api`."""

    url: str = Field("https://connect.rjmetrics.com", description="Without /v2; a path prefix is taken.")
    client_id: int = Field(gt=0, description="The account's number.")
    api_key: SecretStr = Field(description='The key of a "Data Import API" data source.')
    timeout_s: float = Field(30.0, gt=0, le=600, description="Wait for a connection, and then for an answer.")
    deletes: Literal["blank", "mark", "keep"] = Field(
        "blank",
        description="A deleted row: its key and _relay_deleted_at; mark: its last columns too; keep: as it was.",
    )
    concurrency: int = Field(4, ge=1, le=64, description="Requests at once.")

    @field_validator("api_key")
    @classmethod
    def _key_fits_a_url(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value().strip()
        if not re.fullmatch(r"[0-9A-Za-z._~-]+", text):
            raise ValueError("must be letters and digits (. _ ~ - are taken too): it travels in the URL")
        return SecretStr(text)


class ImportApi(Destination):
    """Posts whole rows as data points."""

    Settings = ImportApiSettings
    conditional: ClassVar[bool] = False
    keeps_deleted: ClassVar[bool] = False

    def __init__(self, name: str, settings: ImportApiSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self.limits = Limits(records=_POINTS, body_bytes=_BATCH_BYTES, concurrency=settings.concurrency)
        self.marks = settings.deletes == "mark"
        self._http = _Http(settings)

    def deliver(self, batch: Batch) -> list[Verdict]:
        """See `Destination`; the API stores all points of a request or says that it does not."""
        table, deletes = batch.table, self.settings.deletes
        if not _TABLE.fullmatch(table.name):
            raise Permanent(f"the Import API takes no table called {table.name!r}: letters, digits and _ only")
        sent = [item for item in batch.items if deletes != "keep" or item.op == "row"]
        body = encode_json([point(table, item, deletes) for item in sent])
        if len(body) > _CAP_BYTES and len(sent) > 1:
            raise Permanent(f"{len(body)} bytes are more than the {_CAP_BYTES} that the Import API takes")
        if sent:
            self._http.ask("POST", f"table/{table.name}/data", body)
        return [STORED] * len(batch.items)

    def ping(self) -> None:
        """Have the key checked; stores nothing."""
        self._http.ask("GET", "authenticate")

    def close(self) -> None:
        """Close the connections of all threads."""
        self._http.close()


destination = ImportApi


def point(table: TableSpec, item: Item, deletes: str) -> dict[str, Any]:
    """A record as the API takes it: its columns, `keys`, and what the relay adds."""
    if item.op not in {"row", "gone", "full_gone"}:
        raise Permanent(f"the Import API takes no {item.op!r} record")
    data = item.data
    if item.op == "gone" and deletes == "blank":
        data = {name: data[name] for name in table.key if name in data}
    row = {
        _column(name): _value(value, table.columns.get(name), is_key=name in table.key)
        for name, value in data.items()
        if not name.startswith("_relay_")
    }
    row["keys"] = [_column(name) for name in table.key]
    row["_relay_source"], row["_relay_version"] = item.source, item.version
    if item.op != "row":
        row["_relay_deleted_at"] = _date_text(version_instant(item.version))
    return row


def _column(name: str) -> str:
    return f"{name}_" if _PROTOCOL_COLUMN.fullmatch(name) else name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def _value(value: Any, declared: str | None, *, is_key: bool) -> Any:
    """A value as it is sent.

    Nested values go as JSON text, since the API says nothing of them. A key's digits have one form, whichever
    the vendor sent: to the fence 1 and "1" are one row, and here they would be two. A key's time stays as it
    came, because cutting it to seconds could make two rows one.
    """
    if isinstance(value, (dict, list)):
        return _text(value)
    if declared == Type.ID and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if is_key:
        digits = declared == Type.INT and isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,39}", value)
        return int(value) if digits else value
    if declared == Type.INSTANT:
        at = instant_ns(value)
        return value if at is None or not _FIRST_NS <= at < _LAST_NS else _date_text(instant_of_ns(at))
    return value


def _date_text(moment: dt.datetime) -> str:
    """The form of dates in the API's own examples; UTC."""
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")


class _Http:
    """The API's two calls."""

    def __init__(self, settings: ImportApiSettings) -> None:
        self._wire = Wire("the Import API", settings.api_key, settings.timeout_s, settings.proxy)
        self._key = settings.api_key.get_secret_value()
        self._base = f"{settings.url}/v2/client/{settings.client_id}"
        self.close = self._wire.close

    def ask(self, method: str, path: str, body: bytes | None = None) -> None:
        """Return where the API agreed.

        Raises:
            DeliveryError: otherwise.
        """
        stores, headers = body is not None, {} if body is None else {"Content-Type": "application/json"}
        url = f"{self._base}/{path}?apikey={self._key}"
        answer = self._wire.ask(method, url, body, headers, stores=stores)
        if _agrees(answer):
            return
        said = _words(answer, self._key)
        if answer.status // 100 == 2:  # noqa: PLR2004 - a proxy's page, or half an answer
            text = f"the Import API's {answer.status} is no answer of its own: {said}"
            raise Transient(text, reason="answer_garbled", unknown=stores)
        raise self._wire.refusal(answer, said, stores=stores)


def _agrees(answer: Answer) -> bool:
    """A 2xx that is a whole JSON object, whose `code`, where it has one, names no fault."""
    if answer.status == _NO_CONTENT:
        return True
    said = _object(answer.body) if answer.status // 100 == 2 and answer.whole else None  # noqa: PLR2004
    code = 0 if said is None else said.get("code")
    return said is not None and not (isinstance(code, int) and code >= _FAULTS)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = decode_json(body)
    except MalformedPayload:
        return None
    return value if isinstance(value, dict) else None


def _words(answer: Answer, key: str) -> str:
    """The API's own words, for people: one line, bounded, without the key."""
    said = _object(answer.body)
    if said is None:
        text = re.sub(r"<[^<>]*>", " ", answer.body.decode("utf-8", "replace"))
    else:
        reasons = said.get("reasons")
        parts = [said.get("message"), *(reasons if isinstance(reasons, list) else [reasons])]
        text = "; ".join(map(_text, filter(None, parts))) or _text(said)
    return one_line(scrub(text, key))
