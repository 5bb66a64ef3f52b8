"""Texts of others without what they tell of people: only words that are known to tell nothing are left.

A database quotes the value that it refuses, with or without quotation marks, so it is not said here what must go:
what may stay is, the words that errors are made of and the names that the settings themselves declare.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection
from typing import Final

#: Stands for whatever is left out.
LEFT_OUT: Final = "…"
_TOKEN: Final = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|\w+|\s+|.", re.DOTALL)
_REST: Final = re.compile(rf"{LEFT_OUT}(?:[^\w{LEFT_OUT}]*{LEFT_OUT})+")
_PUNCTUATION: Final = frozenset(".,:;()[]=-<>/*%")
_MOST: Final = 2_000
_STATUS: Final = 3
_LIBRARIES: Final = """
    ConnectTimeout ConnectTimeoutError DataError DecodeError IncompleteRead IntegrityError InternalError
    InvalidURL NameResolutionError NewConnectionError OperationalError ProgrammingError ProtocolError ProxyError
    ReadTimeout ReadTimeoutError RedisError RemoteDisconnected ResponseError SSLError ValidationError
"""
_COMMON: Final = """
    a accept after again all allowed already also an and any aof api append are arguments as at attempt
    attribute attributes authenticated authentication authorized background bad be been before bigint body
    boolean broken but by bytes call cannot cast certificate character characters check child clients close
    closed column columns configuration conflict connect connected connection connections constraint contain
    contains content could count create current data database date deadlock decimal declared default delete
    delivered delivery denied detail detected did digits directory disconnected disk do does duplicate each else
    empty encoding end ended error event exceeded exceeds exist existing exists exit expected expired extra
    failed fails failure fault field fields file first float for forbidden foreign fork format found from fsync
    full function gateway given gone greater had has have header headers host if illegal import in index input
    insert instance integer internal into invalid is it items its json jsonb key key_missing keys kind known
    larger last later least left length less limit limited line list loaded loading lock locked long longer lost
    malformed malformed_payload many mapping mapping_failed matches max maximum maxmemory memory message method
    missing more most must name names negative network no none not not_json null nullable number numeric object
    of on one only oom open operation or order other ours out over overcommit overflow own parse parsed parsing
    partition password path permission permitted position positive precision primary privilege privileges
    problem process proxy quota range rate reached read ready reason received record records redirect redirects
    refused rejected relation remote replication request requests required reset resolve respond response retry
    role row rows rule said save saving schema secret server service set setting settings should shutdown
    signature sigterm size small snapshot socket some source ssl started state statement status stopped storage
    store string success syntax system table tables temporarily terminated text than that the them then there
    they this time timed timeout timestamp timestamptz tls to too transaction true twice type types unable
    unauthorized unavailable unexpected unique unix unknown unreachable unsupported until update upsert url user
    utf uuid valid value values varchar varying version view violates wait warning was when where which while
    with without write written wrong yaml year zero
"""
_WORDS: Final = frozenset(_COMMON.split())
#: Kinds of errors, as Python and the libraries call them.
_ERRORS: Final = frozenset(_LIBRARIES.split()) | {
    name for name, one in vars(builtins).items() if isinstance(one, type) and issubclass(one, BaseException)
}


def masked(text: str, names: Collection[str] = ()) -> str:
    """A text without whatever could be a value.

    Args:
        text: as somebody wrote it.
        names: that may stay too, such as of configured tables and their columns.
    """
    parts = list[str]()
    for token in _TOKEN.findall(text[:_MOST]):
        inner = token[1:-1] if token[0] in "\"'`" and len(token) > 1 else token
        known = inner in names or inner in _ERRORS or inner.lower() in _WORDS
        status = len(inner) == _STATUS and inner.isdecimal() and parts[-2:] == ["said", " "]
        if known or status or inner in _PUNCTUATION:
            parts.append(token)
        elif inner.isspace():
            parts.append(" ")
        elif not (inner.isascii() and len(inner) == 1 and not inner.isalnum()):
            parts.append(LEFT_OUT)
    return _REST.sub(LEFT_OUT, "".join(parts))
