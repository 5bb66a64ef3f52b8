"""The key layout: every key that holds events, records or their accounts, in one table.

=====================================  ======  ================================================================
key                                    type    holds
=====================================  ======  ================================================================
`rh:clock`                             string  the last arrival number given: microseconds that only ever grow
`rh:events`                            hash    arrival number -> the event's blob (`relay.records.Packed`)
`rh:refs`                              hash    arrival number -> how many hold the blob, where that is not 1
`rh:bytes`                             hash    source -> bytes of its blobs; `*` -> of all
`rh:ledger`                            hash    `e|<source>|<state>` and `r|<source>|<destination>|<table>|<state>`
`rh:schemas`                           hash    schema id -> declaration of a table (`Table.declaration`)
`rh:seen:<day>`                        hash    digest of source, type, delivery id (24 B) -> arrival (16 B)
`rh:seen:m:<slot>`                     hash    the same for bodies of deliveries without an id, for minutes
`rh:quarantine`                        zset    arrival numbers of events that could not be read or mapped
`rh:dead`                              hash    `<arrival>|<destination>|<position>` -> a dead letter
`rh:deadcount`                         hash    arrival number -> how many dead letters it has
`rh:alarms`                            hash    `dedup` -> `<ms>|<bucket>`: when marks were last given up, and which
`rh:alerted`                           hash    id of a need -> what was said of it (`relay.buffer.alerts.State`)
`rh:alerts:unsent`                     hash    `<notice>|<receiver>` -> an alert that is still to be sent
`rh:alerts:sending`                    string  there while a job sends alerts; goes by itself
`rh:lanes`                             set     every lane that ever held something
`rh:parked`                            hash    arrival number -> source, of events whose body only the archive has
`rh:keys`                              hash    SHA-256 of an API key -> what it may do (`relay.buffer.registry`)
`rh:keys:used`                         hash    SHA-256 of an API key -> when it was last used (ms)
`rh:clients`                           hash    API client -> what its tables begin with
`rh:admins`                            hash    console user -> password hash and generation (`relay.buffer.admins`)
`rh:admins:seen`                       hash    console user -> when it last logged in (s since 1970)
`rh:admin:link:<sha256>`               string  a one-time link for a password; goes by itself after an hour
`rh:admin:session:<sha256>`            hash    one session of the console; goes by itself
`rh:admin:tries:<sort>:<bucket>`       string  attempts to log in; goes by itself after a quarter of an hour
`rh:console:acts`                      list    the last acts of console users, newest first (`acts.Act`)
`rh:console:refused`                   list    the last refused logins, the same
`rh:samples:hour`                      hash    place in a ring of 10 s -> counters as they were (`samples.Sample`)
`rh:samples:day`                       hash    the same of a day, in places of five minutes
`rh:look:<token>`                      hash    what a page had looked for (`relay.buffer.looks`), for minutes
`rh:numbers`                           hash    table, figure, chart -> its number in the export API; `#`: the last
`rh:exports`                           zset    numbers of raw exports -> when they were asked for (ms)
`rh:exports:last`                      string  number of the last raw export
`rh:export:<number>`                   hash    one raw export (`relay.buffer.exports.Export`), for seven days
`rh:answer:<token>`                    list    the answer to a question of the export API; goes by itself
`rh:update`                            hash    the last drain that left its lane empty: id, start, end (ms)
`rh:lane:<lane>`                       hash    holder, until (ms), hold_until, hold_ms, paused, why, in_flight
`rh:destination:<destination>`         hash    paused, failures, open_until (ms), since (ms), why, refused
`rh:attempts:<destination>|<sort>`     list    the last attempts, `failed` or `passed` (`relay.buffer.attempts`)
`rh:sources:<lane>`                    set     sources with a queue in the lane
`rh:queue:<lane>|<source>`             zset    arrival number -> when it is due (ms): what waits to be delivered
`rh:left:<lane>`                       hash    arrival number -> `positions;tries` of its records still to settle
`rh:fence:<destination>|<table>`       hash    key -> newest version (and, of a set, its member keys) that was sent
`rh:waiting`                           set     sources of which events wait for what they name to be fetched
`rh:waiting:<source>|`                 zset    arrival number -> when it is due (ms): what waits to be fetched
`rh:waiting:tries`                     hash    arrival number -> how often what it names was asked for
`rh:fetching:<source>`                 string  there while a job fetches for the source; goes by itself
`rh:resting:<source>`                  string  why the vendor is left alone for a while; goes by itself
`rh:secret:<source>|<n>/<of>`          string  when its nth secret last fitted (s since 1970); goes by itself
`rh:refusals`                          hash    source -> what its refused deliveries lacked (`refused.Account`)
`rh:refused`                           zset    `<id>|<source>|<bytes>|<reason>` of a kept refused request -> when
`rh:refused:bytes`                     hash    source -> bytes of its kept refused requests; `*` -> of all
`rh:refused:<id>`                      string  one kept refused request, sealed; goes by itself after a day
`rh:metrics`                           hash    what processes measure (`relay.buffer.measures`)
`rh:pulse`                             hash    source -> when it last sent, how it pauses (`relay.buffer.pulse`)
`rh:drift`                             hash    `<source>|<table>` -> how its rows differ from its declaration
`rh:imports:<client>`                  hash    number of a document import -> what it is, as JSON
`rh:documents:last`                    string  number of the last document import or execution
`rh:documents:clock`                   string  microseconds up to which rows of documents have their place in time
`rh:documents:uploads`                 zset    executions whose document is still being sent -> last chunk (ms)
`rh:documents:due`                     zset    executions that wait or run -> when the ticker looks after them (ms)
`rh:documents:errors`                  zset    executions with an error file -> when they ended (ms)
`rh:executions:<import>`               zset    numbers of an import's executions, by themselves
`rh:execution:<execution>`             hash    one execution (`relay.buffer.executions.Execution`)
`rh:execution:<execution>:chunks`      hash    number of a piece of its document -> that, compressed; in `rh:bytes`
`rh:execution:<execution>:errors`      list    pieces of its error file, compressed; goes after seven days
=====================================  ======  ================================================================

`rh:tail` is a channel, not a key: what was just taken, for `relay tail`.
A lane is `<destination>/<partition>/<partitions>`. All keys of a Redis are the relay's own: no cluster mode.
"""

