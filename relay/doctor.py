"""Why a delivery was refused: the one change under which its proof would have fitted. Pure: no I/O, no clock.

What is found is for the operator, never for the caller. A finding holds names that are configured, names of
headers, the sender's address and numbers; no secret, no signature, nothing of a body. The work is bounded: `_WORK`
bytes are hashed for one delivery, the likeliest changes first, and only small bodies are written anew.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from relay.errors import MalformedPayload, Unauthenticated
from relay.records import NS, Request, decode_json, encode_json
from relay.signatures import ALGORITHMS, AnyOf, Basic, Hmac, Timestamp, Token, Verifier

#: Bytes hashed for one delivery, besides a few times its own body.
_WORK: Final = 32 * 1024 * 1024
_ATTEMPT: Final = 8_000  # what an attempt costs beside its body, as bytes of one
#: A larger body is not written anew.
MOST_REWRITTEN: Final = 1024 * 1024
_MOST_SECRETS: Final = 64
_MOST_HEADERS: Final = 6
#: Changes of a scheme's knobs that are made at once.
_MOST_CHANGES: Final = 3
_KEYS: Final = {
    "utf8": "as text, not decoded",
    "base64": "decoded from base64",
    "hex": "decoded from hex",
    "whsec": "decoded from base64 (after whsec_, where it begins so)",
}
#: Headers of any request, which are no signature of anything.
_COMMON: Final = re.compile(
    r"(accept|content|sec|cf|cdn)-.*|accept|connection|host|user-agent|date|via|forwarded|x-forwarded-.*|cookie"
    r"|x-request-id|traceparent|tracestate|x-real-ip"
)
_encode_sorted: Final = msgspec.json.Encoder(order="sorted", decimal_format="number").encode
_SIGNATURE: Final = re.compile(r"[\x21-\x7e]{16,1000}")
#: Refusals whose own words say what to mend; those are constants and names of settings, nothing of the request.
_TELLING: Final = frozenset({"secret_malformed", "batch_not_covered", "body_hash_wrong"})
_SET_CLOCK: Final = "set the clock (NTP), or find out what holds deliveries back or repeats them."


class Finding(msgspec.Struct, frozen=True):
    """What was found of one refused delivery.

    Args:
        kind: a constant word: `clock`, `secret`, `other_source`, `header`, `scheme`, `url`, `body`; or `unknown`
            where nothing that was tried makes the proof fit.
        hypothesis: a plain sentence: what would have made it fit, and what to do.
    """

    kind: str
    hypothesis: str


class Case(msgspec.Struct, frozen=True):
    """One refused delivery.

    Args:
        source: its name. verifier, secrets: its own. others: secrets of the other sources, by name.
        request: as it came. now: ns since 1970, as it was refused. reason: `Unauthenticated.reason`.
    """

    source: str
    verifier: Verifier
    secrets: tuple[str, ...]
    others: Mapping[str, tuple[str, ...]]
    request: Request
    now: int
    reason: str


class _Trial(msgspec.Struct, frozen=True):
    """One hypothesis: what is changed (None: as in the case), and what it would mean."""

    kind: str
    means: str
    verifier: Verifier | None = None
    secrets: tuple[str, ...] | None = None
    request: Request | None = None
    now: int | None = None


def diagnose(case: Case) -> Finding:
    """The first hypothesis that makes the delivery fit; of kind `unknown` with likely causes where none does."""
    late = _lateness(case)
    now = case.now if late is None else case.now - late
    left = _WORK + 4 * len(case.request.body)
    for trial in _trials(case, late):
        request, secrets = trial.request or case.request, trial.secrets or case.secrets
        left -= (len(request.body) + _ATTEMPT) * max(1, len(secrets))
        if left < 0:
            break
        try:
            (trial.verifier or case.verifier).verify(request, secrets, trial.now or now)
        except Unauthenticated:
            continue
        explained = late is None or trial.kind == "clock" or trial.now is not None
        return Finding(trial.kind, trial.means if explained else f"{trial.means} Besides, {_in_words(late)}.")
    return Finding("unknown", _unexplained(case, late))


def _trials(case: Case, late: int | None) -> Iterator[_Trial]:
    yield from _units(case)
    if late is not None:
        yield _Trial("clock", f"The signature fits, but {_in_words(late)}: {_SET_CLOCK}")
    yield from _secrets(case)
    yield from _tokens(case)
    yield from _schemes(case, 1, 1)
    yield from _urls(case)
    yield from _bodies(case)
    yield from _schemes(case, 2, _MOST_CHANGES)


def parts(verifier: Verifier) -> Iterator[Verifier]:
    """A verifier and the ones that it is made of, whoever wrote it."""
    yield verifier
    for value in getattr(verifier, "__dict__", {}).values():
        for inner in value if isinstance(value, tuple) else (value,):
            if hasattr(inner, "verify") and hasattr(inner, "sign"):
                yield from parts(inner)


def _of(kind: type[Any], case: Case) -> list[Any]:
    return [part for part in parts(case.verifier) if isinstance(part, kind)]


def _with(name: str, case: Case) -> list[Any]:
    """The parts that have something of this name: mechanisms are not all of one family."""
    return [part for part in parts(case.verifier) if getattr(part, name, None)]


# --- the clock ----------------------------------------------------------------------------------------


def _lateness(case: Case) -> int | None:
    """By how many ns the delivery's own time is before this machine's, where that is what refused it."""
    if case.reason != "timestamp_stale":
        return None
    times = (part.signed_at(case.request) for part in _with("signed_at", case))
    return next((case.now - at for at in times if at is not None), None)


def _in_words(late: int | None) -> str:
    late = late or 0
    return f"its timestamp is {abs(late) // NS} s {'behind' if late > 0 else 'ahead of'} this machine's clock"


# --- secrets ------------------------------------------------------------------------------------------

#: What may have happened to a secret on its way into the settings, or into the sender's.
_SPOILT: Final[tuple[tuple[Callable[[str], str], str], ...]] = (
    (str.strip, "has white space or a line end around it: take that away where it is stored"),
    (lambda s: "".join(s.split()), "has white space or a line end inside: take that away where it is stored"),
    (lambda s: s.strip().strip("'\"").strip(), "has quotation marks around it: take them away where it is stored"),
    (lambda s: f"{s}\n", "is stored at the sender with a line end behind it: enter it there anew, without"),
    (lambda s: f"{s}\r\n", "is stored at the sender with a line end behind it: enter it there anew, without"),
    (lambda s: f"{s} ", "is stored at the sender with a space behind it: enter it there anew, without"),
    (lambda s: f" {s}", "is stored at the sender with a space before it: enter it there anew, without"),
    (lambda s: f"whsec_{s}", "lacks its beginning whsec_: copy all of it"),
    (lambda s: s.removeprefix("whsec_"), "begins with whsec_, and the sender's does not: leave that out"),
)


def _secrets(case: Case) -> Iterator[_Trial]:
    for change, means in _SPOILT:
        changed = tuple(c for s in case.secrets if (c := change(s)) != s and c.strip())
        if changed:
            yield _Trial("secret", f"A secret of sources.{case.source}.secrets {means}.", secrets=changed)
    for name, secrets in itertools.islice(case.others.items(), _MOST_SECRETS):
        means = (
            f"It fits a secret of the source {name}: either the sender posts to the wrong address (/hooks/{name} "
            f"is meant), or that secret belongs into sources.{case.source}.secrets too."
        )
        theirs = (*secrets, *(s.strip() for s in secrets if s != s.strip()))
        if theirs:
            yield _Trial("other_source", means, secrets=theirs[:_MOST_SECRETS])


# --- where the proof stands, and how it is made -------------------------------------------------------


def _lookalikes(request: Request) -> list[str]:
    """Headers that may hold a signature; those come first that say so."""
    found = [
        name
        for name, value in itertools.islice(request.headers.items(), 200)
        if not _COMMON.fullmatch(name) and _SIGNATURE.fullmatch(value)
    ]
    likely = ("sign", "hmac", "hub", "auth", "token", "key")
    return sorted(found, key=lambda name: not any(word in name for word in likely))[:_MOST_HEADERS]


def _tokens(case: Case) -> Iterator[_Trial]:
    """Tokens that came elsewhere."""
    named = [n for n, v in itertools.islice(case.request.headers.items(), 200) if v and not _COMMON.fullmatch(n)]
    for part in _of(Token, case):
        for prefix in dict.fromkeys((part.prefix, "", "Bearer ", "Token ", "bearer ")):
            after = f"after the word {prefix.strip()!r}" if prefix else "with nothing before it"
            for name in (part.header, *named[:_MOST_SECRETS]):
                if name and (name, prefix) != (part.header, part.prefix):
                    means = f"The token came in the header {name[:60]}, {after}: {_mend(case)}"
                    yield _Trial("header", means, part.varied(header=name, prefix=prefix))
        for name in itertools.islice(case.request.query, 16):
            if name != part.query:
                means = f"The token came in the query field {name[:60]!r}: {_mend(case)}"
                yield _Trial("header", means, part.varied(header="", query=name))


def _mend(case: Case) -> str:
    return (
        f"change that at the sender, or describe the sender with kind: custom (sources.{case.source}.verify says "
        "where the proof stands and how it is made)."
    )


def _schemes(case: Case, least: int, most: int) -> Iterator[_Trial]:
    """Signatures under another name, or made in another way, by so many changes at once; fewer come first."""
    for part in _of(Hmac, case):
        names = [part.header, *_lookalikes(case.request)]
        begins = {_begin(case.request.headers.get(name, "")) for name in names}
        bare = not part.pair and not part.versions
        knobs = {
            "header": names,
            "prefix": ["", *sorted(begins)] if bare else [],
            "encoding": ["hex", "base64"],
            "algorithm": list(ALGORITHMS),
            "key": list(_KEYS),
        }
        choices = [dict.fromkeys((getattr(part, knob), *values)) for knob, values in knobs.items()]
        rows = (dict(zip(knobs, row, strict=True)) for row in itertools.product(*choices))
        every = ({k: v for k, v in row.items() if v != getattr(part, k)} for row in rows)
        for changed in sorted((c for c in every if least <= len(c) <= most), key=len):
            kind = "header" if "header" in changed else "scheme"
            means = f"It fits with {_knobs(part, changed)}: {_mend(case)}"
            yield _Trial(kind, means, part.varied(**changed))


def _begin(value: str) -> str:
    found = re.match(r"[\w-]{1,10}=", value)
    return found[0] if found else ""


def _knobs(part: Hmac, changed: Mapping[str, str]) -> str:
    said = {
        "header": lambda v: f"the signature from the header {v[:60]}, not {part.header or part.scheme}",
        "prefix": lambda v: f"{v!r} before the digest" if v else "nothing before the digest",
        "encoding": lambda v: f"the digest in {v}, not {part.encoding}",
        "algorithm": lambda v: f"the algorithm {v}, not {part.algorithm}",
        "key": lambda v: f"the secret {_KEYS[v]}",
    }
    return ", and ".join(said[knob](value) for knob, value in changed.items())


def _units(case: Case) -> Iterator[_Trial]:
    for part in _of(Hmac, case):
        for unit, word in (("s", "seconds"), ("ms", "milliseconds"), ("iso", "ISO 8601")):
            if part.timestamp is not None and unit != part.timestamp.unit:
                stamp: Timestamp = msgspec.structs.replace(part.timestamp, unit=unit)
                means = f"It fits with its timestamp read as {word}: {_mend(case)}"
                yield _Trial("scheme", means, part.varied(timestamp=stamp), now=case.now)


# --- what is signed -----------------------------------------------------------------------------------


def _covers_body(part: Any) -> bool:
    if isinstance(part, Hmac):
        return "body" in part.parts[1::2]
    return not isinstance(part, (Token, Basic, AnyOf)) and getattr(part, "covers_body", True) is not False


def _urls(case: Case) -> Iterator[_Trial]:
    """Addresses under which the sender may know this one."""
    if not any("url" in part.scheme for part in parts(case.verifier)):  # which says in words what is signed
        return
    request, headers = case.request, case.request.headers
    url = urlsplit(request.url)
    protos = dict.fromkeys(
        (url.scheme, headers.get("x-forwarded-proto", "").split(",")[0].strip(), "https", "http")
    )
    given = (
        headers.get(name, "").split(",")[0].strip() for name in ("x-forwarded-host", "host", "x-original-host")
    )
    hosts = dict.fromkeys((url.netloc, *given))
    before = headers.get("x-forwarded-prefix", "").rstrip("/")
    paths = dict.fromkeys((url.path, f"{before}{url.path}", f"/hooks/{case.source}", f"{url.path.rstrip('/')}/"))
    for proto, host, path in itertools.product(protos, hosts, paths):
        if proto not in ("http", "https") or not host:
            continue
        address = urlunsplit((proto, host.rpartition("@")[2], path, "", ""))
        for query in dict.fromkeys((url.query, "")):
            signed = urlunsplit((proto, host, path, query, ""))
            if signed == request.url:
                continue
            says = " without its query" if url.query and not query else ""
            means = (
                f"The sender signed the address {address[:200]}{says}: set sources.{case.source}.public_url to "
                "the address exactly as the sender has it."
            )
            yield _Trial("url", means, request=msgspec.structs.replace(request, url=signed))


def _bodies(case: Case) -> Iterator[_Trial]:
    """Bodies of which the one that came may have been made, on the way."""
    body = case.request.body
    if len(body) > MOST_REWRITTEN or not any(map(_covers_body, parts(case.verifier))):
        return
    advice = "something between the sender and here rewrites bodies; let it pass them on byte by byte."
    seen = {body}
    for says, changed in _written(body):
        if changed not in seen and len(changed) <= 2 * MOST_REWRITTEN:
            seen.add(changed)
            request = msgspec.structs.replace(case.request, body=changed)
            yield _Trial("body", f"The sender signed the body {says}: {advice}", request=request)


def _written(body: bytes) -> Iterator[tuple[str, bytes]]:
    yield "with a line end behind it", body + b"\n"
    yield "with a line end behind it", body + b"\r\n"
    yield "without the white space around it", body.strip()
    yield "with other line ends", body.replace(b"\r\n", b"\n")
    yield "with other line ends", body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    try:
        # Formatting leaves numbers and escapes as they are; only the second writes them anew.
        value = decode_json(body)
        sorted_ = _encode_sorted(value)
        forms = [("", body), (" with plain characters", encode_json(value)), (" with sorted fields", sorted_)]
        for (means, text), escapes in itertools.product(forms, ("", " and \\u escapes")):
            form = _escaped(text) if escapes else text
            for spaces, indent in (("as compact JSON", -1), ("as JSON with spaces", 0), ("as indented JSON", 2)):
                written, said = msgspec.json.format(form, indent=indent), f"{spaces}{means}{escapes}"
                yield said, written
                yield f"{said} and \\/ for /", written.replace(b"\\/", b"/").replace(b"/", b"\\/")
                yield f"{said} and a line end behind it", written + b"\n"
                yield f"{said} and a line end behind it", written + b"\r\n"
    except (MalformedPayload, msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError):
        return


def _escaped(text: bytes) -> bytes:
    """JSON with each character beyond ASCII as its escape; such characters stand only inside its strings."""
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text.decode("utf-8")).encode("ascii")


# --- nothing fits -------------------------------------------------------------------------------------


def _unexplained(case: Case, late: int | None) -> str:
    names = dict.fromkeys(part.header for part in _with("header", case))
    expected = " or ".join(names) or case.verifier.scheme
    if case.reason == "signature_missing":
        found = [name[:40] for name in _lookalikes(case.request)[:3]]
        there = f" Headers that came and may be one: {', '.join(found)}." if found else ""
        return (
            f"No proof came ({expected}): the sender does not sign, was set up without a secret, or a proxy takes "
            f"the header away.{there}"
        )
    if late is not None:
        return f"{_in_words(late).capitalize()}, and no secret fits either: an old delivery, or a forgery."
    if case.reason == "timestamp_stale":
        return f"Its time is too far from this machine's clock: {_SET_CLOCK}"
    if case.reason in _TELLING:
        try:
            case.verifier.verify(case.request, case.secrets, case.now)
        except Unauthenticated as error:
            here = f"Mend sources.{case.source}, or what is sent"
            return f"Nothing that was tried fits: {error}. {here}. The scheme: {case.verifier.scheme}."
    for name in _lost(case):
        return f"The header {name} did not come, and it is signed: find out what takes it away."
    if case.reason in ("signature_malformed", "timestamp_malformed"):
        return (
            f"The proof is not of the form that the scheme needs ({expected}), and nothing that was tried fits: "
            f"compare the sender's documentation with the scheme. The scheme: {case.verifier.scheme}."
        )
    settings = {part.ring.setting for part in _with("ring", case)} - {"secrets"}
    keys = "".join(f", and the sender's public keys into `{name}`" for name in settings)
    return (
        "Nothing that was tried fits: copy the signing secret of this very webhook into "
        f"sources.{case.source}.secrets again{keys}. Where it is right, somebody else posts to this address, or "
        "something on the way changes the body."
    )


def _lost(case: Case) -> Iterator[str]:
    """Headers that are signed and did not come."""
    for part in _with("header", case):
        stamp, aliases = getattr(part, "timestamp", None), getattr(part, "aliases", {})
        for name in (getattr(part, "id_header", ""), stamp.header.lower() if stamp else ""):
            if name and name not in case.request.headers and aliases.get(name) not in case.request.headers:
                yield name
