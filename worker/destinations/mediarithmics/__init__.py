"""mediarithmics document imports: rows become profiles, segment members or activities of one datamart.

https://developer.mediarithmics.io/data-ingestion/bulk-processing

Each table has a document import, found by its name; each batch is one execution of it, an NDJSON file of one
command a line. The API takes a file at once and works on it later, so `deliver` looks on until the execution has
ended: a line of its error file is a rejected record. It knows no versions, so `worker.delivery` keeps a version
fence before it.

Activities are added, never replaced, and a file may have been taken although nobody heard so. The file's name
therefore says what is in it, and before anything is sent the past executions are looked through: what runs still
is waited for (nothing older may be applied after something newer), and an activity that was taken already is not
sent again. Records may come back in other batches than before; then the old file itself says what it held.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal

import msgspec
from pydantic import Field, SecretStr, field_validator

from relay.errors import Permanent, Transient
from relay.records import encode_json
from worker.destination import STORED, Batch, Destination, Item, Limits, Rejected, TableSpec, Verdict
from worker.destinations.mediarithmics.api import Api, Execution
from worker.destinations.mediarithmics.commands import Rule
from worker.wire import HttpSettings

#: Far below the 100 MB a file that the vendor advises as the most.
_RECORDS, _BATCH_BYTES = 10_000, 20_000_000
_NAME: Final = re.compile(r"-([0-9]{16})-([0-9]{16})-[0-9a-f]{32}\.ndjson")
_UNCLEAR: Final = "mediarithmics refused {} of {} lines, and its error file does not say that this is none of them"


class MediarithmicsSettings(HttpSettings):
    """A destination of kind `mediarithmics`."""

    url: str = Field("https://api.mediarithmics.com", description="Without /v1; a path prefix is taken.")
    datamart_id: int = Field(gt=0, description="The datamart's number.")
    token: SecretStr = Field(description="An API token, sent as it is in the Authorization header.")
    tables: dict[str, Rule] = Field(
        description="Table to rule: document_type (USER_PROFILE, USER_SEGMENT, USER_ACTIVITY), identifier, and "
        "what that type needs. A table without one is held."
    )
    deletes: Literal["mark", "key", "keep"] = Field(
        "mark",
        description="A deleted row is sent as DELETE, by what it last held, which the fence then keeps in Redis; "
        "key: by its key columns alone; keep: nothing is sent.",
    )
    prefix: str = Field(
        "rowhook",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="Begins the names of document imports and files; one for each relay that shares a datamart.",
    )
    timeout_s: float = Field(30.0, gt=0, le=60, description="Wait for a connection, and then for an answer.")
    wait_s: float = Field(
        60.0, gt=0, le=90, description="Wait for an execution to end; its outcome is then unknown."
    )
    concurrency: int = Field(2, ge=1, le=16, description="Executions at once, of different tables.")

    @field_validator("token")
    @classmethod
    def _token_fits_a_header(cls, token: SecretStr) -> SecretStr:
        text = token.get_secret_value().strip()
        if not re.fullmatch(r"[\x21-\x7e]+", text):
            raise ValueError("must be printable ASCII without spaces: it travels in a header")
        return SecretStr(text)


class _Line(msgspec.Struct, frozen=True):
    """One command: its bytes, whose it is, and its place in the batch."""

    body: bytes
    item: Item
    place: int


class Mediarithmics(Destination):
    """Sends rows as documents: user profiles, segment members or activities."""

    Settings = MediarithmicsSettings
    conditional: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False
    keeps_deleted: ClassVar[bool] = False
    settings: MediarithmicsSettings

    def __init__(self, name: str, settings: MediarithmicsSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self.limits = Limits(records=_RECORDS, body_bytes=_BATCH_BYTES, concurrency=settings.concurrency)
        self.marks = settings.deletes == "mark" and any(rule.deletes for rule in settings.tables.values())
        base = f"{settings.url}/v1"
        self._api = Api(base, settings.datamart_id, settings.token, settings.timeout_s, settings.proxy)
        self._imports: dict[str, str] = {}

    def deliver(self, batch: Batch) -> list[Verdict]:
        """See `Destination`; it looks on until the execution has ended, or `wait_s` is over."""
        rule = self._rule(batch)
        verdicts: list[Verdict] = [STORED] * len(batch.items)
        lines = []
        for place, item in enumerate(batch.items):
            told = None if item.op != "row" and self.settings.deletes == "keep" else rule.command(item)
            if isinstance(told, Rejected):
                verdicts[place] = told
            elif told is not None:
                lines.append(_Line(encode_json(told), item, place))
        if lines:
            # Always in the same order, so that the same records have the same name.
            lines.sort(key=lambda line: _identity(line.item))
            for place, verdict in self._send(batch.table.name, rule, lines).items():
                verdicts[place] = verdict
        return verdicts

    def ping(self) -> None:
        """Have the token checked; stores nothing."""
        self._api.ping()

    def close(self) -> None:
        """Close the connections of all threads."""
        self._api.close()

    def _rule(self, batch: Batch) -> Rule:
        """The table's rule.

        Raises:
            Permanent: of reason `foreign_table`, which holds this table: it has none, or one that names a column
                that no row has. That is for the settings to mend, and no reason to bury rows.
        """
        name, at = batch.table.name, f"destinations.{self.name}.tables.{batch.table.name}"
        rule = self.settings.tables.get(name)
        if rule is None:
            raise Permanent(
                f"no rule says what {name} is at mediarithmics: write {at} with a document_type and an identifier",
                reason="foreign_table",
            )
        column, rows = rule.identifier.column, [item for item in batch.items if item.op == "row"]
        if rows and not _declares(batch.table, column) and not any(column in item.data for item in rows):
            raise Permanent(
                f"{name} has no column {column}: mend {at}.identifier, which names it", reason="foreign_table"
            )
        return rule

    def _send(self, table: str, rule: Rule, lines: Sequence[_Line]) -> dict[int, Verdict]:
        """The verdicts of a batch's lines, by place."""
        if table not in self._imports:
            self._imports[table] = self._api.import_of(f"{self.settings.prefix} {table}", rule.document_type)
        import_id = self._imports[table]
        known = self._known(import_id, rule, self._file_name(table, lines), lines)
        rest = [line for line in lines if line.place not in known]
        if rest:
            bodies = [line.body for line in rest]
            begun = self._api.send(import_id, self._file_name(table, rest), bodies)
            ended = self._api.end_of(import_id, begun, self.settings.wait_s)
            verdicts = self._outcome(ended, rule, bodies)
            known.update((line.place, verdict) for line, verdict in zip(rest, verdicts, strict=True))
        return known

    def _file_name(self, table: str, lines: Sequence[_Line]) -> str:
        """The name of these records' file, which any process finds again."""
        events = [line.item.event for line in lines]
        told = encode_json([table, [_identity(line.item) for line in lines]])
        head = re.sub(r"[^A-Za-z0-9_]", "_", f"{self.settings.prefix} {table}")[:120]
        return f"{head}-{min(events)}-{max(events)}-{hashlib.sha256(told).hexdigest()[:32]}.ndjson"

    def _known(self, import_id: str, rule: Rule, name: str, lines: Sequence[_Line]) -> dict[int, Verdict]:
        """Verdicts that past executions give.

        One that runs still is waited for, and what becomes of it counts. Of one that ended before, only activities
        that were taken count: a line that was refused then may be taken now, and anything else may go twice.
        """
        known: dict[int, Verdict] = {}
        until = time.monotonic() + self.settings.wait_s
        for found in self._api.executions(import_id):
            ended = self._api.end_of(import_id, found, max(0.0, until - time.monotonic()))
            watched = ended is not found
            if ended.done and (watched or rule.appends) and _overlaps(ended.name, lines):
                bodies = [line.body for line in lines] if name in ended.name else self._api.lines(ended)
                verdicts, clear = self._verdicts(ended, bodies)
                if watched or clear:
                    _learn(known, lines, bodies, verdicts, rejections=watched)
        return known

    def _outcome(self, ended: Execution, rule: Rule, bodies: Sequence[bytes]) -> list[Verdict]:
        """What became of the lines of an execution that was begun here.

        Raises:
            Transient: it failed as a whole. Bad lines do not make it fail, so it is no fault of theirs.
        """
        if ended.done:
            return self._verdicts(ended, bodies)[0]
        text = f"execution {ended.id} at mediarithmics is {ended.status}: {ended.words}"
        if rule.appends and ended.completed:
            taken = f"{ended.completed} of its {len(bodies)} lines were taken, and nobody knows which"
            return [Rejected(f"{text}; {taken}: look there before `relay dead retry` adds this again")] * len(
                bodies
            )
        raise Transient(text, reason="server")

    def _verdicts(self, ended: Execution, bodies: Sequence[bytes]) -> tuple[list[Verdict], bool]:
        """The verdict of each line of a file, and whether they are sure."""
        verdicts: list[Verdict] = [STORED] * len(bodies)
        if ended.failures:
            places = {body: place for place, body in enumerate(bodies)}
            refused: dict[int, str] = {}
            for number, sent, words in self._api.refused(ended):
                told = number - 1 if number is not None and 0 < number <= len(bodies) else None
                as_told = told is not None and (sent is None or bodies[told] == sent)
                place = told if as_told or sent is None else places.get(sent, told)
                if place is not None:
                    refused.setdefault(place, words)
            if len(refused) < ended.failures:
                unclear = Rejected(_UNCLEAR.format(ended.failures, len(bodies)))
                verdicts = [unclear] * len(bodies)
            for place, words in refused.items():
                verdicts[place] = Rejected(words)
            return verdicts, len(refused) >= ended.failures
        return verdicts, True


destination = Mediarithmics


def _identity(item: Item) -> tuple[str, str, int, str]:
    return item.version, item.event, item.position, item.key


def _declares(table: TableSpec, column: str) -> bool:
    return column in table.columns or column in table.key


def _overlaps(name: str, lines: Sequence[_Line]) -> bool:
    """Whether a file of that name may hold one of these records."""
    found = _NAME.search(name)
    return found is not None and any(found[1] <= line.item.event <= found[2] for line in lines)


def _learn(
    known: dict[int, Verdict],
    lines: Sequence[_Line],
    bodies: Sequence[bytes],
    verdicts: Sequence[Verdict],
    *,
    rejections: bool,
) -> None:
    """Note the verdicts that a file gives to our lines; equal lines each need one of their own."""
    told = defaultdict[bytes, list[Verdict]](list)
    for body, verdict in zip(bodies, verdicts, strict=True):
        if verdict == STORED or rejections:
            told[body].append(verdict)
    for line in lines:
        if known.get(line.place) != STORED and told.get(line.body):
            known[line.place] = told[line.body].pop(0)