from __future__ import annotations

from typing import Final

CLOCK: Final = "rh:clock"
EVENTS: Final = "rh:events"
REFS: Final = "rh:refs"
BYTES: Final = "rh:bytes"
LEDGER: Final = "rh:ledger"
SCHEMAS: Final = "rh:schemas"
QUARANTINE: Final = "rh:quarantine"
WAITERS: Final = "rh:waiting"
TRIES: Final = "rh:waiting:tries"
DEAD: Final = "rh:dead"
DEAD_COUNT: Final = "rh:deadcount"
LANES: Final = "rh:lanes"
TAIL: Final = "rh:tail"
PARKED: Final = "rh:parked"
API_KEYS: Final = "rh:keys"
API_KEYS_USED: Final = "rh:keys:used"
CLIENTS: Final = "rh:clients"
ADMINS: Final = "rh:admins"
ADMINS_SEEN: Final = "rh:admins:seen"
ACTS: Final = "rh:console:acts"
LOGINS_REFUSED: Final = "rh:console:refused"
SAMPLES_HOUR: Final = "rh:samples:hour"
SAMPLES_DAY: Final = "rh:samples:day"
NUMBERS: Final = "rh:numbers"
EXPORTS: Final = "rh:exports"
LAST_EXPORT: Final = "rh:exports:last"
UPDATE: Final = "rh:update"
ALARMS: Final = "rh:alarms"
ALERTED: Final = "rh:alerted"
UNSENT: Final = "rh:alerts:unsent"
SENDING: Final = "rh:alerts:sending"
REFUSALS: Final = "rh:refusals"
REFUSED: Final = "rh:refused"
REFUSED_BYTES: Final = "rh:refused:bytes"
DRIFT: Final = "rh:drift"
METRICS: Final = "rh:metrics"
PULSE: Final = "rh:pulse"
DOCUMENTS_LAST: Final = "rh:documents:last"
DOCUMENTS_CLOCK: Final = "rh:documents:clock"
DOCUMENTS_UPLOADS: Final = "rh:documents:uploads"
DOCUMENTS_DUE: Final = "rh:documents:due"
DOCUMENTS_ERRORS: Final = "rh:documents:errors"
#: The destination of the lane in which every event goes to the archive.
ARCHIVE: Final = "archive"


def seen_day(day: int) -> str:
    """Delivery ids taken on a day, counted from 1970."""
    return f"rh:seen:{day}"


def seen_slot(slot: int) -> str:
    """Bodies without an id taken in a slot of minutes, counted from 1970."""
    return f"rh:seen:m:{slot}"


def lane_name(destination: str, partition: int, partitions: int) -> str:
    """The name of one lane of a destination."""
    return f"{destination}/{partition}/{partitions}"


def archives(lane_: str) -> bool:
    """Whether a lane is the archive's: its events are on the ledger already."""
    return lane_.startswith(f"{ARCHIVE}/")


def lane(name: str) -> str:
    """A lane's state."""
    return f"rh:lane:{name}"


def destination(name: str) -> str:
    """How a destination is doing: its breaker, and whether a person paused it."""
    return f"rh:destination:{name}"


def attempts(name: str, *, failed: bool) -> str:
    """The last attempts at a destination."""
    return f"rh:attempts:{name}|{'failed' if failed else 'passed'}"


def lane_sources(name: str) -> str:
    """The sources that have a queue in a lane."""
    return f"rh:sources:{name}"


def queue(lane_: str, source: str) -> str:
    """What of one source waits in a lane."""
    return f"rh:queue:{lane_}|{source}"


def waiting(source: str) -> str:
    """Events of a source that wait for what they name to be fetched."""
    return f"rh:waiting:{source}|"


def fetching(source: str) -> str:
    """There while a job fetches for a source."""
    return f"rh:fetching:{source}"


def resting(source: str) -> str:
    """There while nothing is fetched for a source."""
    return f"rh:resting:{source}"


def left(lane_: str) -> str:
    """Events of a lane of which some records are settled."""
    return f"rh:left:{lane_}"


def fence(destination: str, table: str) -> str:
    """The newest versions sent of one table."""
    return f"rh:fence:{destination}|{table}"


def secret(source: str, number: int, of: int) -> str:
    """When a delivery last fitted one of a source's secrets, by its place among so many."""
    return f"rh:secret:{source}|{number}/{of}"


def refused(id_: str) -> str:
    """One kept refused request."""
    return f"rh:refused:{id_}"


def admin_link(digest: str) -> str:
    """A one-time link at which an admin sets a password."""
    return f"rh:admin:link:{digest}"


def admin_session(digest: str) -> str:
    """One session of the console."""
    return f"rh:admin:session:{digest}"


def admin_tries(bucket: str) -> str:
    """Attempts to log in that fall into a bucket."""
    return f"rh:admin:tries:{bucket}"


def look(token: str) -> str:
    """Something that the console had looked for."""
    return f"rh:look:{token}"


def export(number: int) -> str:
    """One raw export."""
    return f"rh:export:{number}"


def answer(token: str) -> str:
    """Where the answer to a question is put."""
    return f"rh:answer:{token}"


def imports(client: int) -> str:
    """The document imports of one API client."""
    return f"rh:imports:{client}"


def executions(number: int) -> str:
    """The executions of one document import."""
    return f"rh:executions:{number}"


def execution(number: int) -> str:
    """One execution; its document and its error file are beside it."""
    return f"rh:execution:{number}"
